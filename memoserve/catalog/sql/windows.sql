-- The sequences whose window occurs more than once in the suite: from the list of them, if it is of the parts
-- that are there; else each sequence, of which `repeats` finds the repeated ones.
CREATE VIEW repeat_candidates AS
SELECT suite, sequence_id, window_id FROM repeat_parts SEMI JOIN sequence_listings USING (suite, listing)
UNION ALL
-- The limit: see predictions.
SELECT suite, sequence_id, window_id FROM sequence_parts
SEMI JOIN (FROM (FROM sequence_listings ANTI JOIN repeat_listings USING (suite, listing))
           LIMIT 100000) USING (suite);

-- Of one suite's trained sequences (of its held-out ones, if held_out), those whose window occurs more than
-- once, each with the first occurrence of that window. Every other sequence is its own window, so
-- coalesce(first_id, sequence_id) numbers the windows, and a checkpoint has seen a window if its number is
-- below sequences_seen.
CREATE MACRO repeats(the_suite, held_out) AS TABLE
WITH _candidate AS NOT MATERIALIZED (
    SELECT r.sequence_id, r.window_id
    FROM repeat_candidates r
    JOIN (SELECT suite, any_value(trained) AS trained FROM checkpoint_parts GROUP BY suite) t USING (suite)
    WHERE r.suite = the_suite AND (r.sequence_id >= t.trained) = held_out
)
SELECT s.sequence_id, w.first_id
FROM _candidate s JOIN (
    SELECT window_id, min(sequence_id) AS first_id FROM _candidate GROUP BY window_id HAVING count(*) > 1
) w USING (window_id);
