-- The same views for a store that has no such files yet (a glob without a match is an error in DuckDB).
-- Filled in: the known columns, as NULL.

CREATE VIEW score_parts AS
SELECT ''::VARCHAR AS suite, ''::VARCHAR AS model, 0::BIGINT AS step, @SCORE_COLUMNS@
WHERE false;

CREATE VIEW part_rows AS
SELECT ''::VARCHAR AS suite, ''::VARCHAR AS model, 0::BIGINT AS step, 0::BIGINT AS first, 0::BIGINT AS last,
       0::BIGINT AS rows
WHERE false;

CREATE VIEW misplaced_parts AS
SELECT ''::VARCHAR AS path, ''::VARCHAR AS name
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
SELECT ''::VARCHAR AS suite, @SEQUENCE_COLUMNS@
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
SELECT ''::VARCHAR AS suite, @CHECKPOINT_COLUMNS@
WHERE false;

CREATE VIEW check_parts AS
SELECT ''::VARCHAR AS suite, @CHECK_COLUMNS@
WHERE false;

CREATE VIEW feature_parts AS
SELECT ''::VARCHAR AS suite, @FEATURE_COLUMNS@
WHERE false;
