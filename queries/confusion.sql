-- What does each predictor get right and wrong about what the target memorized?
--
-- The paper's confusion matrices of smaller models as predictors of what the target memorized (Biderman et
-- al. 2023), over what both have seen and were evaluated on: the four counts behind precision and
-- recall_seen. What the predictor has not seen it can't predict: target_memorized_unseen counts the misses
-- that come from there, so recall_corpus is tp / (tp + fn + target_memorized_unseen). Held-out sequences
-- never count.
--
-- group: What predicts it
-- example: memoserve query confusion --predictors 532k@1001
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: target (checkpoint, the last evaluated step of the largest evaluated model): what is predicted
-- parameter: predictors (checkpoint names, every smaller model at its last evaluated step not after the
--   target's): what predicts
-- column: target: the predicted checkpoint
-- column: predictor: the predicting checkpoint
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: evaluated_both: what both have seen and were evaluated on: tp + fp + fn + tn
-- column: not_evaluated: what both have seen and only the target was evaluated on; left out of every count
-- column: tp: true positives, memorized by both
-- column: fp: false positives, memorized by the predictor alone: false alarms
-- column: fn: false negatives, memorized by the target alone: undetected leaks, so recall matters most
-- column: tn: true negatives, memorized by neither
-- column: target_memorized_unseen: memorized by the target, not seen by the predictor

WITH target AS MATERIALIZED (FROM the_target()),
predictor AS MATERIALIZED (
    SELECT p.checkpoint, p.model_order, p.step
    FROM the_checkpoints(getvariable('predictors')::VARCHAR[]) p CROSS JOIN target t
    WHERE p.checkpoint <> t.checkpoint
      AND (getvariable('predictors') IS NOT NULL OR (p.model_order < t.model_order AND p.step <= t.step))
    QUALIFY getvariable('predictors') IS NOT NULL
        OR row_number() OVER (PARTITION BY p.model ORDER BY p.step DESC) = 1
)
SELECT t.checkpoint AS target, c.predictor, c.unit, c.evaluated_both, c.not_evaluated, c.both_memorized AS tp,
       c.predictor_memorized - c.both_memorized AS fp, c.target_memorized_seen - c.both_memorized AS fn,
       c.evaluated_both - c.predictor_memorized - c.target_memorized_seen + c.both_memorized AS tn,
       c.target_memorized - c.target_memorized_seen AS target_memorized_unseen
FROM predictions((SELECT suite FROM target), (SELECT checkpoint FROM target),
                 (SELECT list(checkpoint) FROM predictor)) c
JOIN predictor p ON p.checkpoint = c.predictor
CROSS JOIN target t
ORDER BY c.unit, p.model_order, p.step;
