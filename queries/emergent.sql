-- Which sequences did the target memorize that no smaller model predicted?
--
-- The sequences behind the paper's emergent memorization (Biderman et al. 2023): memorized by the target,
-- though every cheaper run that has seen them (smaller models, each at its last evaluated step not after the
-- target's; or earlier checkpoints of the target's own model) scores below the threshold, in matches, or in
-- matched_prefix where matches were not measured. No threshold on such a predictor would have given a
-- warning. A window is listed once, under its first occurrence, and its score elsewhere is its best; a store
-- that doesn't number windows lists sequences. Lowest scores first; memoserve show gives the text,
-- emergent_counts the sums. What no cheaper run has seen and was evaluated on is not listed.
--
-- group: Over training
-- example: memoserve query emergent --against both --threshold 8
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: target (checkpoint, the last evaluated step of the largest evaluated model): what memorized them
-- parameter: against (smaller|earlier|both, smaller): the cheaper runs: smaller models, earlier checkpoints
--   or both
-- parameter: threshold (number, 16): the score, of 32, that no cheaper run reaches
-- parameter: rows (whole number, 100): how many rows at most
-- column: target: the checkpoint that memorized them
-- column: sequence_id: the first occurrence of the window
-- column: window_id: its number; empty if the store doesn't number windows
-- column: occurrences: how often the window occurs in what the target has seen; empty if the store doesn't
--   number windows
-- column: best_score: its best score in any cheaper run
-- column: best_checkpoint: the run with that score, the largest and latest of equals
-- column: compared: how many cheaper runs have seen it and were evaluated on it

WITH target AS MATERIALIZED (FROM the_target()),
other AS MATERIALIZED (
    SELECT p.suite, p.model, p.step, p.checkpoint, p.model_order, p.seen
    FROM the_checkpoints(NULL) p CROSS JOIN target t
    WHERE p.step <= t.step AND p.checkpoint <> t.checkpoint
      AND ((p.model_order < t.model_order
            AND coalesce(getvariable('against')::VARCHAR, 'smaller') IN ('smaller', 'both'))
           OR (p.model = t.model AND getvariable('against')::VARCHAR IN ('earlier', 'both')))
    QUALIFY p.model = t.model OR row_number() OVER (PARTITION BY p.model ORDER BY p.step DESC) = 1
    LIMIT 100000
),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM target), false)),
numbered AS (SELECT count(*) > 0 AS windows FROM (SELECT 1 FROM sequences JOIN target USING (suite) LIMIT 1)),
-- id is that of the window's first occurrence.
found AS MATERIALIZED (
    SELECT coalesce(r.first_id, m.sequence_id) AS id, count(*) AS memorized
    FROM memorized m JOIN target t USING (suite, model, step)
    LEFT JOIN repeat r ON r.sequence_id = m.sequence_id
    WHERE m.sequence_id < t.seen GROUP BY ALL
),
occurrence AS MATERIALIZED (
    SELECT r.sequence_id, r.first_id AS id FROM repeat r SEMI JOIN found f ON f.id = r.first_id
    UNION ALL
    SELECT f.id, f.id FROM found f ANTI JOIN repeat r ON r.sequence_id = f.id
),
elsewhere AS (
    SELECT x.id, o.checkpoint, o.model_order, o.step,
           max(coalesce(s.matches, s.matched_prefix))::INTEGER AS score
    FROM scores s JOIN other o USING (suite, model, step) JOIN occurrence x USING (sequence_id)
    WHERE s.sequence_id < o.seen AND coalesce(s.matches, s.matched_prefix) IS NOT NULL
    GROUP BY ALL
),
best AS MATERIALIZED (
    SELECT id, max(score) AS best_score, count(*) AS compared,
           first(checkpoint ORDER BY score DESC, model_order DESC, step DESC) AS best_checkpoint
    FROM elsewhere GROUP BY id
),
listed AS MATERIALIZED (
    SELECT * FROM best WHERE best_score < coalesce(getvariable('threshold')::DOUBLE, 16)
    ORDER BY best_score, id LIMIT coalesce(getvariable('rows')::BIGINT, 100)
),
repeated AS (
    SELECT l.id, count(*) AS occurrences FROM listed l JOIN repeat r ON r.first_id = l.id CROSS JOIN target t
    WHERE r.sequence_id < t.seen GROUP BY ALL
)
SELECT t.checkpoint AS target, l.id AS sequence_id, s.window_id,
       CASE WHEN n.windows THEN coalesce(r.occurrences, 1) END AS occurrences, l.best_score,
       l.best_checkpoint, l.compared
FROM listed l CROSS JOIN target t CROSS JOIN numbered n
LEFT JOIN (SELECT sequence_id, window_id FROM sequences JOIN target USING (suite)) s ON s.sequence_id = l.id
LEFT JOIN repeated r ON r.id = l.id
ORDER BY l.best_score, l.id;
