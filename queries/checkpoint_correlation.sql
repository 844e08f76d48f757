-- Does a model match and memorize the same sequences at one checkpoint as at another?
--
-- The paper's correlation between checkpoints of one model (Biderman et al. 2023): as correlation, but over
-- one common set for all pairs, as the authors did: what the earliest of the checkpoints has seen and all
-- were evaluated on. So a lower r means that the model changed, not that other data came in. A window's score
-- is that of its first evaluated occurrence. Reads all scores. Checkpoints that have seen nothing are left
-- out.
--
-- group: Agreement
-- example: memoserve query checkpoint_correlation --model 1.2m
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: model (model, the largest evaluated one): the model
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

WITH chosen AS MATERIALIZED (
    SELECT suite, checkpoint FROM the_model(getvariable('checkpoints')::VARCHAR[]) WHERE sequences_seen > 0
),
pair AS (
    SELECT unit, first_ordinal, second_ordinal, any_value(first) AS first, any_value(second) AS second,
           any_value(below) AS common_below,
           any_value({'n': n, 'x': x, 'y': y, 'xy': xy}) FILTER (measure = 'memorized') AS memorized,
           any_value(pearson(n, x, y, xx, yy, xy)) FILTER (measure = 'matches') AS pearson_matches,
           any_value(pearson(n, x, y, xx, yy, xy))
               FILTER (measure = 'matched_prefix') AS pearson_matched_prefix,
           any_value(pearson(n, x, y, xx, yy, xy)) FILTER (measure = 'memorized') AS phi
    FROM pair_sums((SELECT any_value(suite) FROM chosen), (SELECT list(checkpoint) FROM chosen), true)
    GROUP BY ALL
)
SELECT unit, first, second, common_below, memorized.n::BIGINT AS n, memorized.x::BIGINT AS first_memorized,
       memorized.y::BIGINT AS second_memorized, memorized.xy::BIGINT AS both_memorized, pearson_matches,
       pearson_matched_prefix, phi
FROM pair
WHERE memorized.n > 0
ORDER BY unit, first_ordinal, second_ordinal;
