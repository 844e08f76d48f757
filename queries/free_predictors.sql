-- How well does what is known without any model predict what the target memorized?
--
-- Beyond the paper, which predicts from cheaper runs: each feature (`memoserve features`, tables added to
-- them included) as a predictor at zero compute, beside each smaller model's last evaluated checkpoint that
-- is not after the target's, by its finest signal. What ranks higher is predicted first; of a feature,
-- whichever of its two directions has the higher average precision, which the target's own scores decide.
-- Over what the target has seen and was evaluated on; what has no value, or what a run has not seen, is
-- predicted last.
--
-- group: Which predictor to choose
-- example: memoserve query free_predictors --precision 0.8
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: target (checkpoint, the last evaluated step of the largest evaluated model): what is predicted
-- parameter: precision (number, 0.8): recall is given where precision is at least this
-- column: target: the predicted checkpoint
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: predictor: the feature, or the predicting checkpoint
-- column: signal: high or low for a feature, as its high or low values are predicted; else the run's signal
-- column: flops_share: training compute as a share of the target's, 0 for a feature
-- column: average_precision: the sum over thresholds of each step in recall times the precision there
-- column: recall: the highest recall of a threshold with that precision, 0 if there is none
-- column: tau: that threshold
-- column: flagged: predicted to be memorized there
-- column: hits: those of them that the target memorized
-- column: memorized: all that the target memorized
-- column: evaluated: of so many

WITH target AS MATERIALIZED (FROM the_target()),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM target), false)),
numbered AS MATERIALIZED (
    SELECT count(*) > 0 AS windows FROM (SELECT 1 FROM sequences JOIN target USING (suite) LIMIT 1)
),
hit AS MATERIALIZED (
    SELECT m.sequence_id FROM memorized m JOIN target t USING (suite, model, step)
    WHERE m.sequence_id < t.seen
),
truth AS MATERIALIZED (
    SELECT s.sequence_id, coalesce(r.first_id, s.sequence_id) AS window_number,
           h.sequence_id IS NOT NULL AS hit,
           bool_or(h.sequence_id IS NOT NULL) OVER (
               PARTITION BY coalesce(r.first_id, s.sequence_id)) AS window_hit
    FROM scores s JOIN target t USING (suite, model, step)
    LEFT JOIN hit h ON h.sequence_id = s.sequence_id LEFT JOIN repeat r ON r.sequence_id = s.sequence_id
    WHERE s.sequence_id < t.seen
),
feature AS (
    UNPIVOT (
        SELECT COLUMNS(* EXCLUDE (suite, sequence_id, window_number, cluster, last_occurrence))::DOUBLE,
               sequence_id
        FROM features f SEMI JOIN target t ON t.suite = f.suite
    ) ON COLUMNS(* EXCLUDE (sequence_id)) INTO NAME predictor VALUE number
),
predictor AS MATERIALIZED (
    SELECT p.suite, p.model, p.step, p.checkpoint, least(p.seen, t.seen) AS seen,
           p.training_flops / nullif(t.training_flops, 0) AS flops_share
    FROM the_checkpoints(NULL) p CROSS JOIN target t
    WHERE p.model_order < t.model_order AND p.step <= t.step
    QUALIFY row_number() OVER (PARTITION BY p.model ORDER BY p.step DESC) = 1
),
finest AS MATERIALIZED (
    SELECT p.checkpoint, CASE WHEN count(s.continuation_ll) > 0 THEN 'continuation_ll'
                              WHEN count(s.matches) > 0 THEN 'matches' ELSE 'matched_prefix' END AS signal
    FROM scores s JOIN predictor p USING (suite, model, step) GROUP BY p.checkpoint
),
ranked AS (
    SELECT predictor, unnest(['high', 'low']) AS signal, 0::DOUBLE AS flops_share, sequence_id,
           unnest([number, -number]) AS rank
    FROM feature
    UNION ALL
    SELECT p.checkpoint, f.signal, p.flops_share, s.sequence_id,
           CASE f.signal WHEN 'continuation_ll' THEN s.continuation_ll::DOUBLE
                         WHEN 'matches' THEN s.matches::DOUBLE ELSE s.matched_prefix::DOUBLE END
    FROM scores s JOIN predictor p USING (suite, model, step) JOIN finest f USING (checkpoint)
    WHERE s.sequence_id < p.seen
),
item AS (
    SELECT 'sequences' AS unit, r.predictor, r.signal, r.flops_share, r.rank, t.hit, count(*) AS n
    FROM ranked r JOIN truth t USING (sequence_id) WHERE r.rank IS NOT NULL GROUP BY ALL
    UNION ALL
    SELECT 'windows', predictor, signal, flops_share, rank, hit, count(*)
    FROM (SELECT r.predictor, r.signal, r.flops_share, max(r.rank) AS rank, t.window_hit AS hit
          FROM ranked r JOIN truth t USING (sequence_id) CROSS JOIN numbered
          WHERE windows AND r.rank IS NOT NULL
          GROUP BY r.predictor, r.signal, r.flops_share, t.window_number, t.window_hit)
    GROUP BY ALL
),
total AS MATERIALIZED (
    SELECT 'sequences' AS unit, count(*) AS evaluated, count(*) FILTER (hit) AS memorized FROM truth
    UNION ALL
    SELECT 'windows', count(*), count(*) FILTER (window_hit)
    FROM (SELECT DISTINCT window_number, window_hit FROM truth, numbered WHERE windows)
),
curve AS (
    SELECT unit, predictor, signal, flops_share, rank, new_hits,
           sum(new_hits) OVER down::BIGINT AS hits, sum(new) OVER down::BIGINT AS flagged
    FROM (SELECT unit, predictor, signal, flops_share, rank, sum(n) AS new,
                 coalesce(sum(n) FILTER (hit), 0) AS new_hits
          FROM item GROUP BY ALL)
    WINDOW down AS (PARTITION BY unit, predictor, signal ORDER BY rank DESC ROWS UNBOUNDED PRECEDING)
),
summed AS (
    SELECT c.unit, c.predictor, c.signal, c.flops_share, t.memorized, t.evaluated,
           (sum(c.new_hits * (c.hits / c.flagged) ORDER BY c.rank)
            + (t.memorized - max(c.hits)) * t.memorized / t.evaluated)
           / nullif(t.memorized, 0) AS average_precision,
           arg_max({'rank': c.rank, 'flagged': c.flagged, 'hits': c.hits}, {'hits': c.hits, 'rank': c.rank})
           FILTER (c.hits / c.flagged >= coalesce(getvariable('precision')::DOUBLE, 0.8)) AS best
    FROM curve c JOIN total t USING (unit)
    GROUP BY c.unit, c.predictor, c.signal, c.flops_share, t.memorized, t.evaluated
)
SELECT t.checkpoint AS target, s.unit, s.predictor, s.signal, s.flops_share, s.average_precision,
       coalesce(s.best.hits, 0) / nullif(s.memorized, 0) AS recall,
       CASE WHEN s.signal = 'low' THEN -s.best.rank ELSE s.best.rank END AS tau,
       coalesce(s.best.flagged, 0) AS flagged, coalesce(s.best.hits, 0) AS hits, s.memorized, s.evaluated
FROM summed s CROSS JOIN target t
QUALIFY s.signal NOT IN ('high', 'low')
        OR row_number() OVER (PARTITION BY s.unit, s.predictor
                              ORDER BY s.average_precision DESC, s.signal) = 1
ORDER BY s.unit, s.average_precision DESC, s.predictor;
