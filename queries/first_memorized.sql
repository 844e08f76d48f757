-- At which checkpoint is each sequence memorized for the first time?
--
-- Beyond the paper's counts over training (Biderman et al. 2023): for each window that a model memorized at
-- any evaluated checkpoint, the first one at which it did, how often the model had read it by then, and what
-- became of it. Windows are listed once, under their first occurrence; a store that doesn't number windows
-- lists sequences. Latest first, then by id; first_memorized_counts has the sums.
--
-- group: Over training
-- example: memoserve query first_memorized --model 1.2m --rows 20
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: model (model, the largest evaluated one): the model
-- parameter: rows (whole number, 100): how many rows at most
-- column: sequence_id: the first occurrence of the window
-- column: window_id: its number; empty if the store doesn't number windows
-- column: first_memorized: the first evaluated checkpoint that memorized it
-- column: step: that one's training step
-- column: occurrences: how often the window occurs before that step; empty if the store doesn't number
--   windows
-- column: evaluated_before: evaluated earlier checkpoints that had seen it and had not memorized it
-- column: memorized_later: later evaluated checkpoints that memorized it too
-- column: not_memorized_later: later evaluated checkpoints that did not: forgotten there

WITH chosen AS MATERIALIZED (
    SELECT suite, checkpoint, step, seen FROM the_model(NULL)
),
asked AS MATERIALIZED (SELECT DISTINCT suite FROM chosen),
numbered AS (SELECT count(*) > 0 AS windows FROM (SELECT 1 FROM sequences JOIN asked USING (suite) LIMIT 1)),
evaluation AS MATERIALIZED (
    SELECT e.id, e.memorized, c.step
    FROM evaluations((SELECT suite FROM asked), (SELECT list(checkpoint) FROM chosen)) e
    JOIN chosen c USING (checkpoint) CROSS JOIN numbered n
    WHERE e.unit = CASE WHEN n.windows THEN 'windows' ELSE 'sequences' END
),
first AS (
    SELECT id, min(step) AS step FROM evaluation WHERE memorized GROUP BY id
    ORDER BY step DESC, id LIMIT coalesce(getvariable('rows')::BIGINT, 100)
),
listed AS MATERIALIZED (
    SELECT f.id, f.step, count(*) FILTER (e.step < f.step) AS evaluated_before,
           count(*) FILTER (e.step > f.step AND e.memorized) AS memorized_later,
           count(*) FILTER (e.step > f.step AND NOT e.memorized) AS not_memorized_later
    FROM first f JOIN evaluation e USING (id) GROUP BY ALL
),
occurrence AS (
    SELECT l.id, count(*) AS occurrences
    FROM repeats((SELECT suite FROM asked), false) r JOIN listed l ON l.id = r.first_id
    JOIN chosen c ON c.step = l.step
    WHERE r.sequence_id < c.seen GROUP BY ALL
)
SELECT l.id AS sequence_id, s.window_id, c.checkpoint AS first_memorized, l.step,
       CASE WHEN n.windows THEN coalesce(o.occurrences, 1) END AS occurrences,
       l.evaluated_before, l.memorized_later, l.not_memorized_later
FROM listed l JOIN chosen c USING (step) CROSS JOIN numbered n
LEFT JOIN (SELECT sequence_id, window_id FROM sequences JOIN asked USING (suite)) s ON s.sequence_id = l.id
LEFT JOIN occurrence o ON o.id = l.id
ORDER BY l.step DESC, l.id;
