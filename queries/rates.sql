-- How do the rates of hits and false alarms grow over training, as a model predicts its own last checkpoint?
--
-- The paper's rates of true and false positives and negatives of earlier checkpoints against the last one
-- (Biderman et al. 2023), over what both have seen and were evaluated on. Intervals are Wilson's, 95%, equal
-- windows as one cluster; those of fnr and tnr are the mirrors of those of tpr and fpr. Memorized sequences
-- are few, so a false positive rate looks small whatever the precision: decide by precision and recall_corpus
-- (predictors, checkpoints), not by these.
--
-- group: What predicts it
-- example: memoserve query rates --target 1.2m@1001
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: target (checkpoint, the last evaluated step of the largest evaluated model): what is predicted
-- parameter: predictors (checkpoint names, every earlier checkpoint of the target's model): what predicts
-- column: target: the predicted checkpoint
-- column: predictor: the predicting checkpoint
-- column: step: the predictor's training step
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: positives: memorized by the target, of what both have seen and were evaluated on
-- column: negatives: not memorized by the target, of the same
-- column: tpr: share of the positives that the predictor memorized (recall_seen), with its interval
-- column: fnr: share of the positives that it did not memorize, with its interval
-- column: fpr: share of the negatives that it memorized, with its interval
-- column: tnr: share of the negatives that it did not memorize, with its interval

WITH target AS MATERIALIZED (FROM the_target()),
asked AS MATERIALIZED (SELECT getvariable('predictors')::VARCHAR[] AS names),
predictor AS MATERIALIZED (
    SELECT p.suite, p.model, p.step, p.checkpoint, p.model_order, least(p.seen, t.seen) AS seen
    FROM the_checkpoints(NULL) p CROSS JOIN target t CROSS JOIN asked a
    WHERE p.checkpoint <> t.checkpoint
      AND (list_contains(a.names, p.checkpoint)
           OR (a.names IS NULL AND p.model = t.model AND p.step < t.step))
    LIMIT 100000
),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM target), false)),
-- The effective number of negatives: only repeated windows add to the sum of n_c squared.
target_negative AS MATERIALIZED (
    SELECT s.sequence_id, r.first_id
    FROM scores s JOIN target t USING (suite, model, step) JOIN repeat r USING (sequence_id)
    WHERE s.sequence_id < t.seen AND coalesce(s.matched_prefix, s.matches) <> 32
),
repeated AS (
    SELECT checkpoint, sum(n * n - n)::BIGINT AS excess FROM (
        SELECT p.checkpoint, n.first_id, count(*) AS n
        FROM scores s JOIN predictor p USING (suite, model, step) JOIN target_negative n USING (sequence_id)
        WHERE s.sequence_id < p.seen GROUP BY ALL
    ) GROUP BY ALL
),
counted AS (
    SELECT c.*, c.target_memorized_seen AS positives, c.evaluated_both - c.target_memorized_seen AS negatives,
           c.predictor_memorized - c.both_memorized AS false_positives,
           (c.evaluated_both - c.target_memorized_seen) ** 2
           / nullif(c.evaluated_both - c.target_memorized_seen
                    + CASE WHEN c.unit = 'sequences' THEN coalesce(r.excess, 0) ELSE 0 END, 0) AS effective
    FROM predictions((SELECT suite FROM target), (SELECT checkpoint FROM target),
                     (SELECT list(checkpoint) FROM predictor)) c
    LEFT JOIN repeated r ON r.checkpoint = c.predictor
)
SELECT t.checkpoint AS target, c.predictor, p.step, c.unit, c.positives, c.negatives,
       c.recall_seen AS tpr, c.recall_seen_low AS tpr_low, c.recall_seen_high AS tpr_high,
       1 - c.recall_seen AS fnr, 1 - c.recall_seen_high AS fnr_low, 1 - c.recall_seen_low AS fnr_high,
       false_positives / nullif(negatives, 0) AS fpr,
       share_low(false_positives, negatives, effective) AS fpr_low,
       share_high(false_positives, negatives, effective) AS fpr_high,
       1 - false_positives / nullif(negatives, 0) AS tnr,
       1 - share_high(false_positives, negatives, effective) AS tnr_low,
       1 - share_low(false_positives, negatives, effective) AS tnr_high
FROM counted c JOIN predictor p ON p.checkpoint = c.predictor CROSS JOIN target t
ORDER BY c.unit, p.model_order, p.step;
