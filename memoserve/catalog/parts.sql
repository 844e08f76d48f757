-- The files of a store as views. @STORE@ is the store's path inside a string literal of a glob.
-- hive_types: a model may be named "12", and must stay text.

CREATE VIEW score_parts AS
SELECT suite, model, step, sequence_id, matches, matched_prefix, match_mask, continuation_ll
FROM read_parquet('@STORE@/scores/*/*/*/part-*.parquet', hive_partitioning = true,
                  hive_types = {'suite': VARCHAR, 'model': VARCHAR, 'step': BIGINT});

-- From the names and footers of the files alone. A part whose rows are as many as its ids holds every one of them.
CREATE VIEW part_rows AS
SELECT regexp_extract(path, 'suite=([^/]*)/[^/]*/[^/]*/[^/]*$', 1) AS suite,
       regexp_extract(path, 'model=([^/]*)/[^/]*/[^/]*$', 1) AS model,
       regexp_extract(path, 'step=([0-9]+)/[^/]*$', 1)::BIGINT AS step,
       regexp_extract(path, 'part-([0-9]+)-([0-9]+)[.]parquet$', 1)::BIGINT AS first,
       regexp_extract(path, 'part-([0-9]+)-([0-9]+)[.]parquet$', 2)::BIGINT AS last, rows
FROM (SELECT file_name AS path, num_rows::BIGINT AS rows
      FROM parquet_file_metadata('@STORE@/scores/*/*/*/part-*.parquet'));

-- Which parts of each checkpoint there are and the digests of their data, as one digest.
CREATE VIEW score_listings AS
SELECT suite, model, step, md5(string_agg(name || ' ' || digest, ',' ORDER BY name)) AS listing
FROM (SELECT regexp_extract(file, 'suite=([^/]*)/[^/]*/[^/]*/[^/]*$', 1) AS suite,
             regexp_extract(file, 'model=([^/]*)/[^/]*/[^/]*$', 1) AS model,
             regexp_extract(file, 'step=([0-9]+)/[^/]*$', 1)::BIGINT AS step,
             regexp_extract(file, '[^/]*$') AS name, coalesce(substr(decode(value), 17, 32), '') AS digest
      FROM glob('@STORE@/scores/*/*/*/part-*.parquet')
      LEFT JOIN (SELECT file_name AS file, value FROM parquet_kv_metadata('@STORE@/scores/*/*/*/part-*.parquet')
                 WHERE decode(key) = 'memoserve_checksum') USING (file))
GROUP BY suite, model, step;

-- Lists of what checkpoints memorized, each with the digest of the parts it was made from.
CREATE VIEW memorized_listings AS
SELECT regexp_extract(file, 'suite=([^/]*)/[^/]*/[^/]*/[^/]*$', 1) AS suite,
       regexp_extract(file, 'model=([^/]*)/[^/]*/[^/]*$', 1) AS model,
       regexp_extract(file, 'step=([0-9]+)/[^/]*$', 1)::BIGINT AS step,
       regexp_extract(file, 'memorized-([^/]*)[.]parquet$', 1) AS listing
FROM glob('@STORE@/scores/*/*/*/memorized-*.parquet');

CREATE VIEW memorized_parts AS
SELECT suite, model, step, regexp_extract(filename, 'memorized-([^/]*)[.]parquet$', 1) AS listing, sequence_id
FROM read_parquet('@STORE@/scores/*/*/*/memorized-*.parquet', hive_partitioning = true,
                  hive_types = {'suite': VARCHAR, 'model': VARCHAR, 'step': BIGINT}, filename = true);

CREATE VIEW sequence_parts AS
SELECT suite, sequence_id, window_id
FROM read_parquet('@STORE@/sequences/*/part-*.parquet', hive_partitioning = true, hive_types = {'suite': VARCHAR});

-- Which parts there are and with how many rows, as one digest a suite.
CREATE VIEW sequence_listings AS
SELECT suite, md5(string_agg(name || ' ' || rows, ',' ORDER BY name)) AS listing
FROM (SELECT regexp_extract(file_name, 'suite=([^/]*)/[^/]*$', 1) AS suite,
             regexp_extract(file_name, '[^/]*$') AS name, num_rows AS rows
      FROM parquet_file_metadata('@STORE@/sequences/*/part-*.parquet'))
GROUP BY suite;

-- Lists of the sequences whose window occurs more than once, each with the digest of the parts it was made from.
CREATE VIEW repeat_listings AS
SELECT regexp_extract(file_name, 'suite=([^/]*)/[^/]*$', 1) AS suite,
       regexp_extract(file_name, 'repeats-([^/]*)[.]parquet$', 1) AS listing
FROM parquet_file_metadata('@STORE@/sequences/*/repeats-*.parquet');

CREATE VIEW repeat_parts AS
SELECT suite, regexp_extract(filename, 'repeats-([^/]*)[.]parquet$', 1) AS listing, sequence_id, window_id
FROM read_parquet('@STORE@/sequences/*/repeats-*.parquet', hive_partitioning = true,
                  hive_types = {'suite': VARCHAR}, filename = true);

CREATE VIEW checkpoint_parts AS
SELECT suite, model, step, model_order, parameters, parameters_without_embeddings, sequences_seen, tokens_seen,
       training_flops, training_flops_without_embeddings, trained
FROM read_parquet('@STORE@/suites/*/checkpoints.parquet', hive_partitioning = true, hive_types = {'suite': VARCHAR});
