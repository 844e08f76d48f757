-- The same views for a store that has no such files yet (a glob without a match
-- is an error in DuckDB).

CREATE VIEW score_parts AS
SELECT ''::VARCHAR AS suite, ''::VARCHAR AS model, 0::BIGINT AS step, 0::BIGINT AS sequence_id,
       0::UTINYINT AS matches, 0::UTINYINT AS matched_prefix, 0::UINTEGER AS match_mask,
       0::FLOAT AS continuation_ll
WHERE false;

CREATE VIEW part_rows AS
SELECT ''::VARCHAR AS suite, ''::VARCHAR AS model, 0::BIGINT AS step, 0::BIGINT AS first, 0::BIGINT AS last,
       0::BIGINT AS rows
WHERE false;

CREATE VIEW score_listings AS
SELECT ''::VARCHAR AS suite, ''::VARCHAR AS model, 0::BIGINT AS step, ''::VARCHAR AS listing
WHERE false;

CREATE VIEW memorized_listings AS
SELECT ''::VARCHAR AS suite, ''::VARCHAR AS model, 0::BIGINT AS step, ''::VARCHAR AS listing
WHERE false;

CREATE VIEW memorized_parts AS
SELECT ''::VARCHAR AS suite, ''::VARCHAR AS model, 0::BIGINT AS step, ''::VARCHAR AS listing,
       0::BIGINT AS sequence_id
WHERE false;

CREATE VIEW sequence_parts AS
SELECT ''::VARCHAR AS suite, 0::BIGINT AS sequence_id, 0::BIGINT AS window_id
WHERE false;

CREATE VIEW sequence_listings AS
SELECT ''::VARCHAR AS suite, ''::VARCHAR AS listing
WHERE false;

CREATE VIEW repeat_listings AS
SELECT ''::VARCHAR AS suite, ''::VARCHAR AS listing
WHERE false;

CREATE VIEW repeat_parts AS
SELECT ''::VARCHAR AS suite, ''::VARCHAR AS listing, 0::BIGINT AS sequence_id, 0::BIGINT AS window_id
WHERE false;

CREATE VIEW checkpoint_parts AS
SELECT ''::VARCHAR AS suite, ''::VARCHAR AS model, 0::BIGINT AS step, 0::INTEGER AS model_order,
       0::BIGINT AS parameters, 0::BIGINT AS parameters_without_embeddings, 0::BIGINT AS sequences_seen,
       0::BIGINT AS tokens_seen, 0::DOUBLE AS training_flops, 0::DOUBLE AS training_flops_without_embeddings,
       0::BIGINT AS trained, ''::VARCHAR AS weights, ''::VARCHAR AS same_weights_as
WHERE false;

CREATE VIEW check_parts AS
SELECT ''::VARCHAR AS suite, ''::VARCHAR AS model, 0::BIGINT AS step, ''::VARCHAR AS name,
       ''::VARCHAR AS subject,
       ''::VARCHAR AS result, 0::DOUBLE AS figure, ''::VARCHAR AS detail,
       '2000-01-01'::TIMESTAMP AS checked_at
WHERE false;
