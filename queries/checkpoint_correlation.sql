-- Does a model match and memorize the same sequences at one checkpoint as at another?
--
-- The paper's correlation between checkpoints of one model (Biderman et al. 2023): as correlation, but over one common set for all
-- pairs, as the authors did: what the earliest of the checkpoints has seen and all were evaluated on. So a lower r means that the
-- model changed, not that other data came in. A window's score is that of its first evaluated occurrence.
-- Joins all scores of each pair. Checkpoints that have seen nothing are left out.
--
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: model (text, the largest evaluated one): the model
-- parameter: checkpoints (checkpoint names, every evaluated one of the model): which checkpoints
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: first: the earlier checkpoint of the pair
-- column: second: the later one
-- column: common_below: the common set lies below this sequence id
-- column: n: the common set's size
-- column: first_memorized: the memorized ones of the first
-- column: second_memorized: the memorized ones of the second
-- column: both_memorized: memorized by both
-- column: pearson_matches: Pearson's r of matches; empty if not measured or constant
-- column: pearson_matched_prefix: Pearson's r of the matched prefixes; empty if not measured or constant
-- column: phi: Pearson's r of memorized or not; empty if constant

WITH asked AS MATERIALIZED (
    SELECT suite, model, getvariable('checkpoints')::VARCHAR[] AS names FROM checkpoints
    WHERE evaluated > 0
      AND suite = coalesce(getvariable('suite')::VARCHAR, (SELECT min(suite) FROM checkpoints WHERE evaluated > 0))
      AND CASE WHEN getvariable('model') IS NOT NULL THEN model = getvariable('model')::VARCHAR
               ELSE coalesce(list_contains(names, checkpoint), true) END
    ORDER BY model_order DESC LIMIT 1
),
chosen AS MATERIALIZED (
    SELECT suite, model, step, checkpoint, min(least(sequences_seen, trained)) OVER () AS seen, count(*) OVER () AS checkpoints,
           row_number() OVER (ORDER BY step) AS place
    FROM checkpoints JOIN asked USING (suite, model)
    WHERE evaluated > 0 AND sequences_seen > 0 AND (names IS NULL OR list_contains(names, checkpoint))
    LIMIT 100000
),
common AS MATERIALIZED (
    SELECT s.sequence_id FROM scores s JOIN chosen c USING (suite, model, step) WHERE s.sequence_id < c.seen
    GROUP BY s.sequence_id HAVING count(*) = any_value(c.checkpoints)
),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM asked), false)),
sequence AS (
    SELECT c.place, s.sequence_id AS id, s.matches::INTEGER AS matches, s.matched_prefix::INTEGER AS prefix,
           -- Neither is known of what published lists leave out: not memorized.
           coalesce(coalesce(s.matched_prefix, s.matches) = 32, false)::INTEGER AS memorized
    FROM scores s JOIN chosen c USING (suite, model, step)
    WHERE s.sequence_id < c.seen AND s.sequence_id IN (SELECT sequence_id FROM common)
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
SELECT p.unit, f.checkpoint AS first, s.checkpoint AS second, f.seen AS common_below, p.n, p.first_memorized, p.second_memorized,
       p.both_memorized, p.pearson_matches, p.pearson_matched_prefix,
       pearson(p.n, p.first_memorized, p.second_memorized, p.first_memorized, p.second_memorized, p.both_memorized) AS phi
FROM pair p JOIN chosen f ON f.place = p.first_place JOIN chosen s ON s.place = p.second_place
ORDER BY p.unit, p.first_place, p.second_place;
