-- One row a sequence: what is known of it without any model (docs/features.md lists the columns), and the
-- columns of tables that were added. occurrence_ids stays out: the macro occurrences_before has what it says.
CREATE VIEW features AS
SELECT * EXCLUDE (occurrence_ids) FROM feature_parts
@ADDED@;

-- For each added table:
FULL JOIN (
    SELECT regexp_extract(filename, 'suite=([^/]*)/[^/]*$', 1) AS suite, * EXCLUDE (filename)
    FROM read_parquet('@STORE@/features/*/added-@NAME@.parquet', union_by_name = true, filename = true,
                      hive_partitioning = false)
) USING (suite, sequence_id)
