-- The views that read rows, with DuckDB's own partitions by folder: a filter or join on suite, model or step
-- then opens only the files that it needs, and costs nothing a row. Only for a store in whose path no folder
-- replaces a column, in which nothing is named as DuckDB reads NULL (see rows_by_path.sql).
-- hive_types: a model may be named "12", and must stay text. Filled in (see parts.sql): the known columns,
-- those that no part has as NULL; union_by_name, where only some parts have one. That opens every file, so it
-- isn't on otherwise.

CREATE VIEW score_parts AS
SELECT suite, model, step, @SCORE_COLUMNS@
FROM read_parquet('@STORE@/scores/*/*/*/part-*.parquet', hive_partitioning = true,
                  hive_types = {'suite': VARCHAR, 'model': VARCHAR, 'step': BIGINT}, union_by_name = @UNION@);

CREATE VIEW memorized_parts AS
SELECT suite, model, step, regexp_extract(filename, 'memorized-([^/]*)[.]parquet$', 1) AS listing, sequence_id
FROM read_parquet('@STORE@/scores/*/*/*/memorized-*.parquet', hive_partitioning = true,
                  hive_types = {'suite': VARCHAR, 'model': VARCHAR, 'step': BIGINT}, filename = true);

CREATE VIEW sequence_parts AS
SELECT suite, sequence_id, window_id
FROM read_parquet('@STORE@/sequences/*/part-*.parquet', hive_partitioning = true,
                  hive_types = {'suite': VARCHAR});

CREATE VIEW repeat_parts AS
SELECT suite, regexp_extract(filename, 'repeats-([^/]*)[.]parquet$', 1) AS listing, sequence_id, window_id
FROM read_parquet('@STORE@/sequences/*/repeats-*.parquet', hive_partitioning = true,
                  hive_types = {'suite': VARCHAR}, filename = true);
