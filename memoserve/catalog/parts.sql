-- The files of a store as three views. @STORE@ is the store's path inside a string literal of a glob.
-- hive_types: a model may be named "12", and must stay text.

CREATE VIEW score_parts AS
SELECT suite, model, step, sequence_id, matches, matched_prefix, match_mask, continuation_ll
FROM read_parquet('@STORE@/scores/*/*/*/part-*.parquet', hive_partitioning = true,
                  hive_types = {'suite': VARCHAR, 'model': VARCHAR, 'step': BIGINT});

CREATE VIEW sequence_parts AS
SELECT suite, sequence_id, window_id
FROM read_parquet('@STORE@/sequences/*/part-*.parquet', hive_partitioning = true, hive_types = {'suite': VARCHAR});

CREATE VIEW checkpoint_parts AS
SELECT suite, model, step, model_order, parameters, parameters_without_embeddings, sequences_seen, tokens_seen,
       training_flops, training_flops_without_embeddings, trained
FROM read_parquet('@STORE@/suites/*/checkpoints.parquet', hive_partitioning = true, hive_types = {'suite': VARCHAR});
