-- How well does each smaller model's last checkpoint predict what the target memorized?
--
-- The paper's table of precision and recall of smaller models (Biderman et al. 2023): each smaller model
-- at its last evaluated step that is not after the target's. Precision is over what both have seen and were
-- evaluated on; recall_seen likewise; recall_corpus is over all that the target has seen, where what the
-- predictor has not seen counts as not predicted. Intervals are Wilson's, 95%, equal windows as one cluster.
--
-- group: What predicts it
-- example: memoserve query predictors --target 1.2m@1001
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: target (checkpoint, the last evaluated step of the largest evaluated model): what is predicted
-- column: target: the predicted checkpoint
-- column: predictor: the predicting checkpoint
-- column: parameters: the predictor's parameters
-- column: training_flops: the predictor's training compute, 6 x parameters x tokens
-- column: flops_share: that compute as a share of the target's
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: evaluated_both: what both have seen and were evaluated on
-- column: not_evaluated: what both have seen and only the target was evaluated on; left out of every count
-- column: predictor_memorized: memorized by the predictor, of evaluated_both
-- column: target_memorized_seen: memorized by the target, of evaluated_both
-- column: target_memorized: memorized by the target, of evaluated_both and what the predictor has not seen
-- column: both_memorized: memorized by both
-- column: precision: both_memorized / predictor_memorized, with its interval precision_low to precision_high
-- column: recall_seen: both_memorized / target_memorized_seen, with its interval
-- column: recall_corpus: both_memorized / target_memorized, with its interval
-- column: f1: harmonic mean of precision and recall_corpus

WITH target AS MATERIALIZED (FROM the_target()),
predictor AS MATERIALIZED (
    SELECT p.checkpoint, p.parameters, p.training_flops
    FROM the_checkpoints(NULL) p CROSS JOIN target t
    WHERE p.model_order < t.model_order AND p.step <= t.step
    QUALIFY row_number() OVER (PARTITION BY p.model ORDER BY p.step DESC) = 1
)
SELECT t.checkpoint AS target, c.predictor, p.parameters, p.training_flops,
       p.training_flops / nullif(t.training_flops, 0) AS flops_share, c.* EXCLUDE (predictor)
FROM predictions((SELECT suite FROM target), (SELECT checkpoint FROM target),
                 (SELECT list(checkpoint) FROM predictor)) c
JOIN predictor p ON p.checkpoint = c.predictor
CROSS JOIN target t
ORDER BY c.unit, p.parameters, c.predictor;
