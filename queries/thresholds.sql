-- What precision and recall does each threshold on a predictor's score give?
--
-- Beyond the paper, which predicts from memorized sequences alone: the whole precision-recall curve of one
-- predictor. Predicted is what has a signal of at least tau, the signal being continuation_ll, matches or
-- matched_prefix. Precision and recall_seen are over what both have seen and were evaluated on (with a
-- signal); recall_corpus is over all that the target has seen, where what the predictor has not seen counts
-- as not predicted. One row a value of the signal; of a log-likelihood's many values those where recall_seen
-- first reaches each percent. Reads all scores of the predictor. Intervals are Wilson's, 95%, equal windows
-- as one cluster.
--
-- group: Which predictor to choose
-- example: memoserve query thresholds --predictor 532k@1001 --recall 0.8
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: target (checkpoint, the last evaluated step of the largest evaluated model): what is predicted
-- parameter: predictor (checkpoint, the largest smaller model at its last evaluated step not after the
--   target's): what predicts
-- parameter: signal (continuation_ll|matches|matched_prefix, the first of these that the predictor has): the
--   signal
-- parameter: recall (number, 0.9): the recall_corpus wanted
-- column: target: the predicted checkpoint
-- column: predictor: the predicting checkpoint
-- column: signal: continuation_ll, matches or matched_prefix
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: average_precision: of the whole curve, the sum of each step in recall_seen times the precision
--   there
-- column: tau: the threshold
-- column: flagged: predicted to be memorized
-- column: hits: those of them that the target memorized
-- column: precision: hits / flagged, with its interval
-- column: recall_seen: share of what the target memorized of what both have seen, with its interval
-- column: recall_corpus: share of all that the target memorized, with its interval
-- column: wanted: whether this is the highest tau that reaches the wanted recall

WITH target AS MATERIALIZED (FROM the_target()),
predictor AS MATERIALIZED (
    SELECT p.suite, p.model, p.step, p.checkpoint, least(p.seen, t.seen) AS seen
    FROM the_checkpoints(NULL) p CROSS JOIN target t
    WHERE p.checkpoint <> t.checkpoint
      AND CASE WHEN getvariable('predictor') IS NULL THEN p.model_order < t.model_order AND p.step <= t.step
               ELSE p.checkpoint = getvariable('predictor')::VARCHAR END
    ORDER BY p.model_order DESC, p.step DESC
    LIMIT 1
),
asked AS MATERIALIZED (
    SELECT coalesce(getvariable('signal')::VARCHAR, CASE
                    WHEN count(s.continuation_ll) > 0 THEN 'continuation_ll'
                    WHEN count(s.matches) > 0 THEN 'matches' ELSE 'matched_prefix' END) AS signal
    FROM scores s JOIN predictor p USING (suite, model, step)
),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM target), false)),
numbered AS (SELECT count(*) > 0 AS windows FROM (SELECT 1 FROM sequences JOIN target USING (suite) LIMIT 1)),
hit AS MATERIALIZED (
    SELECT m.sequence_id FROM memorized m JOIN target t USING (suite, model, step)
    WHERE m.sequence_id < t.seen
),
-- What the target was evaluated on, as bitmaps of 64 ids; if that is all it has seen, nothing need be looked
-- up.
complete AS MATERIALIZED (
    SELECT complete FROM coverage((SELECT suite FROM target)) SEMI JOIN target USING (checkpoint)
),
evaluated AS MATERIALIZED (
    SELECT s.sequence_id >> 6 AS block, bit_or(bit_of(s.sequence_id)) AS ids
    FROM scores s
    JOIN (FROM (SELECT t.* FROM target t SEMI JOIN complete c ON NOT c.complete)
          LIMIT 1) t USING (suite, model, step)
    WHERE s.sequence_id < t.seen GROUP BY ALL
),
flagged AS (
    SELECT s.sequence_id, CASE a.signal WHEN 'continuation_ll' THEN s.continuation_ll::DOUBLE
                                        WHEN 'matches' THEN s.matches::DOUBLE
                                        WHEN 'matched_prefix' THEN s.matched_prefix::DOUBLE END AS tau
    FROM scores s JOIN predictor p USING (suite, model, step) CROSS JOIN asked a WHERE s.sequence_id < p.seen
),
-- first_id is NULL for all sequences together that are the only one of their window.
bin AS MATERIALIZED (
    SELECT r.first_id, f.tau, h.sequence_id IS NOT NULL AS hit, count(*) AS n
    FROM flagged f CROSS JOIN complete c LEFT JOIN evaluated e ON e.block = f.sequence_id >> 6
    LEFT JOIN hit h ON h.sequence_id = f.sequence_id LEFT JOIN repeat r ON r.sequence_id = f.sequence_id
    WHERE f.tau IS NOT NULL AND (c.complete OR e.ids & bit_of(f.sequence_id) <> 0) GROUP BY ALL
),
item AS MATERIALIZED (
    SELECT 'sequences' AS unit, first_id, tau, hit, n FROM bin
    UNION ALL
    SELECT 'windows', NULL, tau, hit, n FROM bin, numbered WHERE windows AND first_id IS NULL
    UNION ALL
    SELECT 'windows', NULL, max(tau), bool_or(hit), 1 FROM bin WHERE first_id IS NOT NULL GROUP BY first_id
),
-- What the target memorized and the predictor has not seen.
unseen AS MATERIALIZED (
    SELECT r.first_id, coalesce(r.first_id, m.sequence_id) >= p.seen AS window_unseen, m.sequence_id
    FROM memorized m JOIN target t USING (suite, model, step) CROSS JOIN predictor p
    LEFT JOIN repeat r ON r.sequence_id = m.sequence_id
    WHERE m.sequence_id >= p.seen AND m.sequence_id < t.seen
),
memorized_cluster AS (
    SELECT unit, first_id, sum(n) FILTER (seen) AS seen, sum(n) AS n FROM (
        SELECT unit, first_id, true AS seen, n FROM item WHERE hit
        UNION ALL
        SELECT 'sequences', first_id, false, 1 FROM unseen
        UNION ALL
        SELECT 'windows', NULL, false, count(DISTINCT coalesce(first_id, sequence_id)) FROM unseen, numbered
        WHERE windows AND window_unseen
    ) GROUP BY ALL
),
total AS MATERIALIZED (
    SELECT unit, coalesce(sum(seen), 0)::BIGINT AS seen, sum(n)::BIGINT AS n,
           sum(seen) ** 2 / nullif(sum(CASE WHEN first_id IS NULL THEN seen ELSE seen ** 2 END),
                                   0) AS seen_effective,
           sum(n) ** 2 / nullif(sum(CASE WHEN first_id IS NULL THEN n ELSE n ** 2 END), 0) AS effective
    FROM memorized_cluster GROUP BY unit
),
curve AS MATERIALIZED (
    SELECT unit, tau, new_hits, sum(new) OVER down::BIGINT AS flagged,
           sum(new_hits) OVER down::BIGINT AS hits,
           (sum(new) OVER down) ** 2 / (sum(squares) OVER down) AS effective
    FROM (
        SELECT unit, tau, sum(n) AS new, coalesce(sum(n) FILTER (hit), 0) AS new_hits,
               sum(CASE WHEN first_id IS NULL THEN n ELSE n * n END) AS squares
        FROM item GROUP BY unit, tau
    )
    WINDOW down AS (PARTITION BY unit ORDER BY tau DESC ROWS UNBOUNDED PRECEDING)
),
average AS (
    SELECT c.unit, sum(c.new_hits * (c.hits / c.flagged) ORDER BY c.tau)
           / nullif(any_value(t.seen), 0) AS average_precision
    FROM curve c LEFT JOIN total t USING (unit) GROUP BY c.unit
),
ranked AS (
    SELECT c.*, t.seen, t.n, t.seen_effective, t.effective AS corpus_effective,
           floor(100 * c.hits / nullif(t.seen, 0)) > coalesce(floor(100 * (c.hits - c.new_hits)
                                                            / nullif(t.seen, 0)), 0) AS step,
           coalesce(c.hits / nullif(t.n, 0) >= coalesce(getvariable('recall')::DOUBLE, 0.9), false) AS reached
    FROM curve c LEFT JOIN total t USING (unit)
),
marked AS (
    SELECT *, reached AND row_number() OVER (PARTITION BY unit, reached ORDER BY tau DESC) = 1 AS wanted
    FROM ranked
)
SELECT t.checkpoint AS target, p.checkpoint AS predictor, a.signal, m.unit, v.average_precision, m.tau,
       m.flagged, m.hits,
       m.hits / m.flagged AS precision, share_low(m.hits, m.flagged, m.effective) AS precision_low,
       share_high(m.hits, m.flagged, m.effective) AS precision_high,
       m.hits / nullif(m.seen, 0) AS recall_seen,
       share_low(m.hits, m.seen, m.seen_effective) AS recall_seen_low,
       share_high(m.hits, m.seen, m.seen_effective) AS recall_seen_high,
       m.hits / nullif(m.n, 0) AS recall_corpus,
       share_low(m.hits, m.n, m.corpus_effective) AS recall_corpus_low,
       share_high(m.hits, m.n, m.corpus_effective) AS recall_corpus_high, m.wanted
FROM marked m JOIN average v ON v.unit = m.unit CROSS JOIN target t CROSS JOIN predictor p CROSS JOIN asked a
WHERE a.signal <> 'continuation_ll' OR m.wanted OR m.step
ORDER BY m.unit, m.tau DESC;
