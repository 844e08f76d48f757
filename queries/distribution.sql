-- How are the scores distributed?
--
-- The paper's histogram of memorization scores, for each checkpoint, in sequences and in windows. matches is
-- the memorization score times 32 (score runs only); matched_prefix is how many tokens match before the first
-- miss. 33 bins, from 0 to 32 = memorized, the empty ones included. Training sequences seen, those not yet
-- seen, and held-out control ones apart.
--
-- group: How much is memorized
-- example: memoserve query distribution --checkpoints 532k@1001
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: checkpoints (checkpoint names, the last evaluated step of every model): which checkpoints
-- column: checkpoint: the checkpoint, model@step
-- column: measure: matches or matched_prefix
-- column: sample: seen, unseen (training sequences that come later) or control (held out)
-- column: score: 0 to 32
-- column: sequences: sequences with that score
-- column: share: their share of the sample
-- column: windows: distinct windows with that score; empty if the store doesn't number windows

WITH asked AS MATERIALIZED (SELECT the_suite() AS suite),
chosen AS MATERIALIZED (
    SELECT suite, model, step, checkpoint, model_order, trained, seen
    FROM the_last_checkpoints(getvariable('checkpoints')::VARCHAR[])
    LIMIT 100000
),
repeat AS MATERIALIZED (
    FROM repeats((SELECT suite FROM asked), false) UNION ALL FROM repeats((SELECT suite FROM asked), true)
),
numbered AS (SELECT count(*) > 0 AS windows FROM (SELECT 1 FROM sequences JOIN asked USING (suite) LIMIT 1)),
narrow AS NOT MATERIALIZED (
    SELECT model, step, sequence_id, matches, matched_prefix,
           CASE WHEN sequence_id >= trained THEN 'control' WHEN sequence_id >= seen THEN 'unseen'
               ELSE 'seen' END AS sample
    FROM scores JOIN chosen USING (suite, model, step)
),
bins AS (
    SELECT model, step, sample, matches, matched_prefix, count(*) AS n FROM narrow GROUP BY ALL
),
counted AS (
    SELECT model, step, sample, 'matches' AS measure, matches AS score, sum(n)::BIGINT AS sequences
    FROM bins WHERE matches IS NOT NULL GROUP BY ALL
    UNION ALL
    SELECT model, step, sample, 'matched_prefix', matched_prefix, sum(n)::BIGINT
    FROM bins WHERE matched_prefix IS NOT NULL GROUP BY ALL
),
-- Where only the memorized ones have a score (imports of published lists), there is no distribution to show.
partly AS (
    SELECT model, step, sample, 'matches' AS measure FROM bins WHERE matches IS NULL
    UNION
    SELECT model, step, sample, 'matched_prefix' FROM bins WHERE matched_prefix IS NULL
),
-- A window with n occurrences of one score counts once, so n - 1 come off the sequences.
repeated AS MATERIALIZED (
    SELECT n.model, n.step, n.sample, n.matches, n.matched_prefix, r.first_id
    FROM narrow n JOIN repeat r USING (sequence_id)
),
surplus AS (
    SELECT model, step, sample, 'matches' AS measure, matches AS score,
           count(*) - count(DISTINCT first_id) AS surplus
    FROM repeated WHERE matches IS NOT NULL GROUP BY ALL
    UNION ALL
    SELECT model, step, sample, 'matched_prefix', matched_prefix, count(*) - count(DISTINCT first_id)
    FROM repeated WHERE matched_prefix IS NOT NULL GROUP BY ALL
)
SELECT c.checkpoint, h.measure, h.sample, b.score, coalesce(d.sequences, 0) AS sequences,
       coalesce(d.sequences, 0) / h.total AS share,
       CASE WHEN n.windows THEN coalesce(d.sequences, 0) - coalesce(s.surplus, 0) END AS windows
FROM (
    SELECT model, step, measure, sample, sum(sequences)::BIGINT AS total
    FROM counted ANTI JOIN partly USING (model, step, measure, sample) GROUP BY ALL
) h
CROSS JOIN (SELECT unnest(range(33)) AS score) b
LEFT JOIN counted d USING (model, step, measure, sample, score)
LEFT JOIN surplus s USING (model, step, measure, sample, score)
JOIN chosen c USING (model, step)
CROSS JOIN numbered n
ORDER BY c.model_order, c.step, h.measure, CASE h.sample WHEN 'seen' THEN 0 WHEN 'unseen' THEN 1 ELSE 2 END,
         b.score;
