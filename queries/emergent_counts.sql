-- How much of what the target memorized did no smaller model predict, and would a lower threshold?
--
-- Sums of emergent, for several thresholds (Biderman et al. 2023 count what smaller models did not memorize:
-- threshold 32): of what the target memorized, the share that scores below the threshold in every cheaper run
-- that has seen it. Its complement is the recall of flagging whatever any cheaper run scores at least that
-- high. A window's score is its best; in sequences, all occurrences that the target memorized share it.
-- Intervals are Wilson's, 95%, equal windows as one cluster.
--
-- group: Over training
-- example: memoserve query emergent_counts --thresholds 8,16,32
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: target (checkpoint, the last evaluated step of the largest evaluated model): what memorized them
-- parameter: against (smaller|earlier|both, smaller): the cheaper runs: smaller models, earlier checkpoints
--   or both
-- parameter: thresholds (numbers, 1 2 4 8 16 24 32): scores, of 32, that no cheaper run reaches
-- column: target: the checkpoint that memorized them
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: target_memorized: memorized by the target, of what it has seen
-- column: compared: those of them that at least one cheaper run has seen and was evaluated on
-- column: threshold: the threshold
-- column: emergent: those of compared with a score below it in every cheaper run
-- column: share: emergent / compared, with its interval

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
item AS MATERIALIZED (
    SELECT 'sequences' AS unit, f.memorized AS n, b.best_score FROM found f LEFT JOIN best b USING (id)
    UNION ALL
    SELECT 'windows', 1, b.best_score FROM found f LEFT JOIN best b USING (id) CROSS JOIN numbered
    WHERE windows
),
total AS (
    SELECT unit, sum(n)::BIGINT AS target_memorized,
           coalesce(sum(n) FILTER (best_score IS NOT NULL), 0)::BIGINT AS compared,
           (sum(n) FILTER (best_score IS NOT NULL)) ** 2
               / sum(n * n) FILTER (best_score IS NOT NULL) AS effective
    FROM item GROUP BY unit
),
counted AS (
    SELECT t.*, h.threshold, coalesce(sum(i.n), 0)::BIGINT AS emergent
    FROM total t
    CROSS JOIN (SELECT DISTINCT unnest(coalesce(getvariable('thresholds')::DOUBLE[],
                                                [1, 2, 4, 8, 16, 24, 32])) AS threshold) h
    LEFT JOIN item i ON i.unit = t.unit AND i.best_score < h.threshold
    GROUP BY ALL
)
SELECT t.checkpoint AS target, c.unit, c.target_memorized, c.compared, c.threshold, c.emergent,
       c.emergent / nullif(c.compared, 0) AS share,
       share_low(c.emergent, c.compared, c.effective) AS share_low,
       share_high(c.emergent, c.compared, c.effective) AS share_high
FROM counted c CROSS JOIN target t
ORDER BY c.unit, c.threshold;
