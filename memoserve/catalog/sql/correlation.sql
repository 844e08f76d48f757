-- Pearson's r from the sums of x, y, x * x, y * y, x * y over n pairs of whole numbers: exact, whatever the
-- order of summing. NULL where one of them is constant.
CREATE MACRO pearson(n, x, y, xx, yy, xy) AS
    (n::HUGEINT * xy - x::HUGEINT * y)::DOUBLE
    / nullif(sqrt((n::HUGEINT * xx - x::HUGEINT * x)::DOUBLE)
             * sqrt((n::HUGEINT * yy - y::HUGEINT * y)::DOUBLE), 0);

-- 64 scores (0 to 32, NULL if not measured) as bits: which ids of a block have each binary digit of their
-- score, and which are measured at all. A sum of products of two checkpoints' scores is then a count of
-- common bits, 64 ids at a time. Signed, as bit_count takes nothing else of 64 bits. An aggregate over the
-- rows of a block.
CREATE MACRO bit_of(id) AS CASE WHEN id & 63 = 63 THEN -9223372036854775808 ELSE 1::BIGINT << (id & 63) END;
CREATE MACRO digits(score, id_bit) AS {
    'known': coalesce(bit_or(id_bit) FILTER (score IS NOT NULL), 0::BIGINT),
    'd1': coalesce(bit_or(id_bit) FILTER (score & 1 = 1), 0::BIGINT),
    'd2': coalesce(bit_or(id_bit) FILTER (score & 2 = 2), 0::BIGINT),
    'd4': coalesce(bit_or(id_bit) FILTER (score & 4 = 4), 0::BIGINT),
    'd8': coalesce(bit_or(id_bit) FILTER (score & 8 = 8), 0::BIGINT),
    'd16': coalesce(bit_or(id_bit) FILTER (score & 16 = 16), 0::BIGINT),
    'd32': coalesce(bit_or(id_bit) FILTER (score = 32), 0::BIGINT)};

-- Over those of a block's ids that are set in `ids`: the sum of the scores r, of the products of r and s, and
-- of the squares of r, all as digits. (A score of 32 has no other digit.)
CREATE MACRO sum_of(ids, r) AS
    bit_count(ids & r.d1)::INTEGER + 2 * bit_count(ids & r.d2)::INTEGER + 4 * bit_count(ids & r.d4)::INTEGER
    + 8 * bit_count(ids & r.d8)::INTEGER + 16 * bit_count(ids & r.d16)::INTEGER
        + 32 * bit_count(ids & r.d32)::INTEGER;
CREATE MACRO product_of(ids, r, s) AS
    sum_of(ids & r.d1, s) + 2 * sum_of(ids & r.d2, s) + 4 * sum_of(ids & r.d4, s) + 8 * sum_of(ids & r.d8, s)
    + 16 * sum_of(ids & r.d16, s) + 32 * sum_of(ids & r.d32, s);
CREATE MACRO square_of(ids, r) AS
    bit_count(ids & r.d1)::INTEGER + 4 * bit_count(ids & r.d2)::INTEGER + 16 * bit_count(ids & r.d4)::INTEGER
    + 64 * bit_count(ids & r.d8)::INTEGER + 256 * bit_count(ids & r.d16)::INTEGER
        + 1024 * bit_count(ids & r.d32)::INTEGER
    + 4 * bit_count(ids & r.d1 & r.d2)::INTEGER + 8 * bit_count(ids & r.d1 & r.d4)::INTEGER
    + 16 * bit_count(ids & r.d1 & r.d8)::INTEGER + 32 * bit_count(ids & r.d1 & r.d16)::INTEGER
    + 16 * bit_count(ids & r.d2 & r.d4)::INTEGER + 32 * bit_count(ids & r.d2 & r.d8)::INTEGER
    + 64 * bit_count(ids & r.d2 & r.d16)::INTEGER + 64 * bit_count(ids & r.d4 & r.d8)::INTEGER
    + 128 * bit_count(ids & r.d4 & r.d16)::INTEGER + 256 * bit_count(ids & r.d8 & r.d16)::INTEGER;

-- Sums over the pairs of the checkpoints `the_checkpoints` (names model@step), from which correlations
-- follow. One row a unit, pair (the smaller or earlier one first) and measure: matches, matched_prefix, or
-- memorized as 0 and 1. n; the sums of the scores x of the first and y of the second, of their squares and
-- products. Over what both have seen and were evaluated on, with the measure; if in_common, of that what lies
-- below `below`, what the one that has seen least has seen, and all were evaluated on. A window's score is
-- that of its first such occurrence. Held-out sequences never count.
CREATE MACRO pair_sums(the_suite, the_checkpoints, in_common) AS TABLE
-- _: as in predictions.
WITH _asked AS MATERIALIZED (
    SELECT the_suite AS suite, the_checkpoints AS names, in_common AS common
),
_chosen AS MATERIALIZED (
    SELECT c.suite, c.model, c.step, c.checkpoint, a.common,
           row_number() OVER (ORDER BY c.model_order, c.step) AS ordinal,
           count(*) OVER () AS checkpoints,
           CASE WHEN a.common THEN min(least(c.sequences_seen, c.trained)) OVER ()
               ELSE least(c.sequences_seen, c.trained) END AS seen
    FROM checkpoints c JOIN _asked a USING (suite) WHERE list_contains(a.names, c.checkpoint) LIMIT 100000
),
_repeat AS MATERIALIZED (FROM repeats((SELECT a.suite FROM _asked a), false)),
-- Of published lists no score is known of what they leave out: not memorized.
_block AS MATERIALIZED (
    SELECT ordinal, block, bit_or(bit) AS ids,
           coalesce(bit_or(bit) FILTER (coalesce(prefix, matches) = 32), 0::BIGINT) AS memorized,
           digits(prefix, bit) AS prefix
    FROM (
        SELECT c.ordinal, s.sequence_id >> 6 AS block, bit_of(s.sequence_id) AS bit, s.matches,
               s.matched_prefix AS prefix
        FROM scores s JOIN _chosen c USING (suite, model, step) WHERE s.sequence_id < c.seen
    ) GROUP BY ordinal, block
),
_matches AS MATERIALIZED (
    SELECT ordinal, block, digits(matches, bit) AS matches
    FROM (
        SELECT c.ordinal, s.sequence_id >> 6 AS block, bit_of(s.sequence_id) AS bit, s.matches
        FROM scores s JOIN _chosen c USING (suite, model, step)
        WHERE s.sequence_id < c.seen AND s.matches IS NOT NULL
    ) GROUP BY ordinal, block
),
-- What counts of a block: all, or what all checkpoints have.
_common AS MATERIALIZED (
    SELECT block, CASE WHEN any_value(a.common)
                            AND count(*) < (SELECT max(c.checkpoints) FROM _chosen c) THEN 0
                       WHEN any_value(a.common) THEN bit_and(ids) ELSE -1 END AS ids
    FROM _block CROSS JOIN _asked a GROUP BY block
),
-- All sequences, block by block.
_sequence AS (
    SELECT f.ordinal AS first_ordinal, s.ordinal AS second_ordinal, unnest([
        {'measure': 'memorized', 'n': sum(bit_count(o.ids & f.ids & s.ids)),
         'x': sum(bit_count(o.ids & s.ids & f.memorized)),
         'y': sum(bit_count(o.ids & f.ids & s.memorized)), 'xx': sum(bit_count(o.ids & s.ids & f.memorized)),
         'yy': sum(bit_count(o.ids & f.ids & s.memorized)),
         'xy': sum(bit_count(o.ids & f.memorized & s.memorized))},
        {'measure': 'matched_prefix', 'n': sum(bit_count(o.ids & f.prefix.known & s.prefix.known)),
         'x': sum(sum_of(o.ids & s.prefix.known, f.prefix)),
         'y': sum(sum_of(o.ids & f.prefix.known, s.prefix)),
         'xx': sum(square_of(o.ids & s.prefix.known, f.prefix)),
         'yy': sum(square_of(o.ids & f.prefix.known, s.prefix)),
         'xy': sum(product_of(o.ids, f.prefix, s.prefix))}
    ], recursive := true)
    FROM _block f JOIN _block s ON f.block = s.block AND f.ordinal < s.ordinal
    JOIN _common o ON o.block = f.block
    GROUP BY f.ordinal, s.ordinal
    UNION ALL
    SELECT f.ordinal, s.ordinal, 'matches', sum(bit_count(o.ids & f.matches.known & s.matches.known)),
           sum(sum_of(o.ids & s.matches.known, f.matches)), sum(sum_of(o.ids & f.matches.known, s.matches)),
           sum(square_of(o.ids & s.matches.known, f.matches)),
           sum(square_of(o.ids & f.matches.known, s.matches)), sum(product_of(o.ids, f.matches, s.matches))
    FROM _matches f JOIN _matches s ON f.block = s.block AND f.ordinal < s.ordinal
    JOIN _common o ON o.block = f.block
    GROUP BY f.ordinal, s.ordinal
),
-- What makes windows of them: repeated sequences leave, the first one of each window comes back.
_repeated AS MATERIALIZED (
    SELECT c.ordinal, s.sequence_id AS id, r.first_id, s.matches::INTEGER AS matches,
           s.matched_prefix::INTEGER AS prefix,
           coalesce(coalesce(s.matched_prefix, s.matches) = 32, false)::INTEGER AS memorized
    FROM scores s JOIN _chosen c USING (suite, model, step) JOIN _repeat r USING (sequence_id)
    JOIN _common o ON o.block = s.sequence_id >> 6
    WHERE s.sequence_id < c.seen AND o.ids & bit_of(s.sequence_id) <> 0
),
_item AS (
    SELECT ordinal, id, -1 AS weight, matches, prefix, memorized FROM _repeated
    UNION ALL
    SELECT ordinal, first_id, 1, min_by(matches, id), min_by(prefix, id), min_by(memorized, id)
    FROM _repeated
    GROUP BY ordinal, first_id
),
_change AS (
    -- + 0 * the other's: only pairs where both are measured count.
    SELECT f.ordinal AS first_ordinal, s.ordinal AS second_ordinal, unnest([
        {'measure': 'memorized', 'n': sum(f.weight), 'x': sum(f.weight * f.memorized),
         'y': sum(f.weight * s.memorized),
         'xx': sum(f.weight * f.memorized), 'yy': sum(f.weight * s.memorized),
         'xy': sum(f.weight * f.memorized * s.memorized)},
        {'measure': 'matches', 'n': sum(f.weight + 0 * f.matches * s.matches),
         'x': sum(f.weight * (f.matches + 0 * s.matches)),
         'y': sum(f.weight * (s.matches + 0 * f.matches)),
         'xx': sum(f.weight * (f.matches * f.matches + 0 * s.matches)),
         'yy': sum(f.weight * (s.matches * s.matches + 0 * f.matches)),
         'xy': sum(f.weight * f.matches * s.matches)},
        {'measure': 'matched_prefix', 'n': sum(f.weight + 0 * f.prefix * s.prefix),
         'x': sum(f.weight * (f.prefix + 0 * s.prefix)),
         'y': sum(f.weight * (s.prefix + 0 * f.prefix)),
         'xx': sum(f.weight * (f.prefix * f.prefix + 0 * s.prefix)),
         'yy': sum(f.weight * (s.prefix * s.prefix + 0 * f.prefix)),
         'xy': sum(f.weight * f.prefix * s.prefix)}
    ], recursive := true)
    FROM _item f JOIN _item s ON f.id = s.id AND f.weight = s.weight AND f.ordinal < s.ordinal
    GROUP BY f.ordinal, s.ordinal
),
_sum AS (
    SELECT 'sequences' AS unit, * FROM _sequence
    UNION ALL
    SELECT 'windows', first_ordinal, second_ordinal, measure, sum(n), sum(x), sum(y), sum(xx), sum(yy),
           sum(xy)
    FROM (FROM _sequence UNION ALL FROM _change)
    WHERE exists(SELECT 1 FROM sequences q JOIN _asked a ON q.suite = a.suite)
    GROUP BY ALL
)
SELECT t.unit, f.checkpoint AS first, s.checkpoint AS second, CASE WHEN f.common THEN f.seen END AS below,
       t.measure,
       t.n, t.x, t.y, t.xx, t.yy, t.xy, f.ordinal AS first_ordinal, s.ordinal AS second_ordinal
FROM _sum t JOIN _chosen f ON f.ordinal = t.first_ordinal JOIN _chosen s ON s.ordinal = t.second_ordinal;
