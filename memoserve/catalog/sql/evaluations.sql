-- What the checkpoints `the_checkpoints` (a list of names model@step) made of everything that at least one of
-- them memorized. One row a unit, checkpoint and id that it has seen and was evaluated on; id is the
-- sequence's, or for windows that of the window's first occurrence, window_number that of the first
-- occurrence either way, repeated whether other sequences may have the same window_number: every other row is
-- a cluster of its own. Small, as what is memorized is: a checkpoint without a row has either not seen the id
-- (id >= sequences_seen) or lacks its score. Held-out sequences never count.
CREATE MACRO evaluations(the_suite, the_checkpoints) AS TABLE
-- _: as in predictions.
WITH _asked AS MATERIALIZED (
    SELECT the_suite AS suite, the_checkpoints AS names
),
_chosen AS MATERIALIZED (
    SELECT c.suite, c.model, c.step, c.checkpoint, least(c.sequences_seen, c.trained) AS seen
    FROM checkpoints c JOIN _asked a USING (suite) WHERE list_contains(a.names, c.checkpoint) LIMIT 100000
),
-- Which of them were evaluated on everything that they have seen: what those have seen needs no looking up.
_complete AS MATERIALIZED (
    SELECT checkpoint FROM coverage((SELECT a.suite FROM _asked a)) SEMI JOIN _chosen USING (checkpoint)
    WHERE complete
),
_scanned AS MATERIALIZED (FROM (FROM _chosen ANTI JOIN _complete USING (checkpoint)) LIMIT 100000),
_repeat AS MATERIALIZED (FROM repeats((SELECT a.suite FROM _asked a), false)),
_found AS MATERIALIZED (
    SELECT c.checkpoint, m.sequence_id
    FROM memorized m JOIN _chosen c USING (suite, model, step)
    WHERE m.sequence_id < c.seen
),
_wanted AS MATERIALIZED (
    SELECT sequence_id FROM _found
    UNION
    SELECT r.sequence_id FROM _repeat r SEMI JOIN (
        SELECT x.first_id FROM _found f JOIN _repeat x USING (sequence_id)
    ) y ON y.first_id = r.first_id
),
_known AS MATERIALIZED (
    SELECT e.checkpoint, e.sequence_id, coalesce(r.first_id, e.sequence_id) AS window_number,
           r.first_id IS NOT NULL AS repeated, f.sequence_id IS NOT NULL AS memorized
    FROM (
        SELECT c.checkpoint, s.sequence_id
        FROM scores s JOIN _scanned c USING (suite, model, step)
        WHERE s.sequence_id < c.seen AND s.sequence_id IN (SELECT w.sequence_id FROM _wanted w)
        UNION ALL
        SELECT c.checkpoint, w.sequence_id
        FROM _chosen c SEMI JOIN _complete USING (checkpoint)
        JOIN _wanted w ON w.sequence_id < c.seen
    ) e
    LEFT JOIN _found f ON f.checkpoint = e.checkpoint AND f.sequence_id = e.sequence_id
    LEFT JOIN _repeat r ON r.sequence_id = e.sequence_id
),
_item AS (
    SELECT 'sequences' AS unit, checkpoint, sequence_id AS id, window_number, repeated, memorized
    FROM _known
    UNION ALL
    SELECT 'windows', checkpoint, window_number, window_number, false, memorized FROM _known
    WHERE NOT repeated AND exists(SELECT 1 FROM sequences q JOIN _asked a ON q.suite = a.suite)
    UNION ALL
    SELECT 'windows', checkpoint, window_number, window_number, false, bool_or(memorized) FROM _known
    WHERE repeated AND exists(SELECT 1 FROM sequences q JOIN _asked a ON q.suite = a.suite)
    GROUP BY checkpoint, window_number
)
SELECT unit, checkpoint, id, window_number, repeated, memorized FROM _item;
