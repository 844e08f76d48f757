-- How much is memorized for the first time at each checkpoint, and does it stay?
--
-- Sums of first_memorized: when a model memorizes, and whether what it memorizes at once or late stays to the
-- last evaluated checkpoint. The paper (Biderman et al. 2023) counts what is memorized at each checkpoint;
-- this counts what is new there. Where the last rows add little, the earlier checkpoints already know what
-- the last one leaks.
--
-- group: Over training
-- example: memoserve query first_memorized_counts --model 1.2m
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: model (model, the largest evaluated one): the model
-- column: checkpoint: the checkpoint
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: first_memorized: memorized by this one and by no earlier evaluated one
-- column: at_once: those of them that no earlier evaluated checkpoint had seen and was evaluated on
-- column: evaluated_last: those of first_memorized that the last evaluated checkpoint was evaluated on
-- column: memorized_last: those of them that it memorized
-- column: kept_share: memorized_last / evaluated_last, with its interval, equal windows as one cluster
-- column: cumulative_share: what was memorized first here or before, as a share of all that was memorized at
--   any checkpoint

WITH chosen AS MATERIALIZED (
    SELECT suite, checkpoint, step, max(step) OVER () AS last_step FROM the_model(NULL)
),
asked AS MATERIALIZED (SELECT DISTINCT suite FROM chosen),
unit AS (
    SELECT 'sequences' AS unit UNION ALL SELECT 'windows'
    WHERE exists(SELECT 1 FROM sequences JOIN asked USING (suite))
),
item AS (
    SELECT e.unit, e.id, e.window_number, min(c.step) FILTER (e.memorized) AS step,
           min(c.step) AS first_evaluated,
           count(*) FILTER (c.step = c.last_step) AS evaluated_last,
           count(*) FILTER (c.step = c.last_step AND e.memorized) AS memorized_last
    FROM evaluations((SELECT suite FROM asked), (SELECT list(checkpoint) FROM chosen)) e
    JOIN chosen c USING (checkpoint)
    GROUP BY ALL
    HAVING bool_or(e.memorized)
),
counted AS (
    SELECT unit, step, sum(n)::BIGINT AS first_memorized, sum(at_once)::BIGINT AS at_once,
           sum(evaluated_last)::BIGINT AS evaluated_last, sum(memorized_last)::BIGINT AS memorized_last,
           sum(evaluated_last) ** 2 / nullif(sum(evaluated_last ** 2), 0) AS effective
    FROM (
        SELECT unit, step, window_number, count(*) AS n, count(*) FILTER (first_evaluated = step) AS at_once,
               sum(evaluated_last) AS evaluated_last, sum(memorized_last) AS memorized_last
        FROM item GROUP BY ALL
    ) GROUP BY ALL
)
SELECT c.checkpoint, u.unit, coalesce(n.first_memorized, 0) AS first_memorized,
       coalesce(n.at_once, 0) AS at_once,
       coalesce(n.evaluated_last, 0) AS evaluated_last, coalesce(n.memorized_last, 0) AS memorized_last,
       n.memorized_last / nullif(n.evaluated_last, 0) AS kept_share,
       share_low(n.memorized_last, n.evaluated_last, n.effective) AS kept_share_low,
       share_high(n.memorized_last, n.evaluated_last, n.effective) AS kept_share_high,
       coalesce(sum(n.first_memorized) OVER (PARTITION BY u.unit ORDER BY c.step), 0)
       / nullif(sum(n.first_memorized) OVER (PARTITION BY u.unit), 0) AS cumulative_share
FROM chosen c CROSS JOIN unit u LEFT JOIN counted n ON n.unit = u.unit AND n.step = c.step
ORDER BY u.unit, c.step;
