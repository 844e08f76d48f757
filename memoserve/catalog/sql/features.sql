-- Of each sequence of a suite's features: how many of the first `seen` training sequences begin with its
-- window, and the last of those, NULL where none does. A checkpoint has seen the first sequences_seen.
CREATE MACRO occurrences_before(the_suite, seen) AS TABLE
WITH _repeated AS NOT MATERIALIZED (
    SELECT window_number, count(*) AS n, max(occurrence_id) AS last
    FROM (SELECT window_number, unnest(occurrence_ids) AS occurrence_id
          FROM feature_parts WHERE suite = the_suite AND occurrence_ids IS NOT NULL)
    WHERE occurrence_id < seen GROUP BY window_number
)
SELECT f.sequence_id,
       CASE WHEN f.occurrences > 1 THEN coalesce(r.n, 0)
            ELSE coalesce(f.last_occurrence < seen, false)::BIGINT END AS occurrences,
       CASE WHEN f.occurrences > 1 THEN r.last
            WHEN f.last_occurrence < seen THEN f.last_occurrence END AS last_occurrence
FROM feature_parts f LEFT JOIN _repeated r USING (window_number) WHERE f.suite = the_suite;
