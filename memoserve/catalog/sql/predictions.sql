-- How well each of the checkpoints `the_predictors` (a list of names model@step) says what the checkpoint
-- `the_target` memorized. One row a predictor and unit (sequences; windows, if the store numbers them).
--   P: what the predictor memorized of what it has seen, as far as the target was evaluated on it
--   T: what the target memorized of what it has seen, as far as the predictor was evaluated on it (T_seen),
--      and beside that all that the predictor has not seen (T): there it predicts nothing
-- What the predictor has seen but was not evaluated on is left out (not_evaluated counts it).
-- Held-out sequences never count. Intervals take equal windows as one cluster.
CREATE MACRO predictions(the_suite, the_target, the_predictors) AS TABLE
-- _: a name that an argument's own query also uses would capture it.
WITH _asked AS MATERIALIZED (
    SELECT the_suite AS suite, the_target AS target, the_predictors AS predictors
),
_target AS MATERIALIZED (
    SELECT c.suite, c.model, c.step, -1 AS ordinal, least(c.sequences_seen, c.trained) AS seen
    FROM checkpoints c JOIN _asked a ON c.suite = a.suite AND c.checkpoint = a.target
),
-- Which of 62 predictors memorized an id fits into one number, a bit for each, with bit 62 for the target;
-- more have several such words. bound: the rank of `seen` among all different ones, from 1 on.
_predictor AS MATERIALIZED (
    SELECT c.suite, c.model, c.step, c.checkpoint,
           row_number() OVER (ORDER BY c.model_order, c.step) - 1 AS ordinal,
           ordinal // 62 AS word, 1::BIGINT << (ordinal % 62) AS bit,
           least(c.sequences_seen, c.trained) AS seen,
           dense_rank() OVER (ORDER BY least(c.sequences_seen, c.trained)) AS bound
    FROM checkpoints c JOIN _asked a USING (suite)
    WHERE list_contains(a.predictors, c.checkpoint) AND c.checkpoint <> a.target
),
_bound AS MATERIALIZED (SELECT list(DISTINCT seen) AS bounds, min(seen) AS lowest FROM _predictor),
-- The limit tells the optimizer that this is small; else it may build its hash table on the scores.
_chosen AS MATERIALIZED (
    FROM (SELECT suite, model, step, ordinal, word, bit, seen FROM _predictor
          UNION ALL
          SELECT DISTINCT x.suite, x.model, x.step, x.ordinal, p.word, 1::BIGINT << 62, x.seen FROM _target x
          CROSS JOIN _predictor p)
    LIMIT 100000
),
_repeat AS MATERIALIZED (FROM repeats((SELECT a.suite FROM _asked a), false)),
_unit AS MATERIALIZED (
    SELECT 'sequences' AS unit
    UNION ALL
    SELECT 'windows' WHERE exists(SELECT 1 FROM sequences JOIN _asked USING (suite))
),
-- Whether all of them were evaluated on everything that they have seen: then ids below `seen` are what
-- counts, and no scores need be read for it.
_complete AS MATERIALIZED (
    SELECT bool_and(complete) AS complete
    FROM coverage((SELECT a.suite FROM _asked a)) SEMI JOIN _chosen USING (suite, model, step)
),
_scanned AS MATERIALIZED (
    FROM (SELECT DISTINCT c.suite, c.model, c.step, c.ordinal, c.seen FROM _chosen c
        SEMI JOIN _complete i ON NOT i.complete)
    LIMIT 100000
),
-- Which ids each checkpoint was evaluated on, as bitmaps of 64 ids: exact, and small enough to compare
-- checkpoints by, where a join of all rows is not.
_evaluated_ids AS MATERIALIZED (
    SELECT c.ordinal, sequence_id >> 6 AS block, bit_or(1::UBIGINT << (sequence_id & 63)::UBIGINT) AS ids
    FROM scores JOIN _scanned c USING (suite, model, step)
    WHERE sequence_id < c.seen
    GROUP BY ALL
),
-- The same for windows: drop the repeated ids, and put in the first occurrence of what they repeat.
_repeated_ids AS (
    SELECT sequence_id >> 6 AS block, bit_or(1::UBIGINT << (sequence_id & 63)::UBIGINT) AS ids FROM _repeat
    GROUP BY ALL
),
_evaluated AS MATERIALIZED (
    SELECT 'sequences' AS unit, ordinal, block, ids FROM _evaluated_ids
    UNION ALL
    SELECT 'windows', ordinal, block, bit_or(ids) FROM (
        SELECT e.ordinal, e.block, e.ids & ~coalesce(r.ids, 0::UBIGINT) AS ids
        FROM _evaluated_ids e LEFT JOIN _repeated_ids r USING (block)
        UNION ALL
        SELECT e.ordinal, r.first_id >> 6, 1::UBIGINT << (r.first_id & 63)::UBIGINT
        FROM _evaluated_ids e JOIN _repeat r ON e.block = r.sequence_id >> 6
        WHERE (e.ids >> (r.sequence_id & 63)::UBIGINT) & 1 = 1
    )
    WHERE 'windows' IN (SELECT u.unit FROM _unit u)
    GROUP BY ALL
),
_compared AS MATERIALIZED (
    SELECT u.unit, p.ordinal,
           coalesce(sum(bit_count(e.ids & t.ids)), 0)::BIGINT AS evaluated_both,
           coalesce(sum(CASE WHEN t.block * 64 + 64 <= p.seen THEN bit_count(t.ids)
                             WHEN t.block * 64 < p.seen
                             THEN bit_count(t.ids & ((1::UBIGINT << (p.seen - t.block * 64)::UBIGINT) - 1))
                             ELSE 0 END), 0)::BIGINT AS target_evaluated
    FROM _unit u CROSS JOIN _predictor p CROSS JOIN _target x
    LEFT JOIN _evaluated t ON t.unit = u.unit AND t.ordinal = x.ordinal
    LEFT JOIN _evaluated e ON e.unit = u.unit AND e.ordinal = p.ordinal AND e.block = t.block
    SEMI JOIN _complete i ON NOT i.complete
    GROUP BY ALL
    UNION ALL
    -- Windows are numbered by their first occurrence, so each later one that was seen is one window less.
    SELECT u.unit, p.ordinal, least(p.seen, x.seen) - n.later, least(p.seen, x.seen) - n.later
    FROM _unit u CROSS JOIN _predictor p CROSS JOIN _target x SEMI JOIN _complete i ON i.complete
    CROSS JOIN LATERAL (
        SELECT count(*) AS later FROM _repeat r
        WHERE u.unit = 'windows' AND r.sequence_id > r.first_id AND r.sequence_id < least(p.seen, x.seen)
    ) n
),
_found AS (
    SELECT c.word, m.sequence_id, bit_or(c.bit) AS memorized_by
    FROM memorized m JOIN _chosen c USING (suite, model, step)
    WHERE m.sequence_id < c.seen GROUP BY ALL
),
_sequence AS MATERIALIZED (
    SELECT f.word, f.sequence_id, r.first_id, f.memorized_by FROM _found f
    LEFT JOIN _repeat r USING (sequence_id)
),
-- first_id: of a sequence whose window occurs more than once. Windows are clusters of their own.
_item AS (
    SELECT 'sequences' AS unit, word, sequence_id AS id, first_id, memorized_by FROM _sequence
    UNION ALL
    SELECT 'windows', word, sequence_id, NULL, memorized_by FROM _sequence
    WHERE first_id IS NULL AND 'windows' IN (SELECT u.unit FROM _unit u)
    UNION ALL
    SELECT 'windows', word, first_id, NULL, bit_or(memorized_by) FROM _sequence
    WHERE first_id IS NOT NULL AND 'windows' IN (SELECT u.unit FROM _unit u) GROUP BY word, first_id
),
-- How often each pattern occurs, by how many of the bounds the ids are not below. Only what is repeated has
-- to be counted window by window; of all others, a row is a cluster.
_pattern AS MATERIALIZED (
    SELECT s.unit, s.word, s.first_id, s.memorized_by, s.id < x.seen AS target_seen,
           CASE WHEN s.id < o.lowest THEN 0
               ELSE len(list_filter(o.bounds, lambda b: b <= s.id)) END AS reached, count(*) AS n
    FROM _item s SEMI JOIN _complete a ON a.complete CROSS JOIN _target x CROSS JOIN _bound o
    GROUP BY ALL
),
-- P, T_seen, T and the hits of each predictor: from patterns, or id by id.
_cluster AS (
    SELECT n.unit, p.ordinal, n.first_id,
           coalesce(sum(n.n) FILTER (n.memorized_by & p.bit <> 0 AND n.target_seen), 0) AS p,
           coalesce(sum(n.n) FILTER (n.memorized_by >> 62 = 1 AND n.reached < p.bound), 0) AS t_seen,
           coalesce(sum(n.n) FILTER (n.memorized_by >> 62 = 1), 0) AS t,
           coalesce(sum(n.n) FILTER (n.memorized_by & p.bit <> 0 AND n.memorized_by >> 62 = 1), 0) AS hit
    FROM _pattern n JOIN _predictor p USING (word) GROUP BY ALL
    UNION ALL
    SELECT s.unit, p.ordinal, s.first_id,
           count(*) FILTER (s.memorized_by & p.bit <> 0 AND (t.ids >> (s.id & 63)::UBIGINT) & 1 = 1),
           count(*) FILTER (s.memorized_by >> 62 = 1 AND (e.ids >> (s.id & 63)::UBIGINT) & 1 = 1),
           count(*) FILTER (s.memorized_by >> 62 = 1
                            AND ((e.ids >> (s.id & 63)::UBIGINT) & 1 = 1 OR s.id >= p.seen)),
           count(*) FILTER (s.memorized_by & p.bit <> 0 AND s.memorized_by >> 62 = 1)
    FROM _item s SEMI JOIN _complete a ON NOT a.complete JOIN _predictor p USING (word)
    CROSS JOIN _target x
    LEFT JOIN _evaluated t ON t.unit = s.unit AND t.ordinal = x.ordinal AND t.block = s.id >> 6
    LEFT JOIN _evaluated e ON e.unit = s.unit AND e.ordinal = p.ordinal AND e.block = s.id >> 6
    GROUP BY ALL
),
_counted AS (
    SELECT unit, ordinal, sum(p)::BIGINT AS p, sum(t_seen)::BIGINT AS t_seen, sum(t)::BIGINT AS t,
           sum(hit)::BIGINT AS hit,
           sum(p) ** 2 / nullif(sum(CASE WHEN first_id IS NULL THEN p ELSE p ** 2 END), 0) AS p_effective,
           sum(t_seen) ** 2 / nullif(sum(CASE WHEN first_id IS NULL THEN t_seen ELSE t_seen ** 2 END),
                                     0) AS t_seen_effective,
           sum(t) ** 2 / nullif(sum(CASE WHEN first_id IS NULL THEN t ELSE t ** 2 END), 0) AS t_effective
    FROM _cluster GROUP BY ALL
)
SELECT q.checkpoint AS predictor, unit, evaluated_both, target_evaluated - evaluated_both AS not_evaluated,
       coalesce(p, 0) AS predictor_memorized, coalesce(t_seen, 0) AS target_memorized_seen,
       coalesce(t, 0) AS target_memorized, coalesce(hit, 0) AS both_memorized,
       hit / nullif(p, 0) AS precision,
       share_low(hit, p, p_effective) AS precision_low,
       share_high(hit, p, p_effective) AS precision_high,
       hit / nullif(t_seen, 0) AS recall_seen,
       share_low(hit, t_seen, t_seen_effective) AS recall_seen_low,
       share_high(hit, t_seen, t_seen_effective) AS recall_seen_high,
       hit / nullif(t, 0) AS recall_corpus,
       share_low(hit, t, t_effective) AS recall_corpus_low,
       share_high(hit, t, t_effective) AS recall_corpus_high,
       2 * hit / nullif(p + t, 0) AS f1
FROM _compared JOIN _predictor q USING (ordinal) LEFT JOIN _counted USING (unit, ordinal);
