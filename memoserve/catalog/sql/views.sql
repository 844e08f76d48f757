-- One row a checkpoint of a suite, evaluated or not. The counts come from Parquet metadata, no column is
-- read.
CREATE VIEW checkpoints AS
WITH counts AS (SELECT suite, model, step, sum(rows) AS evaluated FROM part_rows GROUP BY ALL)
SELECT suite, model, step, model || '@' || step AS checkpoint, model_order, parameters,
       parameters_without_embeddings, sequences_seen, tokens_seen, training_flops,
       training_flops_without_embeddings, trained, coalesce(evaluated, 0)::BIGINT AS evaluated, weights,
       same_weights_as
FROM checkpoint_parts LEFT JOIN counts USING (suite, model, step);

-- One row a comparison of what was read with what else says something about it: the newest of each. model and
-- step are NULL where it is about the data, the suite or a whole model; checked_at is UTC.
CREATE VIEW checks AS
SELECT suite, model, step, name, subject, result, figure, detail, checked_at FROM check_parts
QUALIFY row_number() OVER (PARTITION BY suite, model, step, name, subject
    ORDER BY checked_at DESC, result, detail) = 1;

-- One row a sequence and checkpoint. A log-likelihood that is no number or infinite is of weights that can't
-- be used, and counts as not measured: DuckDB sorts NaN above every number. (-inf is a probability that
-- vanished: it stays.) Added 0: -0.0 equals 0.0, but shows as another number.
CREATE VIEW scores AS
SELECT * REPLACE (
    CASE WHEN continuation_ll < 'infinity'::FLOAT THEN continuation_ll + 0::FLOAT END AS continuation_ll)
FROM score_parts;

-- Checkpoints without a list of what they memorized that is of the parts that are there. The limit: see
-- predictions.
CREATE VIEW unlisted AS
SELECT suite, model, step FROM score_listings ANTI JOIN memorized_listings USING (suite, model, step, listing)
LIMIT 100000;

-- The memorized ones: from a list of them, if it is of the parts that are there; else from two narrow
-- columns, never from masks. That in two halves, each a filter that Parquet's statistics answer where they
-- can; as one with OR it costs three times as much.
CREATE VIEW memorized AS
SELECT suite, model, step, sequence_id FROM memorized_parts
SEMI JOIN score_listings USING (suite, model, step, listing)
UNION ALL
SELECT suite, model, step, sequence_id FROM score_parts SEMI JOIN unlisted USING (suite, model, step)
WHERE matched_prefix = 32
UNION ALL
SELECT suite, model, step, sequence_id FROM score_parts SEMI JOIN unlisted USING (suite, model, step)
WHERE matches = 32 AND matched_prefix IS NULL;

-- One row a sequence: its window (equal windows have equal numbers), and whether it was held out of training.
CREATE VIEW sequences AS
SELECT suite, sequence_id, window_id, sequence_id >= trained AS control
FROM sequence_parts
JOIN (SELECT suite, any_value(trained) AS trained FROM checkpoint_parts GROUP BY suite) USING (suite);
