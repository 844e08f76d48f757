-- What queries stand on: views over the store's parts, and the few formulas that several of them share.

-- One row a checkpoint of a suite, evaluated or not. The counts come from Parquet metadata, no column is read.
CREATE VIEW checkpoints AS
WITH counts AS (SELECT suite, model, step, sum(rows) AS evaluated FROM part_rows GROUP BY ALL)
SELECT suite, model, step, model || '@' || step AS checkpoint, model_order, parameters,
       parameters_without_embeddings, sequences_seen, tokens_seen, training_flops,
       training_flops_without_embeddings, trained, coalesce(evaluated, 0)::BIGINT AS evaluated, weights, same_weights_as
FROM checkpoint_parts LEFT JOIN counts USING (suite, model, step);

-- One row a comparison of what was read with what else says something about it: the newest of each. model and step are
-- NULL where it is about the data, the suite or a whole model; checked_at is UTC.
CREATE VIEW checks AS
SELECT suite, model, step, name, subject, result, figure, detail, checked_at FROM check_parts
QUALIFY row_number() OVER (PARTITION BY suite, model, step, name, subject ORDER BY checked_at DESC, result, detail) = 1;

-- One row a sequence and checkpoint. A log-likelihood that is no number or infinite is of weights that can't be used, and
-- counts as not measured: DuckDB sorts NaN above every number. (-inf is a probability that vanished: it stays.) Added 0:
-- -0.0 equals 0.0, but shows as another number.
CREATE VIEW scores AS
SELECT * REPLACE (CASE WHEN continuation_ll < 'infinity'::FLOAT THEN continuation_ll + 0::FLOAT END AS continuation_ll)
FROM score_parts;

-- Checkpoints without a list of what they memorized that is of the parts that are there. The limit: see predictions.
CREATE VIEW unlisted AS
SELECT suite, model, step FROM score_listings ANTI JOIN memorized_listings USING (suite, model, step, listing) LIMIT 100000;

-- The memorized ones: from a list of them, if it is of the parts that are there; else from two narrow columns, never
-- from masks. That in two halves, each a filter that Parquet's statistics answer where they can; as one with OR it
-- costs three times as much.
CREATE VIEW memorized AS
SELECT suite, model, step, sequence_id FROM memorized_parts SEMI JOIN score_listings USING (suite, model, step, listing)
UNION ALL
SELECT suite, model, step, sequence_id FROM score_parts SEMI JOIN unlisted USING (suite, model, step)
WHERE matched_prefix = 32
UNION ALL
SELECT suite, model, step, sequence_id FROM score_parts SEMI JOIN unlisted USING (suite, model, step)
WHERE matches = 32 AND matched_prefix IS NULL;

-- One row a sequence: its window (equal windows have equal numbers), and whether it was held out of training.
CREATE VIEW sequences AS
SELECT suite, sequence_id, window_id, sequence_id >= trained AS control
FROM sequence_parts JOIN (SELECT suite, any_value(trained) AS trained FROM checkpoint_parts GROUP BY suite) USING (suite);

-- The sequences whose window occurs more than once in the suite: from the list of them, if it is of the parts that
-- are there; else each sequence, of which `repeats` finds the repeated ones.
CREATE VIEW repeat_candidates AS
SELECT suite, sequence_id, window_id FROM repeat_parts SEMI JOIN sequence_listings USING (suite, listing)
UNION ALL
-- The limit: see predictions.
SELECT suite, sequence_id, window_id FROM sequence_parts
SEMI JOIN (FROM (FROM sequence_listings ANTI JOIN repeat_listings USING (suite, listing)) LIMIT 100000) USING (suite);

-- Of one suite's trained sequences (of its held-out ones, if held_out), those whose window occurs more than
-- once, each with the first occurrence of that window. Every other sequence is its own window, so
-- coalesce(first_id, sequence_id) numbers the windows, and a checkpoint has seen a window if its number is
-- below sequences_seen.
CREATE MACRO repeats(the_suite, held_out) AS TABLE
WITH its_candidate AS NOT MATERIALIZED (
    SELECT r.sequence_id, r.window_id
    FROM repeat_candidates r
    JOIN (SELECT suite, any_value(trained) AS trained FROM checkpoint_parts GROUP BY suite) t USING (suite)
    WHERE r.suite = the_suite AND (r.sequence_id >= t.trained) = held_out
)
SELECT s.sequence_id, w.first_id
FROM its_candidate s JOIN (
    SELECT window_id, min(sequence_id) AS first_id FROM its_candidate GROUP BY window_id HAVING count(*) > 1
) w USING (window_id);

-- Wilson's 95% interval of a share; NULL without trials. trials may be an effective number: then scale successes
-- alike. At a share of 0 or 1 the near end is exactly that.
CREATE MACRO wilson_low(successes, trials) AS
    CASE WHEN trials > 0 AND successes <= 0 THEN 0.0 WHEN trials > 0 THEN greatest(0.0,
        (successes / trials + 1.959963984540054 ** 2 / (2 * trials)
         - 1.959963984540054 * sqrt(greatest(0.0, successes / trials * (1 - successes / trials)) / trials
                                    + 1.959963984540054 ** 2 / (4 * trials ** 2)))
        / (1 + 1.959963984540054 ** 2 / trials)) END;

CREATE MACRO wilson_high(successes, trials) AS
    CASE WHEN trials > 0 AND successes >= trials THEN 1.0 WHEN trials > 0 THEN least(1.0,
        (successes / trials + 1.959963984540054 ** 2 / (2 * trials)
         + 1.959963984540054 * sqrt(greatest(0.0, successes / trials * (1 - successes / trials)) / trials
                                    + 1.959963984540054 ** 2 / (4 * trials ** 2)))
        / (1 + 1.959963984540054 ** 2 / trials)) END;

-- Pearson's r from the sums of x, y, x * x, y * y, x * y over n pairs of whole numbers: exact, whatever the order of
-- summing. NULL where one of them is constant.
CREATE MACRO pearson(n, x, y, xx, yy, xy) AS
    (n::HUGEINT * xy - x::HUGEINT * y)::DOUBLE
    / nullif(sqrt((n::HUGEINT * xx - x::HUGEINT * x)::DOUBLE) * sqrt((n::HUGEINT * yy - y::HUGEINT * y)::DOUBLE), 0);

-- How well each of the checkpoints `the_predictors` (a list of names model@step) says what the checkpoint
-- `the_target` memorized. One row a predictor and unit (sequences; windows, if the store numbers them).
--   P: what the predictor memorized of what it has seen, as far as the target was evaluated on it
--   T: what the target memorized of what it has seen, as far as the predictor was evaluated on it (T_seen),
--      and beside that all that the predictor has not seen (T): there it predicts nothing
-- What the predictor has seen but was not evaluated on is left out (not_evaluated counts it).
-- Held-out sequences never count. Intervals take equal windows as one cluster.
CREATE MACRO predictions(the_suite, the_target, the_predictors) AS TABLE
-- its_: a name that an argument's own query also uses would capture it.
WITH its_asked AS MATERIALIZED (
    SELECT the_suite AS suite, the_target AS target, the_predictors AS predictors
),
its_target AS MATERIALIZED (
    SELECT c.suite, c.model, c.step, -1 AS place, least(c.sequences_seen, c.trained) AS seen
    FROM checkpoints c JOIN its_asked a ON c.suite = a.suite AND c.checkpoint = a.target
),
-- What 62 predictors said of an id fits into one number, a bit for each, with bit 62 for the target; more have several
-- such words. bound: the place of `seen` among all different ones, from 1 on.
its_predictor AS MATERIALIZED (
    SELECT c.suite, c.model, c.step, c.checkpoint, row_number() OVER (ORDER BY c.model_order, c.step) - 1 AS place,
           place // 62 AS word, 1::BIGINT << (place % 62) AS bit, least(c.sequences_seen, c.trained) AS seen,
           dense_rank() OVER (ORDER BY least(c.sequences_seen, c.trained)) AS bound
    FROM checkpoints c JOIN its_asked a USING (suite)
    WHERE list_contains(a.predictors, c.checkpoint) AND c.checkpoint <> a.target
),
its_bound AS MATERIALIZED (SELECT list(DISTINCT seen) AS bounds, min(seen) AS lowest FROM its_predictor),
-- The limit tells the optimizer that this is small; else it may build its hash table on the scores.
its_chosen AS MATERIALIZED (
    FROM (SELECT suite, model, step, place, word, bit, seen FROM its_predictor
          UNION ALL
          SELECT DISTINCT x.suite, x.model, x.step, x.place, p.word, 1::BIGINT << 62, x.seen FROM its_target x CROSS JOIN its_predictor p)
    LIMIT 100000
),
its_repeat AS MATERIALIZED (FROM repeats((SELECT a.suite FROM its_asked a), false)),
its_unit AS MATERIALIZED (
    SELECT 'sequences' AS unit
    UNION ALL
    SELECT 'windows' WHERE exists(SELECT 1 FROM sequences JOIN its_asked USING (suite))
),
-- Whether all of them were evaluated on everything that they have seen: then ids below `seen` are what counts, and
-- no scores need be read for it.
its_complete AS MATERIALIZED (
    SELECT bool_and(evaluated = seen) AS complete FROM (
        SELECT c.seen, coalesce(sum(least(p.last + 1, c.seen) - p.first) FILTER (
                   p.first < c.seen AND p.rows = p.last - p.first + 1), 0) AS evaluated
        FROM (SELECT DISTINCT suite, model, step, seen FROM its_chosen) c LEFT JOIN part_rows p USING (suite, model, step)
        GROUP BY c.suite, c.model, c.step, c.seen
    )
),
its_scanned AS MATERIALIZED (
    FROM (SELECT DISTINCT c.suite, c.model, c.step, c.place, c.seen FROM its_chosen c SEMI JOIN its_complete i ON NOT i.complete)
    LIMIT 100000
),
-- Which ids each checkpoint was evaluated on, as bitmaps of 64 ids: exact, and small enough to compare
-- checkpoints by, where a join of all rows is not.
its_evaluated_ids AS MATERIALIZED (
    SELECT c.place, sequence_id >> 6 AS block, bit_or(1::UBIGINT << (sequence_id & 63)::UBIGINT) AS ids
    FROM scores JOIN its_scanned c USING (suite, model, step)
    WHERE sequence_id < c.seen
    GROUP BY ALL
),
-- The same for windows: drop the repeated ids, and put in the first occurrence of what they repeat.
its_repeated_ids AS (
    SELECT sequence_id >> 6 AS block, bit_or(1::UBIGINT << (sequence_id & 63)::UBIGINT) AS ids FROM its_repeat GROUP BY ALL
),
its_evaluated AS MATERIALIZED (
    SELECT 'sequences' AS unit, place, block, ids FROM its_evaluated_ids
    UNION ALL
    SELECT 'windows', place, block, bit_or(ids) FROM (
        SELECT e.place, e.block, e.ids & ~coalesce(r.ids, 0::UBIGINT) AS ids
        FROM its_evaluated_ids e LEFT JOIN its_repeated_ids r USING (block)
        UNION ALL
        SELECT e.place, r.first_id >> 6, 1::UBIGINT << (r.first_id & 63)::UBIGINT
        FROM its_evaluated_ids e JOIN its_repeat r ON e.block = r.sequence_id >> 6
        WHERE (e.ids >> (r.sequence_id & 63)::UBIGINT) & 1 = 1
    )
    WHERE 'windows' IN (SELECT u.unit FROM its_unit u)
    GROUP BY ALL
),
its_compared AS MATERIALIZED (
    SELECT u.unit, p.place,
           coalesce(sum(bit_count(e.ids & t.ids)), 0)::BIGINT AS evaluated_both,
           coalesce(sum(CASE WHEN t.block * 64 + 64 <= p.seen THEN bit_count(t.ids)
                             WHEN t.block * 64 < p.seen
                             THEN bit_count(t.ids & ((1::UBIGINT << (p.seen - t.block * 64)::UBIGINT) - 1))
                             ELSE 0 END), 0)::BIGINT AS target_evaluated
    FROM its_unit u CROSS JOIN its_predictor p CROSS JOIN its_target x
    LEFT JOIN its_evaluated t ON t.unit = u.unit AND t.place = x.place
    LEFT JOIN its_evaluated e ON e.unit = u.unit AND e.place = p.place AND e.block = t.block
    SEMI JOIN its_complete i ON NOT i.complete
    GROUP BY ALL
    UNION ALL
    -- Windows are numbered by their first occurrence, so each later one that was seen is one window less.
    SELECT u.unit, p.place, least(p.seen, x.seen) - n.later, least(p.seen, x.seen) - n.later
    FROM its_unit u CROSS JOIN its_predictor p CROSS JOIN its_target x SEMI JOIN its_complete i ON i.complete
    CROSS JOIN LATERAL (
        SELECT count(*) AS later FROM its_repeat r
        WHERE u.unit = 'windows' AND r.sequence_id > r.first_id AND r.sequence_id < least(p.seen, x.seen)
    ) n
),
its_found AS (
    SELECT c.word, m.sequence_id, bit_or(c.bit) AS said
    FROM memorized m JOIN its_chosen c USING (suite, model, step)
    WHERE m.sequence_id < c.seen GROUP BY ALL
),
its_item AS MATERIALIZED (
    SELECT f.word, f.sequence_id, r.first_id, f.said FROM its_found f LEFT JOIN its_repeat r USING (sequence_id)
),
-- first_id: of a sequence whose window occurs more than once. Windows are clusters of their own.
its_said AS (
    SELECT 'sequences' AS unit, word, sequence_id AS id, first_id, said FROM its_item
    UNION ALL
    SELECT 'windows', word, sequence_id, NULL, said FROM its_item
    WHERE first_id IS NULL AND 'windows' IN (SELECT u.unit FROM its_unit u)
    UNION ALL
    SELECT 'windows', word, first_id, NULL, bit_or(said) FROM its_item
    WHERE first_id IS NOT NULL AND 'windows' IN (SELECT u.unit FROM its_unit u) GROUP BY word, first_id
),
-- How often each pattern occurs, by how many of the bounds the ids are not below. Only what is repeated has to be
-- counted window by window; of all others, a row is a cluster.
its_pattern AS MATERIALIZED (
    SELECT s.unit, s.word, s.first_id, s.said, s.id < x.seen AS target_seen,
           CASE WHEN s.id < o.lowest THEN 0 ELSE len(list_filter(o.bounds, lambda b: b <= s.id)) END AS reached, count(*) AS n
    FROM its_said s SEMI JOIN its_complete a ON a.complete CROSS JOIN its_target x CROSS JOIN its_bound o
    GROUP BY ALL
),
-- P, T_seen, T and the hits of each predictor: from patterns, or id by id.
its_cluster AS (
    SELECT n.unit, p.place, n.first_id, coalesce(sum(n.n) FILTER (n.said & p.bit <> 0 AND n.target_seen), 0) AS p,
           coalesce(sum(n.n) FILTER (n.said >> 62 = 1 AND n.reached < p.bound), 0) AS t_seen,
           coalesce(sum(n.n) FILTER (n.said >> 62 = 1), 0) AS t,
           coalesce(sum(n.n) FILTER (n.said & p.bit <> 0 AND n.said >> 62 = 1), 0) AS hit
    FROM its_pattern n JOIN its_predictor p USING (word) GROUP BY ALL
    UNION ALL
    SELECT s.unit, p.place, s.first_id, count(*) FILTER (s.said & p.bit <> 0 AND (t.ids >> (s.id & 63)::UBIGINT) & 1 = 1),
           count(*) FILTER (s.said >> 62 = 1 AND (e.ids >> (s.id & 63)::UBIGINT) & 1 = 1),
           count(*) FILTER (s.said >> 62 = 1 AND ((e.ids >> (s.id & 63)::UBIGINT) & 1 = 1 OR s.id >= p.seen)),
           count(*) FILTER (s.said & p.bit <> 0 AND s.said >> 62 = 1)
    FROM its_said s SEMI JOIN its_complete a ON NOT a.complete JOIN its_predictor p USING (word) CROSS JOIN its_target x
    LEFT JOIN its_evaluated t ON t.unit = s.unit AND t.place = x.place AND t.block = s.id >> 6
    LEFT JOIN its_evaluated e ON e.unit = s.unit AND e.place = p.place AND e.block = s.id >> 6
    GROUP BY ALL
),
its_counted AS (
    SELECT unit, place, sum(p)::BIGINT AS p, sum(t_seen)::BIGINT AS t_seen, sum(t)::BIGINT AS t, sum(hit)::BIGINT AS hit,
           sum(p) ** 2 / nullif(sum(CASE WHEN first_id IS NULL THEN p ELSE p ** 2 END), 0) AS p_effective,
           sum(t_seen) ** 2 / nullif(sum(CASE WHEN first_id IS NULL THEN t_seen ELSE t_seen ** 2 END), 0) AS t_seen_effective,
           sum(t) ** 2 / nullif(sum(CASE WHEN first_id IS NULL THEN t ELSE t ** 2 END), 0) AS t_effective
    FROM its_cluster GROUP BY ALL
)
SELECT q.checkpoint AS predictor, unit, evaluated_both, target_evaluated - evaluated_both AS not_evaluated,
       coalesce(p, 0) AS predictor_memorized, coalesce(t_seen, 0) AS target_memorized_seen,
       coalesce(t, 0) AS target_memorized, coalesce(hit, 0) AS both_memorized,
       hit / nullif(p, 0) AS precision,
       wilson_low(hit / nullif(p, 0) * p_effective, p_effective) AS precision_low,
       wilson_high(hit / nullif(p, 0) * p_effective, p_effective) AS precision_high,
       hit / nullif(t_seen, 0) AS recall_seen,
       wilson_low(hit / nullif(t_seen, 0) * t_seen_effective, t_seen_effective) AS recall_seen_low,
       wilson_high(hit / nullif(t_seen, 0) * t_seen_effective, t_seen_effective) AS recall_seen_high,
       hit / nullif(t, 0) AS recall_corpus,
       wilson_low(hit / nullif(t, 0) * t_effective, t_effective) AS recall_corpus_low,
       wilson_high(hit / nullif(t, 0) * t_effective, t_effective) AS recall_corpus_high,
       2 * hit / nullif(p + t, 0) AS f1
FROM its_compared JOIN its_predictor q USING (place) LEFT JOIN its_counted USING (unit, place);

-- What the checkpoints `the_checkpoints` (a list of names model@step) made of everything that at least one of them
-- memorized. One row a unit, checkpoint and id that it has seen and was evaluated on; id is the sequence's, or for windows
-- that of the window's first occurrence, window_number that of the first occurrence either way, repeated whether other
-- sequences may have the same window_number: every other row is a cluster of its own. Small, as what is
-- memorized is: a checkpoint without a row has either not seen the id (id >= sequences_seen) or lacks its score.
-- Held-out sequences never count.
CREATE MACRO evaluations(the_suite, the_checkpoints) AS TABLE
-- its_: as above.
WITH its_asked AS MATERIALIZED (
    SELECT the_suite AS suite, the_checkpoints AS names
),
its_chosen AS MATERIALIZED (
    SELECT c.suite, c.model, c.step, c.checkpoint, least(c.sequences_seen, c.trained) AS seen
    FROM checkpoints c JOIN its_asked a USING (suite) WHERE list_contains(a.names, c.checkpoint) LIMIT 100000
),
-- Which of them were evaluated on everything that they have seen: what those have seen needs no looking up.
its_complete AS MATERIALIZED (
    SELECT checkpoint FROM (
        SELECT c.checkpoint, c.seen, coalesce(sum(least(p.last + 1, c.seen) - p.first) FILTER (
                   p.first < c.seen AND p.rows = p.last - p.first + 1), 0) AS evaluated
        FROM its_chosen c LEFT JOIN part_rows p USING (suite, model, step)
        GROUP BY c.checkpoint, c.seen
    ) WHERE evaluated = seen
),
its_scanned AS MATERIALIZED (FROM (FROM its_chosen ANTI JOIN its_complete USING (checkpoint)) LIMIT 100000),
its_repeat AS MATERIALIZED (FROM repeats((SELECT a.suite FROM its_asked a), false)),
its_found AS MATERIALIZED (
    SELECT c.checkpoint, m.sequence_id
    FROM memorized m JOIN its_chosen c USING (suite, model, step)
    WHERE m.sequence_id < c.seen
),
its_wanted AS MATERIALIZED (
    SELECT sequence_id FROM its_found
    UNION
    SELECT r.sequence_id FROM its_repeat r SEMI JOIN (
        SELECT x.first_id FROM its_found f JOIN its_repeat x USING (sequence_id)
    ) y ON y.first_id = r.first_id
),
its_known AS MATERIALIZED (
    SELECT e.checkpoint, e.sequence_id, coalesce(r.first_id, e.sequence_id) AS window_number,
           r.first_id IS NOT NULL AS repeated, f.sequence_id IS NOT NULL AS memorized
    FROM (
        SELECT c.checkpoint, s.sequence_id
        FROM scores s JOIN its_scanned c USING (suite, model, step)
        WHERE s.sequence_id < c.seen AND s.sequence_id IN (SELECT w.sequence_id FROM its_wanted w)
        UNION ALL
        SELECT c.checkpoint, w.sequence_id
        FROM its_chosen c SEMI JOIN its_complete USING (checkpoint) JOIN its_wanted w ON w.sequence_id < c.seen
    ) e
    LEFT JOIN its_found f ON f.checkpoint = e.checkpoint AND f.sequence_id = e.sequence_id
    LEFT JOIN its_repeat r ON r.sequence_id = e.sequence_id
),
its_item AS (
    SELECT 'sequences' AS unit, checkpoint, sequence_id AS id, window_number, repeated, memorized FROM its_known
    UNION ALL
    SELECT 'windows', checkpoint, window_number, window_number, false, memorized FROM its_known
    WHERE NOT repeated AND exists(SELECT 1 FROM sequences q JOIN its_asked a ON q.suite = a.suite)
    UNION ALL
    SELECT 'windows', checkpoint, window_number, window_number, false, bool_or(memorized) FROM its_known
    WHERE repeated AND exists(SELECT 1 FROM sequences q JOIN its_asked a ON q.suite = a.suite)
    GROUP BY checkpoint, window_number
)
SELECT unit, checkpoint, id, window_number, repeated, memorized FROM its_item;

-- 64 scores (0 to 32, NULL if not measured) as bits: which ids of a block have each binary digit of their score, and which
-- are measured at all. A sum of products of two checkpoints' scores is then a count of common bits, 64 ids at a time.
-- Signed, as bit_count takes nothing else of 64 bits. An aggregate over the rows of a block.
CREATE MACRO bit_of(id) AS CASE WHEN id & 63 = 63 THEN -9223372036854775808 ELSE 1::BIGINT << (id & 63) END;
CREATE MACRO digits(score, its_bit) AS {
    'known': coalesce(bit_or(its_bit) FILTER (score IS NOT NULL), 0::BIGINT), 'd1': coalesce(bit_or(its_bit) FILTER (score & 1 = 1), 0::BIGINT),
    'd2': coalesce(bit_or(its_bit) FILTER (score & 2 = 2), 0::BIGINT), 'd4': coalesce(bit_or(its_bit) FILTER (score & 4 = 4), 0::BIGINT),
    'd8': coalesce(bit_or(its_bit) FILTER (score & 8 = 8), 0::BIGINT), 'd16': coalesce(bit_or(its_bit) FILTER (score & 16 = 16), 0::BIGINT),
    'd32': coalesce(bit_or(its_bit) FILTER (score = 32), 0::BIGINT)};

-- Over those of a block's ids that are set in `ids`: the sum of the scores r, of the products of r and s, and of the squares
-- of r, all as digits. (A score of 32 has no other digit.)
CREATE MACRO sum_of(ids, r) AS
    bit_count(ids & r.d1)::INTEGER + 2 * bit_count(ids & r.d2)::INTEGER + 4 * bit_count(ids & r.d4)::INTEGER
    + 8 * bit_count(ids & r.d8)::INTEGER + 16 * bit_count(ids & r.d16)::INTEGER + 32 * bit_count(ids & r.d32)::INTEGER;
CREATE MACRO product_of(ids, r, s) AS
    sum_of(ids & r.d1, s) + 2 * sum_of(ids & r.d2, s) + 4 * sum_of(ids & r.d4, s) + 8 * sum_of(ids & r.d8, s)
    + 16 * sum_of(ids & r.d16, s) + 32 * sum_of(ids & r.d32, s);
CREATE MACRO square_of(ids, r) AS
    bit_count(ids & r.d1)::INTEGER + 4 * bit_count(ids & r.d2)::INTEGER + 16 * bit_count(ids & r.d4)::INTEGER
    + 64 * bit_count(ids & r.d8)::INTEGER + 256 * bit_count(ids & r.d16)::INTEGER + 1024 * bit_count(ids & r.d32)::INTEGER
    + 4 * bit_count(ids & r.d1 & r.d2)::INTEGER + 8 * bit_count(ids & r.d1 & r.d4)::INTEGER
    + 16 * bit_count(ids & r.d1 & r.d8)::INTEGER + 32 * bit_count(ids & r.d1 & r.d16)::INTEGER
    + 16 * bit_count(ids & r.d2 & r.d4)::INTEGER + 32 * bit_count(ids & r.d2 & r.d8)::INTEGER
    + 64 * bit_count(ids & r.d2 & r.d16)::INTEGER + 64 * bit_count(ids & r.d4 & r.d8)::INTEGER
    + 128 * bit_count(ids & r.d4 & r.d16)::INTEGER + 256 * bit_count(ids & r.d8 & r.d16)::INTEGER;

-- Sums over the pairs of the checkpoints `the_checkpoints` (names model@step), from which correlations follow. One row a unit,
-- pair (the smaller or earlier one first) and measure: matches, matched_prefix, or memorized as 0 and 1. n; the sums of the scores
-- x of the first and y of the second, of their squares and products. Over what both have seen and were evaluated on, with
-- the measure; if in_common, of that what lies below `below`, what the one that has seen least has seen, and all were
-- evaluated on. A window's score is that of its first such occurrence. Held-out sequences never count.
CREATE MACRO pair_sums(the_suite, the_checkpoints, in_common) AS TABLE
-- its_: as above.
WITH its_asked AS MATERIALIZED (
    SELECT the_suite AS suite, the_checkpoints AS names, in_common AS common
),
its_chosen AS MATERIALIZED (
    SELECT c.suite, c.model, c.step, c.checkpoint, a.common, row_number() OVER (ORDER BY c.model_order, c.step) AS place,
           count(*) OVER () AS checkpoints,
           CASE WHEN a.common THEN min(least(c.sequences_seen, c.trained)) OVER () ELSE least(c.sequences_seen, c.trained) END AS seen
    FROM checkpoints c JOIN its_asked a USING (suite) WHERE list_contains(a.names, c.checkpoint) LIMIT 100000
),
its_repeat AS MATERIALIZED (FROM repeats((SELECT a.suite FROM its_asked a), false)),
-- Of published lists no score is known of what they leave out: not memorized.
its_block AS MATERIALIZED (
    SELECT place, block, bit_or(bit) AS ids, coalesce(bit_or(bit) FILTER (coalesce(prefix, matches) = 32), 0::BIGINT) AS memorized,
           digits(prefix, bit) AS prefix
    FROM (
        SELECT c.place, s.sequence_id >> 6 AS block, bit_of(s.sequence_id) AS bit, s.matches, s.matched_prefix AS prefix
        FROM scores s JOIN its_chosen c USING (suite, model, step) WHERE s.sequence_id < c.seen
    ) GROUP BY place, block
),
its_matches AS MATERIALIZED (
    SELECT place, block, digits(matches, bit) AS matches
    FROM (
        SELECT c.place, s.sequence_id >> 6 AS block, bit_of(s.sequence_id) AS bit, s.matches
        FROM scores s JOIN its_chosen c USING (suite, model, step) WHERE s.sequence_id < c.seen AND s.matches IS NOT NULL
    ) GROUP BY place, block
),
-- What counts of a block: all, or what all checkpoints have.
its_common AS MATERIALIZED (
    SELECT block, CASE WHEN any_value(a.common) AND count(*) < (SELECT max(c.checkpoints) FROM its_chosen c) THEN 0
                       WHEN any_value(a.common) THEN bit_and(ids) ELSE -1 END AS ids
    FROM its_block CROSS JOIN its_asked a GROUP BY block
),
-- All sequences, block by block.
its_sequence AS (
    SELECT f.place AS first_place, s.place AS second_place, unnest([
        {'measure': 'memorized', 'n': sum(bit_count(o.ids & f.ids & s.ids)), 'x': sum(bit_count(o.ids & s.ids & f.memorized)),
         'y': sum(bit_count(o.ids & f.ids & s.memorized)), 'xx': sum(bit_count(o.ids & s.ids & f.memorized)),
         'yy': sum(bit_count(o.ids & f.ids & s.memorized)), 'xy': sum(bit_count(o.ids & f.memorized & s.memorized))},
        {'measure': 'matched_prefix', 'n': sum(bit_count(o.ids & f.prefix.known & s.prefix.known)),
         'x': sum(sum_of(o.ids & s.prefix.known, f.prefix)), 'y': sum(sum_of(o.ids & f.prefix.known, s.prefix)),
         'xx': sum(square_of(o.ids & s.prefix.known, f.prefix)),
         'yy': sum(square_of(o.ids & f.prefix.known, s.prefix)),
         'xy': sum(product_of(o.ids, f.prefix, s.prefix))}
    ], recursive := true)
    FROM its_block f JOIN its_block s ON f.block = s.block AND f.place < s.place JOIN its_common o ON o.block = f.block
    GROUP BY f.place, s.place
    UNION ALL
    SELECT f.place, s.place, 'matches', sum(bit_count(o.ids & f.matches.known & s.matches.known)),
           sum(sum_of(o.ids & s.matches.known, f.matches)), sum(sum_of(o.ids & f.matches.known, s.matches)),
           sum(square_of(o.ids & s.matches.known, f.matches)),
           sum(square_of(o.ids & f.matches.known, s.matches)), sum(product_of(o.ids, f.matches, s.matches))
    FROM its_matches f JOIN its_matches s ON f.block = s.block AND f.place < s.place JOIN its_common o ON o.block = f.block
    GROUP BY f.place, s.place
),
-- What makes windows of them: repeated sequences leave, the first one of each window comes back.
its_repeated AS MATERIALIZED (
    SELECT c.place, s.sequence_id AS id, r.first_id, s.matches::INTEGER AS matches, s.matched_prefix::INTEGER AS prefix,
           coalesce(coalesce(s.matched_prefix, s.matches) = 32, false)::INTEGER AS memorized
    FROM scores s JOIN its_chosen c USING (suite, model, step) JOIN its_repeat r USING (sequence_id)
    JOIN its_common o ON o.block = s.sequence_id >> 6
    WHERE s.sequence_id < c.seen AND o.ids & bit_of(s.sequence_id) <> 0
),
its_item AS (
    SELECT place, id, -1 AS weight, matches, prefix, memorized FROM its_repeated
    UNION ALL
    SELECT place, first_id, 1, min_by(matches, id), min_by(prefix, id), min_by(memorized, id) FROM its_repeated
    GROUP BY place, first_id
),
its_change AS (
    -- + 0 * the other's: only pairs where both are measured count.
    SELECT f.place AS first_place, s.place AS second_place, unnest([
        {'measure': 'memorized', 'n': sum(f.weight), 'x': sum(f.weight * f.memorized), 'y': sum(f.weight * s.memorized),
         'xx': sum(f.weight * f.memorized), 'yy': sum(f.weight * s.memorized), 'xy': sum(f.weight * f.memorized * s.memorized)},
        {'measure': 'matches', 'n': sum(f.weight + 0 * f.matches * s.matches), 'x': sum(f.weight * (f.matches + 0 * s.matches)),
         'y': sum(f.weight * (s.matches + 0 * f.matches)), 'xx': sum(f.weight * (f.matches * f.matches + 0 * s.matches)),
         'yy': sum(f.weight * (s.matches * s.matches + 0 * f.matches)), 'xy': sum(f.weight * f.matches * s.matches)},
        {'measure': 'matched_prefix', 'n': sum(f.weight + 0 * f.prefix * s.prefix), 'x': sum(f.weight * (f.prefix + 0 * s.prefix)),
         'y': sum(f.weight * (s.prefix + 0 * f.prefix)), 'xx': sum(f.weight * (f.prefix * f.prefix + 0 * s.prefix)),
         'yy': sum(f.weight * (s.prefix * s.prefix + 0 * f.prefix)), 'xy': sum(f.weight * f.prefix * s.prefix)}
    ], recursive := true)
    FROM its_item f JOIN its_item s ON f.id = s.id AND f.weight = s.weight AND f.place < s.place
    GROUP BY f.place, s.place
),
its_sum AS (
    SELECT 'sequences' AS unit, * FROM its_sequence
    UNION ALL
    SELECT 'windows', first_place, second_place, measure, sum(n), sum(x), sum(y), sum(xx), sum(yy), sum(xy)
    FROM (FROM its_sequence UNION ALL FROM its_change)
    WHERE exists(SELECT 1 FROM sequences q JOIN its_asked a ON q.suite = a.suite)
    GROUP BY ALL
)
SELECT t.unit, f.checkpoint AS first, s.checkpoint AS second, CASE WHEN f.common THEN f.seen END AS below, t.measure,
       t.n, t.x, t.y, t.xx, t.yy, t.xy, f.place AS first_place, s.place AS second_place
FROM its_sum t JOIN its_chosen f ON f.place = t.first_place JOIN its_chosen s ON s.place = t.second_place;

-- The chance that a chi-square variable of df (1, 2, 3 ...) degrees of freedom is at least as large as statistic. Finite sums
-- of positive terms (Abramowitz and Stegun 26.4.4, 26.4.5), for odd df with erfc by its series or, in the tail, by its
-- continued fraction: relative error below 1e-10.
CREATE MACRO chi_square_tail(statistic, df) AS
    CASE WHEN df < 1 OR statistic IS NULL THEN NULL
         WHEN statistic <= 0 THEN 1.0
         ELSE least(1.0,
            CASE WHEN df % 2 = 0 THEN 0.0
                 WHEN statistic < 4 THEN 1 - list_sum(list_transform(range(50), lambda n: exp(
                    (n + 0.5) * ln(greatest(statistic, 1e-300) / 2) - statistic / 2 - lgamma(n + 1.5))))
                 ELSE exp(-statistic / 2) / sqrt(pi()) / list_reduce(range(120, 0, -1),
                    lambda below, k: sqrt(statistic / 2) + k / 2 / below, sqrt(statistic / 2)) END
            + coalesce(list_sum(list_transform(range(df::BIGINT // 2), lambda j: exp(
                (j + df % 2 / 2) * ln(greatest(statistic, 1e-300) / 2) - statistic / 2 - lgamma(j + 1 + df % 2 / 2)))), 0.0)
         ) END;
