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
    SELECT c.place, s.sequence_id AS id, s.matches, s.matched_prefix
    FROM scores s JOIN chosen c USING (suite, model, step)
    WHERE s.sequence_id < c.seen
),
repeated AS (
    SELECT place, first_id AS id, min_by(matches, s.id) AS matches, min_by(matched_prefix, s.id) AS matched_prefix
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
    SELECT a.unit, a.place AS first_place, b.place AS second_place, count(*) AS n,
           count(*) FILTER (coalesce(a.matched_prefix, a.matches) = 32) AS first_memorized,
           count(*) FILTER (coalesce(b.matched_prefix, b.matches) = 32) AS second_memorized,
           count(*) FILTER (coalesce(a.matched_prefix, a.matches) = 32
                            AND coalesce(b.matched_prefix, b.matches) = 32) AS both_memorized,
           corr(a.matches, b.matches) AS pearson_matches,
           corr(a.matched_prefix, b.matched_prefix) AS pearson_matched_prefix
    FROM item a JOIN item b ON a.unit = b.unit AND a.id = b.id AND a.place < b.place
    GROUP BY ALL
)
SELECT p.unit, f.checkpoint AS first, s.checkpoint AS second, p.n, p.first_memorized, p.second_memorized,
       p.both_memorized, CASE WHEN isfinite(p.pearson_matches) THEN p.pearson_matches END AS pearson_matches,
       CASE WHEN isfinite(p.pearson_matched_prefix) THEN p.pearson_matched_prefix END AS pearson_matched_prefix,
       (p.n::DOUBLE * p.both_memorized - p.first_memorized::DOUBLE * p.second_memorized)
       / nullif(sqrt(p.first_memorized::DOUBLE * (p.n - p.first_memorized)
                     * p.second_memorized * (p.n - p.second_memorized)), 0) AS phi
FROM pair p JOIN chosen f ON f.place = p.first_place JOIN chosen s ON s.place = p.second_place
ORDER BY p.unit, p.first_place, p.second_place;
