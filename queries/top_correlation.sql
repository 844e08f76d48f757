-- Do models agree on their most memorized sequences?
--
-- The paper's correlation restricted to a top percentile (Biderman et al. 2023). The authors correlate being
-- in the top: 1 for a sequence whose score is in the checkpoint's own top share, else 0, over everything;
-- that is phi_top. Of equal scores at the edge all are in, so a top may be larger than asked. Beside it
-- Pearson's r of the scores among the sequences in the top of the second, larger checkpoint alone. The score
-- is matches, or matched_prefix where matches were not measured. A window's score is that of its first
-- evaluated occurrence. Reads all scores twice.
--
-- group: Agreement
-- example: memoserve query top_correlation --top 0.05
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

WITH asked AS MATERIALIZED (SELECT the_suite() AS suite, coalesce(getvariable('top')::DOUBLE, 0.1) AS top),
chosen AS MATERIALIZED (
    SELECT suite, model, step, checkpoint, seen, row_number() OVER (ORDER BY model_order, step) AS ordinal
    FROM the_last_checkpoints(getvariable('checkpoints')::VARCHAR[])
    LIMIT 100000
),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM asked), false)),
unit AS MATERIALIZED (
    SELECT 'sequences' AS unit UNION ALL SELECT 'windows'
    WHERE exists(SELECT 1 FROM sequences JOIN asked USING (suite))
),
-- What makes windows of sequences: repeated sequences leave, the first one of each window comes back.
repeated AS MATERIALIZED (
    SELECT c.ordinal, s.sequence_id AS id, r.first_id, coalesce(s.matches, s.matched_prefix)::INTEGER AS score
    FROM scores s JOIN chosen c USING (suite, model, step) JOIN repeat r USING (sequence_id)
    WHERE s.sequence_id < c.seen AND coalesce(s.matches, s.matched_prefix) IS NOT NULL
),
change AS MATERIALIZED (
    SELECT ordinal, id, -1 AS weight, score FROM repeated
    UNION ALL
    SELECT ordinal, first_id, 1, min_by(score, id) FROM repeated GROUP BY ordinal, first_id
),
histogram AS (
    SELECT c.ordinal, coalesce(s.matches, s.matched_prefix)::INTEGER AS score, count(*) AS n
    FROM scores s JOIN chosen c USING (suite, model, step)
    WHERE s.sequence_id < c.seen AND coalesce(s.matches, s.matched_prefix) IS NOT NULL GROUP BY ALL
),
edge AS MATERIALIZED (
    SELECT unit, ordinal, max(score) AS threshold FROM (
        SELECT unit, ordinal, score,
               sum(sum(n)) OVER (PARTITION BY unit, ordinal ORDER BY score DESC) AS above,
               sum(sum(n)) OVER (PARTITION BY unit, ordinal) AS total
        FROM (
            SELECT unit, ordinal, score, n FROM histogram CROSS JOIN unit
            UNION ALL
            SELECT 'windows', ordinal, score, weight FROM change
        ) GROUP BY unit, ordinal, score HAVING sum(n) > 0
    ) CROSS JOIN asked
    WHERE above >= top * total GROUP BY unit, ordinal
),
-- 64 sequences at a time: scores as digits, and what is in the top of its checkpoint's sequences and windows.
block AS MATERIALIZED (
    SELECT ordinal, block, digits(score, bit) AS score,
           coalesce(bit_or(bit) FILTER (score >= sequence_edge), 0::BIGINT) AS sequence_top,
           coalesce(bit_or(bit) FILTER (score >= window_edge), 0::BIGINT) AS window_top
    FROM (
        SELECT c.ordinal, s.sequence_id >> 6 AS block, bit_of(s.sequence_id) AS bit,
               coalesce(s.matches, s.matched_prefix) AS score,
               x.threshold AS sequence_edge, y.threshold AS window_edge
        FROM scores s JOIN chosen c USING (suite, model, step)
        LEFT JOIN edge x ON x.unit = 'sequences' AND x.ordinal = c.ordinal
        LEFT JOIN edge y ON y.unit = 'windows' AND y.ordinal = c.ordinal
        WHERE s.sequence_id < c.seen AND coalesce(s.matches, s.matched_prefix) IS NOT NULL
    ) GROUP BY ordinal, block
),
-- n, top ones of the first, of the second and of both; then of the second's top the sums of scores, squares
-- and products.
together AS (
    SELECT unit, first_ordinal, second_ordinal, sum(bit_count(known)) AS n,
           sum(bit_count(known & first_top)) AS first_top,
           sum(bit_count(known & second_top)) AS second_top,
           sum(bit_count(known & first_top & second_top)) AS both_top,
           sum(sum_of(known & second_top, f)) AS x, sum(sum_of(known & second_top, s)) AS y,
           sum(square_of(known & second_top, f)) AS xx, sum(square_of(known & second_top, s)) AS yy,
           sum(product_of(known & second_top, f, s)) AS xy
    FROM (
        SELECT u.unit, f.ordinal AS first_ordinal, s.ordinal AS second_ordinal,
               f.score.known & s.score.known AS known,
               CASE WHEN u.unit = 'sequences' THEN f.sequence_top ELSE f.window_top END AS first_top,
               CASE WHEN u.unit = 'sequences' THEN s.sequence_top ELSE s.window_top END AS second_top,
               f.score AS f, s.score AS s
        FROM block f JOIN block s ON f.block = s.block AND f.ordinal < s.ordinal CROSS JOIN unit u
    ) GROUP BY ALL
    UNION ALL
    SELECT 'windows', first_ordinal, second_ordinal, sum(weight), sum(weight * first_top),
           sum(weight * second_top),
           sum(weight * first_top * second_top), sum(weight * second_top * f), sum(weight * second_top * s),
           sum(weight * second_top * f * f), sum(weight * second_top * s * s),
           sum(weight * second_top * f * s)
    FROM (
        SELECT f.ordinal AS first_ordinal, s.ordinal AS second_ordinal, f.weight, f.score AS f, s.score AS s,
               coalesce(f.score >= x.threshold, false)::INTEGER AS first_top,
               coalesce(s.score >= y.threshold, false)::INTEGER AS second_top
        FROM change f JOIN change s ON f.id = s.id AND f.weight = s.weight AND f.ordinal < s.ordinal
        LEFT JOIN edge x ON x.unit = 'windows' AND x.ordinal = f.ordinal
        LEFT JOIN edge y ON y.unit = 'windows' AND y.ordinal = s.ordinal
    ) GROUP BY ALL
),
pair AS (
    SELECT unit, first_ordinal, second_ordinal, sum(n)::BIGINT AS n, sum(first_top)::BIGINT AS first_top,
           sum(second_top)::BIGINT AS second_top, sum(both_top)::BIGINT AS both_top,
           pearson(sum(second_top), sum(x), sum(y), sum(xx), sum(yy), sum(xy)) AS pearson_second_top
    FROM together GROUP BY ALL HAVING sum(n) > 0
)
SELECT p.unit, f.checkpoint AS first, s.checkpoint AS second, p.n, x.threshold AS first_threshold,
       y.threshold AS second_threshold, p.first_top, p.second_top, p.both_top,
       pearson(p.n, p.first_top, p.second_top, p.first_top, p.second_top, p.both_top) AS phi_top,
       p.pearson_second_top
FROM pair p JOIN chosen f ON f.ordinal = p.first_ordinal JOIN chosen s ON s.ordinal = p.second_ordinal
LEFT JOIN edge x ON x.unit = p.unit AND x.ordinal = p.first_ordinal
LEFT JOIN edge y ON y.unit = p.unit AND y.ordinal = p.second_ordinal
ORDER BY p.unit, p.first_ordinal, p.second_ordinal;
