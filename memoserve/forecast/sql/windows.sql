-- What a role is about, looked up once for all ranges of ids: its target and its predictors (the predictor,
-- `latest`, and its earlier checkpoint).
--
-- Then the windows that occur more than once among the sequences that the target has seen: how often, when
-- last, and which of their sequences stands for them, the first that the target was evaluated on (NULL: none,
-- or the target isn't asked for its scores). Every other sequence is a window of its own.
--
-- Then what the predictors say of each of those windows: a window that they have seen has their signals
-- wherever it occurs.
--
-- Variables: suite; target, predictor, earlier (model@step; the last two may be NULL); labelled (whether the
-- target's scores may be read).
CREATE OR REPLACE TEMP TABLE forecast_target AS
SELECT suite, model, step, least(sequences_seen, trained) AS seen, sequences_seen >= trained AS complete,
       greatest(sequences_seen // greatest(step, 1), 1) AS batch
FROM checkpoints
WHERE suite = getvariable('suite')::VARCHAR AND checkpoint = getvariable('target')::VARCHAR;

CREATE OR REPLACE TEMP TABLE forecast_predictors AS
SELECT suite, model, step, checkpoint = getvariable('predictor')::VARCHAR AS latest,
       least(sequences_seen, trained) AS seen
FROM checkpoints
WHERE suite = getvariable('suite')::VARCHAR
  AND checkpoint IN (getvariable('predictor')::VARCHAR, getvariable('earlier')::VARCHAR);

CREATE OR REPLACE TEMP TABLE forecast_windows AS
WITH repeated AS MATERIALIZED (
    SELECT r.sequence_id, r.first_id
    FROM repeats(getvariable('suite')::VARCHAR, false) r JOIN forecast_target t ON r.sequence_id < t.seen
),
standing AS (
    SELECT r.first_id, min(s.sequence_id) AS representative
    FROM scores s JOIN forecast_target t USING (suite, model, step) JOIN repeated r USING (sequence_id)
    WHERE getvariable('labelled')::BOOLEAN
    GROUP BY r.first_id
)
SELECT r.sequence_id, r.first_id, w.occurrences, w.last_id, d.representative
FROM repeated r
JOIN (SELECT first_id, count(*) AS occurrences, max(sequence_id) AS last_id
      FROM repeated GROUP BY first_id) w USING (first_id)
LEFT JOIN standing d USING (first_id);

CREATE OR REPLACE TEMP TABLE forecast_signals AS
SELECT w.first_id AS window_number, p.latest,
       arg_min(s.matched_prefix, s.sequence_id) AS matched_prefix,
       arg_min(s.matches, s.sequence_id) AS matches,
       arg_min(s.continuation_ll, s.sequence_id) AS continuation_ll
FROM scores s
JOIN forecast_predictors p USING (suite, model, step)
JOIN forecast_windows w USING (sequence_id)
WHERE s.sequence_id < p.seen
GROUP BY ALL;
