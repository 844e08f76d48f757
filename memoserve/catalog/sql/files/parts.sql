-- The files of a store as views. What stands between at signs is filled in: STORE is the store's path inside
-- a string literal of a glob, the schemas are the columns that are known: one that a file lacks is NULL, one
-- that they lack is left out. Suite, model and step stand in the last folders of a path, whatever the folders
-- above are called.

-- From the names and footers of the files alone. A part whose rows are as many as its ids holds every one of
-- them.
CREATE VIEW part_rows AS
SELECT regexp_extract(path, 'suite=([^/]*)/[^/]*/[^/]*/[^/]*$', 1) AS suite,
       regexp_extract(path, 'model=([^/]*)/[^/]*/[^/]*$', 1) AS model,
       regexp_extract(path, 'step=([0-9]+)/[^/]*$', 1)::BIGINT AS step,
       regexp_extract(path, 'part-([0-9]+)-([0-9]+)[.]parquet$', 1)::BIGINT AS first,
       regexp_extract(path, 'part-([0-9]+)-([0-9]+)[.]parquet$', 2)::BIGINT AS last, rows
FROM (SELECT file_name AS path, num_rows::BIGINT AS rows
      FROM parquet_file_metadata('@STORE@/scores/*/*/*/part-*.parquet'));

-- Parts in another folder than they were written into, `name`: a folder was renamed, or exchanged.
CREATE VIEW misplaced_parts AS
SELECT path, name
FROM (SELECT file_name AS path,
             json_extract_string(CASE WHEN decode(key) = 'memoserve' THEN decode(value) END, '$.name') AS name
      FROM parquet_kv_metadata('@STORE@/scores/*/*/*/part-*.parquet'))
WHERE NOT ends_with(path, '/' || name);

-- Which parts of each checkpoint there are and the digests of their data, as one digest.
CREATE VIEW score_listings AS
SELECT suite, model, step, md5(string_agg(name || ' ' || digest, ',' ORDER BY name)) AS listing
FROM (SELECT regexp_extract(file, 'suite=([^/]*)/[^/]*/[^/]*/[^/]*$', 1) AS suite,
             regexp_extract(file, 'model=([^/]*)/[^/]*/[^/]*$', 1) AS model,
             regexp_extract(file, 'step=([0-9]+)/[^/]*$', 1)::BIGINT AS step,
             regexp_extract(file, '[^/]*$') AS name, coalesce(substr(decode(value), 17, 32), '') AS digest
      FROM glob('@STORE@/scores/*/*/*/part-*.parquet')
      LEFT JOIN (SELECT file_name AS file, value
          FROM parquet_kv_metadata('@STORE@/scores/*/*/*/part-*.parquet')
                 WHERE decode(key) = 'memoserve_checksum') USING (file))
GROUP BY suite, model, step;

-- Lists of what checkpoints memorized, each with the digest of the parts it was made from.
CREATE VIEW memorized_listings AS
SELECT regexp_extract(file, 'suite=([^/]*)/[^/]*/[^/]*/[^/]*$', 1) AS suite,
       regexp_extract(file, 'model=([^/]*)/[^/]*/[^/]*$', 1) AS model,
       regexp_extract(file, 'step=([0-9]+)/[^/]*$', 1)::BIGINT AS step,
       regexp_extract(file, 'memorized-([^/]*)[.]parquet$', 1) AS listing
FROM glob('@STORE@/scores/*/*/*/memorized-*.parquet');

-- Which parts there are and with how many rows, as one digest a suite.
CREATE VIEW sequence_listings AS
SELECT suite, md5(string_agg(name || ' ' || rows, ',' ORDER BY name)) AS listing
FROM (SELECT regexp_extract(file_name, 'suite=([^/]*)/[^/]*$', 1) AS suite,
             regexp_extract(file_name, '[^/]*$') AS name, num_rows AS rows
      FROM parquet_file_metadata('@STORE@/sequences/*/part-*.parquet'))
GROUP BY suite;

-- Lists of the sequences whose window occurs more than once, each with the digest of the parts it was made
-- from.
CREATE VIEW repeat_listings AS
SELECT regexp_extract(file_name, 'suite=([^/]*)/[^/]*$', 1) AS suite,
       regexp_extract(file_name, 'repeats-([^/]*)[.]parquet$', 1) AS listing
FROM parquet_file_metadata('@STORE@/sequences/*/repeats-*.parquet');

CREATE VIEW checkpoint_parts AS
SELECT regexp_extract(filename, 'suite=([^/]*)/[^/]*$', 1) AS suite, * EXCLUDE (filename)
FROM read_parquet('@STORE@/suites/*/checkpoints.parquet', schema = @CHECKPOINT_SCHEMA@, filename = true);

CREATE VIEW check_parts AS
SELECT regexp_extract(filename, 'suite=([^/]*)/[^/]*$', 1) AS suite, * EXCLUDE (filename)
FROM read_parquet('@STORE@/checks/*/checks-*.parquet', schema = @CHECK_SCHEMA@, filename = true);

CREATE VIEW feature_parts AS
SELECT regexp_extract(filename, 'suite=([^/]*)/[^/]*$', 1) AS suite, * EXCLUDE (filename)
FROM read_parquet('@STORE@/features/*/part-*.parquet', schema = @FEATURE_SCHEMA@, filename = true);
