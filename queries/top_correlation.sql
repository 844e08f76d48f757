-- Do models agree on their most memorized sequences?
--
-- The paper's correlation restricted to a top percentile (Biderman et al. 2023). The authors correlate being in the top: 1 for a
-- sequence whose score is in the checkpoint's own top share, else 0, over everything; that is phi_top. Of equal scores at
-- the edge all are in, so a top may be larger than asked. Beside it Pearson's r of the scores among the sequences in the top of
-- the second, larger checkpoint alone. The score is matches, or matched_prefix where matches were not measured. A window's
-- score is that of its first evaluated occurrence. Joins all scores of each pair.
--
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: checkpoints (checkpoint names, the last evaluated step of every model): which checkpoints
-- parameter: top (number, 0.1): the top share, 0 to 1
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: first: the smaller checkpoint of the pair
-- column: second: the larger one
-- column: n: sequences or windows that both have seen and were evaluated on
-- column: first_threshold: the score from which on the first one's top begins, of all that it has seen
-- column: second_threshold: that of the second
-- column: first_top: those of n in the first one's top
-- column: second_top: those in the second's
-- column: both_top: those in both
-- column: phi_top: Pearson's r of being in the one's top and in the other's; empty if constant
-- column: pearson_second_top: Pearson's r of the scores over second_top; empty if constant

WITH asked AS MATERIALIZED (
    SELECT coalesce(getvariable('suite')::VARCHAR, (SELECT min(suite) FROM checkpoints WHERE evaluated > 0)) AS suite,
           getvariable('checkpoints')::VARCHAR[] AS names, coalesce(getvariable('top')::DOUBLE, 0.1) AS top
),
chosen AS MATERIALIZED (
    SELECT suite, model, step, checkpoint, least(sequences_seen, trained) AS seen,
           row_number() OVER (ORDER BY model_order, step) AS place
    FROM (
        SELECT * FROM checkpoints JOIN asked USING (suite)
        WHERE evaluated > 0 AND (names IS NULL OR list_contains(names, checkpoint))
        QUALIFY names IS NOT NULL OR row_number() OVER (PARTITION BY model ORDER BY step DESC) = 1
    )
    LIMIT 100000
),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM asked), false)),
sequence AS (
    SELECT c.place, s.sequence_id AS id, coalesce(s.matches, s.matched_prefix)::INTEGER AS score
    FROM scores s JOIN chosen c USING (suite, model, step)
    WHERE s.sequence_id < c.seen AND coalesce(s.matches, s.matched_prefix) IS NOT NULL
),
item AS (
    SELECT 'sequences' AS unit, * FROM sequence
    UNION ALL
    SELECT 'windows', * FROM sequence s
    WHERE exists(SELECT 1 FROM sequences JOIN asked USING (suite))
      AND NOT exists(SELECT 1 FROM repeat r WHERE r.sequence_id = s.id)
    UNION ALL
    SELECT 'windows', place, first_id, min_by(score, s.id)
    FROM sequence s JOIN repeat r ON r.sequence_id = s.id GROUP BY place, first_id
),
edge AS MATERIALIZED (
    SELECT unit, place, max(score) AS threshold FROM (
        SELECT unit, place, score, sum(count(*)) OVER (PARTITION BY unit, place ORDER BY score DESC) AS above,
               sum(count(*)) OVER (PARTITION BY unit, place) AS total
        FROM item GROUP BY unit, place, score
    ) CROSS JOIN asked
    WHERE above >= top * total GROUP BY unit, place
),
topped AS (
    SELECT i.unit, i.place, i.id, i.score, coalesce(i.score >= e.threshold, false)::INTEGER AS top
    FROM item i LEFT JOIN edge e USING (unit, place)
),
pair AS (
    SELECT a.unit, a.place AS first_place, b.place AS second_place, count(*) AS n, sum(a.top)::BIGINT AS first_top,
           sum(b.top)::BIGINT AS second_top, sum(a.top * b.top)::BIGINT AS both_top,
           pearson(sum(b.top), sum(a.score * b.top), sum(b.score * b.top), sum(a.score * a.score * b.top),
                   sum(b.score * b.score * b.top), sum(a.score * b.score * b.top)) AS pearson_second_top
    FROM topped a JOIN topped b ON a.unit = b.unit AND a.id = b.id AND a.place < b.place
    GROUP BY ALL
)
SELECT p.unit, f.checkpoint AS first, s.checkpoint AS second, p.n, x.threshold AS first_threshold,
       y.threshold AS second_threshold, p.first_top, p.second_top, p.both_top,
       pearson(p.n, p.first_top, p.second_top, p.first_top, p.second_top, p.both_top) AS phi_top, p.pearson_second_top
FROM pair p JOIN chosen f ON f.place = p.first_place JOIN chosen s ON s.place = p.second_place
LEFT JOIN edge x ON x.unit = p.unit AND x.place = p.first_place LEFT JOIN edge y ON y.unit = p.unit AND y.place = p.second_place
ORDER BY p.unit, p.first_place, p.second_place;
