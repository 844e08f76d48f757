-- Is one predictor really better than another, on the same sequences?
--
-- Beyond the paper: the paired difference in recall_corpus and in precision of two predictors of one target.
-- Two separate intervals that overlap say little, as both predictors hit and miss the same sequences; this
-- takes the difference sequence by sequence, over what the target has seen and was evaluated on and neither
-- predictor lacks (what one has not seen it does not predict). Intervals are normal, 95%, from the linearized
-- variance (delta method) over windows as clusters: with few clusters, under 30 or so, or when only_predictor
-- and only_other are both near 0, they are too narrow.
--
-- group: Which predictor to choose
-- example: memoserve query difference --predictor 532k@1001 --other 116k@1001
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: target (checkpoint, the last evaluated step of the largest evaluated model): what is predicted
-- parameter: predictor (checkpoint, the largest smaller model at its last evaluated step): one; steps not
--   after the target's
-- parameter: other (checkpoint, the next smaller model at its last evaluated step): the other; steps likewise
-- column: target: the predicted checkpoint
-- column: predictor: one predicting checkpoint
-- column: other: the other
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: target_memorized: memorized by the target
-- column: both: those of them that both predictors memorized
-- column: only_predictor: those of them that only the first memorized
-- column: only_other: those of them that only the other memorized
-- column: clusters: distinct windows of target_memorized
-- column: recall_corpus: share of target_memorized that the first memorized
-- column: recall_corpus_other: share of target_memorized that the other memorized
-- column: recall_difference: recall_corpus - recall_corpus_other, with its interval
-- column: precision: share of what the first memorized that the target memorized
-- column: precision_other: share of what the other memorized that the target memorized
-- column: precision_difference: precision - precision_other, with its interval

WITH target AS MATERIALIZED (FROM the_target()),
-- Of each smaller model the last one, and those that are named.
usual AS MATERIALIZED (
    SELECT p.checkpoint, p.seen, p.model_order FROM the_checkpoints(NULL) p CROSS JOIN target t
    WHERE p.model_order < t.model_order AND p.step <= t.step
    QUALIFY row_number() OVER (PARTITION BY p.model ORDER BY p.step DESC) = 1
),
named AS MATERIALIZED (
    SELECT p.checkpoint, p.seen, p.model_order
    FROM the_checkpoints([getvariable('predictor')::VARCHAR, getvariable('other')::VARCHAR]) p
    CROSS JOIN target t
    WHERE p.step <= t.step AND p.checkpoint <> t.checkpoint
),
predictor AS MATERIALIZED (
    FROM named WHERE checkpoint = getvariable('predictor')::VARCHAR
    UNION ALL
    FROM usual
    WHERE getvariable('predictor') IS NULL AND checkpoint IS DISTINCT FROM getvariable('other')::VARCHAR
    ORDER BY model_order DESC LIMIT 1
),
other AS MATERIALIZED (
    FROM (
        FROM named WHERE checkpoint = getvariable('other')::VARCHAR
        UNION ALL
        FROM usual WHERE getvariable('other') IS NULL
    ) c SEMI JOIN predictor p ON p.checkpoint <> c.checkpoint
    ORDER BY model_order DESC LIMIT 1
),
evaluation AS MATERIALIZED (
    FROM evaluations((SELECT suite FROM target),
                     (SELECT [t.checkpoint, p.checkpoint, o.checkpoint] FROM target t, predictor p, other o))
),
item AS (
    SELECT i.unit, i.window_number, i.memorized::INTEGER AS t, coalesce(a.memorized, false)::INTEGER AS a,
           coalesce(b.memorized, false)::INTEGER AS b
    FROM evaluation i JOIN target x ON x.checkpoint = i.checkpoint CROSS JOIN predictor p CROSS JOIN other o
    LEFT JOIN evaluation a ON a.unit = i.unit AND a.id = i.id AND a.checkpoint = p.checkpoint
    LEFT JOIN evaluation b ON b.unit = i.unit AND b.id = i.id AND b.checkpoint = o.checkpoint
    WHERE (a.id IS NOT NULL OR i.id >= p.seen) AND (b.id IS NOT NULL OR i.id >= o.seen)
),
cluster AS MATERIALIZED (
    SELECT unit, window_number, sum(t)::BIGINT AS t, sum(a)::BIGINT AS a, sum(b)::BIGINT AS b,
           sum(a * t)::BIGINT AS a_hits,
           sum(b * t)::BIGINT AS b_hits, sum(a * b * t)::BIGINT AS abt
    FROM item GROUP BY ALL
),
total AS MATERIALIZED (
    SELECT *, a_hits / nullif(t, 0) AS recall_a, b_hits / nullif(t, 0) AS recall_b,
           a_hits / nullif(a, 0) AS precision_a,
           b_hits / nullif(b, 0) AS precision_b
    FROM (
        SELECT unit, sum(t)::BIGINT AS t, sum(a)::BIGINT AS a, sum(b)::BIGINT AS b,
               sum(a_hits)::BIGINT AS a_hits,
               sum(b_hits)::BIGINT AS b_hits, sum(abt)::BIGINT AS abt, count(*) FILTER (t > 0) AS clusters,
               count(*) FILTER (a + b > 0) AS flagged_clusters
        FROM cluster GROUP BY unit
    )
),
-- Each cluster's part in the linearized difference; they sum to 0, and their squares to its variance.
error AS (
    SELECT unit, any_value(clusters) / nullif(any_value(clusters) - 1, 0)
           * sum(recall * recall ORDER BY window_number) AS recall,
           any_value(flagged_clusters) / nullif(any_value(flagged_clusters) - 1, 0)
           * sum(precision * precision ORDER BY window_number) AS precision
    FROM (
        SELECT c.unit, c.window_number, t.clusters, t.flagged_clusters,
               (c.a_hits - c.b_hits - (t.recall_a - t.recall_b) * c.t) / nullif(t.t, 0) AS recall,
               (c.a_hits - t.precision_a * c.a) / nullif(t.a, 0)
                   - (c.b_hits - t.precision_b * c.b) / nullif(t.b, 0) AS precision
        FROM cluster c JOIN total t USING (unit)
    ) GROUP BY unit
)
SELECT x.checkpoint AS target, p.checkpoint AS predictor, o.checkpoint AS other, t.unit,
       t.t AS target_memorized,
       t.abt AS both, t.a_hits - t.abt AS only_predictor, t.b_hits - t.abt AS only_other, t.clusters,
       t.recall_a AS recall_corpus, t.recall_b AS recall_corpus_other,
       t.recall_a - t.recall_b AS recall_difference,
       t.recall_a - t.recall_b - 1.959963984540054 * sqrt(e.recall) AS recall_difference_low,
       t.recall_a - t.recall_b + 1.959963984540054 * sqrt(e.recall) AS recall_difference_high,
       t.precision_a AS precision, t.precision_b AS precision_other,
       t.precision_a - t.precision_b AS precision_difference,
       t.precision_a - t.precision_b - 1.959963984540054 * sqrt(e.precision) AS precision_difference_low,
       t.precision_a - t.precision_b + 1.959963984540054 * sqrt(e.precision) AS precision_difference_high
FROM total t JOIN error e USING (unit) CROSS JOIN target x CROSS JOIN predictor p CROSS JOIN other o
ORDER BY t.unit;
