-- Do models agree on which sequences they match, and on which they memorize?
--
-- The paper's correlation of memorization scores between models: Pearson's r of the scores (matches; of the
-- matched prefixes beside it, which is all there is in extract runs) and phi, the same for memorized or not,
-- for each pair of checkpoints, over the training sequences that both have seen and were evaluated on. A
-- window's score is that of its first evaluated occurrence. This one reads all scores: on a billion of them
-- it takes minutes, where the questions about memorized sequences take seconds.
--
-- group: Agreement
-- example: memoserve query correlation
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

WITH asked AS MATERIALIZED (SELECT the_suite() AS suite),
chosen AS MATERIALIZED (
    SELECT checkpoint FROM the_last_checkpoints(getvariable('checkpoints')::VARCHAR[])
),
pair AS (
    SELECT unit, first_ordinal, second_ordinal, any_value(first) AS first, any_value(second) AS second,
           any_value({'n': n, 'x': x, 'y': y, 'xy': xy}) FILTER (measure = 'memorized') AS memorized,
           any_value(pearson(n, x, y, xx, yy, xy)) FILTER (measure = 'matches') AS pearson_matches,
           any_value(pearson(n, x, y, xx, yy, xy))
               FILTER (measure = 'matched_prefix') AS pearson_matched_prefix,
           any_value(pearson(n, x, y, xx, yy, xy)) FILTER (measure = 'memorized') AS phi
    FROM pair_sums((SELECT suite FROM asked), (SELECT list(checkpoint) FROM chosen), false)
    GROUP BY ALL
)
SELECT unit, first, second, memorized.n::BIGINT AS n, memorized.x::BIGINT AS first_memorized,
       memorized.y::BIGINT AS second_memorized, memorized.xy::BIGINT AS both_memorized, pearson_matches,
       pearson_matched_prefix, phi
FROM pair
WHERE memorized.n > 0
ORDER BY unit, first_ordinal, second_ordinal;
