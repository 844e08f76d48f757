-- Do models agree on which sequences they match, and on which they memorize?
--
-- The paper's correlation of memorization scores between models: Pearson's r of the scores (matches; of the matched prefixes
-- beside it, which is all there is in extract runs) and phi, the same for memorized or not, for each pair of
-- checkpoints, over the training sequences that both have seen and were evaluated on. A window's score is that of its
-- first evaluated occurrence. This one has to join all scores of each pair: on hundreds of millions of rows it
-- takes minutes, where the questions about memorized sequences take seconds.
--
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: checkpoints (checkpoint names, the last evaluated step of every model): which checkpoints
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: first: the smaller checkpoint of the pair
-- column: second: the larger one
-- column: n: sequences or windows that both have seen and were evaluated on
-- column: first_memorized: the memorized ones of the first
-- column: second_memorized: the memorized ones of the second
-- column: both_memorized: memorized by both
-- column: pearson_matches: Pearson's r of matches; empty if not measured or constant
-- column: pearson_matched_prefix: Pearson's r of the matched prefixes; empty if not measured or constant
-- column: phi: Pearson's r of memorized or not; empty if constant

WITH asked AS MATERIALIZED (
    SELECT coalesce(getvariable('suite')::VARCHAR, (SELECT min(suite) FROM checkpoints WHERE evaluated > 0)) AS suite,
           getvariable('checkpoints')::VARCHAR[] AS names
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
    SELECT c.place, s.sequence_id AS id, s.matches::INTEGER AS matches, s.matched_prefix::INTEGER AS prefix,
           -- Neither is known of what published lists leave out: not memorized.
           coalesce(coalesce(s.matched_prefix, s.matches) = 32, false)::INTEGER AS memorized
    FROM scores s JOIN chosen c USING (suite, model, step)
    WHERE s.sequence_id < c.seen
),
repeated AS (
    SELECT place, first_id AS id, min_by(matches, s.id) AS matches, min_by(prefix, s.id) AS prefix,
           min_by(memorized, s.id) AS memorized
    FROM sequence s JOIN repeat r ON r.sequence_id = s.id GROUP BY ALL
),
item AS (
    SELECT 'sequences' AS unit, * FROM sequence
    UNION ALL
    SELECT 'windows', * FROM sequence s
    WHERE exists(SELECT 1 FROM sequences JOIN asked USING (suite))
      AND NOT exists(SELECT 1 FROM repeat r WHERE r.sequence_id = s.id)
    UNION ALL
    SELECT 'windows', * FROM repeated
),
pair AS (
    -- + 0 * the other's: only pairs where both are measured count.
    SELECT a.unit, a.place AS first_place, b.place AS second_place, count(*) AS n,
           sum(a.memorized)::BIGINT AS first_memorized, sum(b.memorized)::BIGINT AS second_memorized,
           sum(a.memorized * b.memorized)::BIGINT AS both_memorized,
           pearson(count(a.matches + b.matches), sum(a.matches + 0 * b.matches), sum(b.matches + 0 * a.matches),
                   sum(a.matches * a.matches + 0 * b.matches), sum(b.matches * b.matches + 0 * a.matches),
                   sum(a.matches * b.matches)) AS pearson_matches,
           pearson(count(a.prefix + b.prefix), sum(a.prefix + 0 * b.prefix), sum(b.prefix + 0 * a.prefix),
                   sum(a.prefix * a.prefix + 0 * b.prefix), sum(b.prefix * b.prefix + 0 * a.prefix),
                   sum(a.prefix * b.prefix)) AS pearson_matched_prefix
    FROM item a JOIN item b ON a.unit = b.unit AND a.id = b.id AND a.place < b.place
    GROUP BY ALL
)
SELECT p.unit, f.checkpoint AS first, s.checkpoint AS second, p.n, p.first_memorized, p.second_memorized,
       p.both_memorized, p.pearson_matches, p.pearson_matched_prefix,
       pearson(p.n, p.first_memorized, p.second_memorized, p.first_memorized, p.second_memorized, p.both_memorized) AS phi
FROM pair p JOIN chosen f ON f.place = p.first_place JOIN chosen s ON s.place = p.second_place
ORDER BY p.unit, p.first_place, p.second_place;
