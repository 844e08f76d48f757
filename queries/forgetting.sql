-- What does a model newly memorize, keep and forget from one checkpoint to the next?
--
-- The churn below the paper's curves over training (Biderman et al. 2023): each pair of successive evaluated
-- checkpoints of one model, over what the earlier one has seen and both were evaluated on, so that new data
-- counts nowhere. A high forgotten share means that an early checkpoint's false alarms are true memories lost
-- since. Intervals are Wilson's, 95%, equal windows as one cluster.
--
-- group: Over training
-- example: memoserve query forgetting --model 1.2m
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: model (model, the largest evaluated one): the model
-- column: earlier: the earlier checkpoint
-- column: later: the next evaluated one
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: newly_memorized: memorized by the later one alone, though seen by the earlier one
-- column: kept: memorized by both
-- column: forgotten: memorized by the earlier one alone
-- column: forgotten_share: forgotten / (kept + forgotten), with its interval
-- column: new_share: newly_memorized / (kept + newly_memorized), with its interval

WITH chosen AS MATERIALIZED (
    SELECT suite, checkpoint, step, lag(checkpoint) OVER (ORDER BY step) AS earlier FROM the_model(NULL)
),
asked AS MATERIALIZED (SELECT DISTINCT suite FROM chosen),
unit AS (
    SELECT 'sequences' AS unit UNION ALL SELECT 'windows'
    WHERE exists(SELECT 1 FROM sequences JOIN asked USING (suite))
),
evaluation AS MATERIALIZED (
    FROM evaluations((SELECT suite FROM asked), (SELECT list(checkpoint) FROM chosen))
),
cluster AS (
    SELECT l.unit, l.checkpoint, l.window_number, count(*) FILTER (e.memorized AND l.memorized) AS kept,
           count(*) FILTER (l.memorized AND NOT e.memorized) AS newly,
           count(*) FILTER (e.memorized AND NOT l.memorized) AS forgotten
    FROM evaluation l JOIN chosen c ON c.checkpoint = l.checkpoint
    JOIN evaluation e ON e.checkpoint = c.earlier AND e.unit = l.unit AND e.id = l.id
    GROUP BY ALL
),
counted AS (
    SELECT unit, checkpoint, sum(newly)::BIGINT AS newly, sum(kept)::BIGINT AS kept,
           sum(forgotten)::BIGINT AS forgotten,
           sum(kept + forgotten) ** 2 / nullif(sum((kept + forgotten) ** 2), 0) AS effective,
           sum(kept + newly) ** 2 / nullif(sum((kept + newly) ** 2), 0) AS later_effective
    FROM cluster GROUP BY ALL
)
SELECT c.earlier, c.checkpoint AS later, u.unit, coalesce(n.newly, 0) AS newly_memorized,
       coalesce(n.kept, 0) AS kept,
       coalesce(n.forgotten, 0) AS forgotten,
       n.forgotten / nullif(n.kept + n.forgotten, 0) AS forgotten_share,
       share_low(n.forgotten, n.kept + n.forgotten, effective) AS forgotten_share_low,
       share_high(n.forgotten, n.kept + n.forgotten, effective) AS forgotten_share_high,
       n.newly / nullif(n.kept + n.newly, 0) AS new_share,
       share_low(n.newly, n.kept + n.newly, later_effective) AS new_share_low,
       share_high(n.newly, n.kept + n.newly, later_effective) AS new_share_high
FROM chosen c CROSS JOIN unit u LEFT JOIN counted n ON n.unit = u.unit AND n.checkpoint = c.checkpoint
WHERE c.earlier IS NOT NULL
ORDER BY u.unit, c.step;
