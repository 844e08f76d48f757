-- The views of rows_by_partition.sql for every other store: suite, model and step are cut from the ends of
-- paths, and each row finds its file's. A filter on them still opens only the files it needs (so does a join,
-- from DuckDB 2.0 on), but reading all rows takes longer. DuckDB would take `step=161/` above the store for
-- the step of all, and a model NULL for none.

CREATE VIEW score_parts AS
SELECT f.suite, f.model, f.step, r.* EXCLUDE (filename)
FROM read_parquet('@STORE@/scores/*/*/*/part-*.parquet', schema = @SCORE_SCHEMA@, filename = true) r
JOIN (SELECT file, regexp_extract(file, 'suite=([^/]*)/[^/]*/[^/]*/[^/]*$', 1) AS suite,
             regexp_extract(file, 'model=([^/]*)/[^/]*/[^/]*$', 1) AS model,
             regexp_extract(file, 'step=([0-9]+)/[^/]*$', 1)::BIGINT AS step
      FROM glob('@STORE@/scores/*/*/*/part-*.parquet')) f ON f.file = r.filename;

CREATE VIEW memorized_parts AS
SELECT f.suite, f.model, f.step, f.listing, r.sequence_id
FROM read_parquet('@STORE@/scores/*/*/*/memorized-*.parquet', hive_partitioning = false, filename = true) r
JOIN (SELECT file, regexp_extract(file, 'suite=([^/]*)/[^/]*/[^/]*/[^/]*$', 1) AS suite,
             regexp_extract(file, 'model=([^/]*)/[^/]*/[^/]*$', 1) AS model,
             regexp_extract(file, 'step=([0-9]+)/[^/]*$', 1)::BIGINT AS step,
             regexp_extract(file, 'memorized-([^/]*)[.]parquet$', 1) AS listing
      FROM glob('@STORE@/scores/*/*/*/memorized-*.parquet')) f ON f.file = r.filename;

CREATE VIEW sequence_parts AS
SELECT regexp_extract(filename, 'suite=([^/]*)/[^/]*$', 1) AS suite, sequence_id, window_id
FROM read_parquet('@STORE@/sequences/*/part-*.parquet', hive_partitioning = false, filename = true);

CREATE VIEW repeat_parts AS
SELECT regexp_extract(filename, 'suite=([^/]*)/[^/]*$', 1) AS suite,
       regexp_extract(filename, 'repeats-([^/]*)[.]parquet$', 1) AS listing, sequence_id, window_id
FROM read_parquet('@STORE@/sequences/*/repeats-*.parquet', hive_partitioning = false, filename = true);
