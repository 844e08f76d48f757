-- Whether two rules flag the same of what the target has seen: of everything or, if $evaluated, of what the
-- target was evaluated on; sequences, or windows if $windows. A rule is what any of the checkpoints
-- $predictors memorized or, with $tau, what has a $signal of at least that; the other rule is $other_...
-- A branch whose condition is false reads nothing: it is a constant.
WITH checkpoint AS MATERIALIZED (
    SELECT suite, model, step, checkpoint, least(sequences_seen, trained) AS seen
    -- The limit: see predictions.
    FROM checkpoints WHERE suite = $suite LIMIT 100000
),
target AS MATERIALIZED (FROM checkpoint WHERE checkpoint = $target LIMIT 1),
memorized_by AS (
    SELECT c.checkpoint, m.sequence_id
    FROM memorized m JOIN checkpoint c USING (suite, model, step) CROSS JOIN target t
    WHERE m.sequence_id < least(c.seen, t.seen)
),
signal_of AS (
    SELECT c.checkpoint, m.sequence_id, m.matches, m.matched_prefix, m.continuation_ll
    FROM scores m JOIN checkpoint c USING (suite, model, step) CROSS JOIN target t
    WHERE m.sequence_id < least(c.seen, t.seen)
),
flagged AS MATERIALIZED (
    SELECT true AS by_one, sequence_id FROM memorized_by
    WHERE $tau::DOUBLE IS NULL AND list_contains($predictors::VARCHAR[], checkpoint)
    UNION ALL
    SELECT true, sequence_id FROM signal_of
    WHERE $tau::DOUBLE IS NOT NULL AND list_contains($predictors::VARCHAR[], checkpoint)
      AND CASE $signal WHEN 'matches' THEN matches WHEN 'matched_prefix' THEN matched_prefix
                       WHEN 'continuation_ll' THEN continuation_ll END >= $tau::DOUBLE
    UNION ALL
    SELECT false, sequence_id FROM memorized_by
    WHERE $other_tau::DOUBLE IS NULL AND list_contains($other_predictors::VARCHAR[], checkpoint)
    UNION ALL
    SELECT false, sequence_id FROM signal_of
    WHERE $other_tau::DOUBLE IS NOT NULL AND list_contains($other_predictors::VARCHAR[], checkpoint)
      AND CASE $other_signal WHEN 'matches' THEN matches WHEN 'matched_prefix' THEN matched_prefix
                             WHEN 'continuation_ll' THEN continuation_ll END >= $other_tau::DOUBLE
),
counted AS MATERIALIZED (
    SELECT by_one, sequence_id FROM flagged WHERE NOT $evaluated
    UNION ALL
    SELECT by_one, sequence_id FROM flagged
    SEMI JOIN (FROM scores s SEMI JOIN target USING (suite, model, step)) USING (sequence_id)
    WHERE $evaluated
),
item AS (
    SELECT DISTINCT f.by_one, coalesce(r.first_id, f.sequence_id) AS id
    FROM counted f
    LEFT JOIN (FROM repeats((SELECT suite FROM target), false) WHERE $windows) r USING (sequence_id)
)
SELECT NOT exists(SELECT 1 FROM item GROUP BY id HAVING count(*) = 1);
