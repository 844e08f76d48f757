-- What is known of each sequence of a range of ids that a target has seen, before the target is trained: the
-- occurrences of its window, what the relation `features` says, and the signals of one cheaper checkpoint
-- (`predictor`) and of an earlier one of the same model. With `labelled`, one row a window, and whether the
-- target memorized it; without, one row a sequence, and no score of the target is read.
--
-- After windows.sql. Variables: suite; labelled; first, stop (ids from first up to below stop);
-- keep_memorized, keep_other (shares of the windows to keep, of those that the target memorized and of the
-- others, by the windows' numbers).
-- Filled in: @FEATURES@, columns of `features` as f.name, each with a comma before it; @CLUSTER@, what
-- groups near-duplicates; @FEATURE_ROWS@, where features come from; @WHOLE_OCCURRENCES@, @WHOLE_STEPS@, what
-- they say of the whole training data.
WITH evaluated AS (
    SELECT s.sequence_id, p.latest, s.matched_prefix, s.matches, s.continuation_ll
    FROM scores s JOIN forecast_predictors p USING (suite, model, step)
    WHERE s.sequence_id >= getvariable('first')::BIGINT AND s.sequence_id < getvariable('stop')::BIGINT
      AND s.sequence_id < p.seen
),
signal AS (
    SELECT sequence_id AS window_number, latest, matched_prefix, matches, continuation_ll
    FROM evaluated ANTI JOIN forecast_windows USING (sequence_id)
    UNION ALL
    FROM forecast_signals
),
labelled AS (
    SELECT s.sequence_id, coalesce(s.matched_prefix, s.matches) = 32 AS memorized
    FROM scores s JOIN forecast_target t USING (suite, model, step)
    WHERE getvariable('labelled')::BOOLEAN
      AND s.sequence_id >= getvariable('first')::BIGINT AND s.sequence_id < getvariable('stop')::BIGINT
      AND s.sequence_id < t.seen AND coalesce(s.matched_prefix, s.matches) IS NOT NULL
),
numbered AS (
    SELECT sequence_id FROM sequences
    WHERE suite = getvariable('suite')::VARCHAR
      AND sequence_id >= getvariable('first')::BIGINT AND sequence_id < getvariable('stop')::BIGINT
),
-- What is known at all: where windows aren't numbered, what has features or signals.
known AS (
    SELECT sequence_id
    FROM (FROM numbered
          UNION ALL
          FROM (SELECT sequence_id FROM evaluated WHERE latest UNION SELECT sequence_id FROM @FEATURE_ROWS@)
          ANTI JOIN numbered USING (sequence_id))
    WHERE NOT getvariable('labelled')::BOOLEAN
      AND sequence_id >= getvariable('first')::BIGINT AND sequence_id < getvariable('stop')::BIGINT
      AND sequence_id < (SELECT seen FROM forecast_target)
),
item AS (
    SELECT i.sequence_id, coalesce(w.first_id, i.sequence_id) AS window_number, i.memorized,
           coalesce(w.occurrences, 1) AS occurrences, coalesce(w.last_id, i.sequence_id) AS last_id,
           -- Between 0 and 1, from the window's number alone.
           (hash(window_number) >> 11) / 9007199254740992.0 AS drawn
    FROM (SELECT sequence_id, NULL::BOOLEAN AS memorized FROM known
          UNION ALL SELECT sequence_id, memorized FROM labelled) i
    LEFT JOIN forecast_windows w USING (sequence_id)
    WHERE NOT getvariable('labelled')::BOOLEAN OR w.sequence_id IS NULL OR w.representative = i.sequence_id
)
SELECT i.sequence_id, i.window_number, @CLUSTER@ AS cluster, i.memorized,
       i.occurrences AS sequences, coalesce(@WHOLE_OCCURRENCES@, i.occurrences) AS occurrences,
       coalesce(@WHOLE_STEPS@, (t.seen - 1 - i.last_id) // t.batch) AS steps_since_last@FEATURES@,
       l.matched_prefix, l.matches, l.continuation_ll,
       e.matched_prefix AS earlier_matched_prefix, e.matches AS earlier_matches,
       e.continuation_ll AS earlier_continuation_ll
FROM item i
CROSS JOIN forecast_target t
LEFT JOIN @FEATURE_ROWS@ f USING (sequence_id)
LEFT JOIN (FROM signal WHERE latest) l USING (window_number)
LEFT JOIN (FROM signal WHERE NOT latest) e USING (window_number)
WHERE i.drawn < CASE WHEN i.memorized THEN getvariable('keep_memorized')::DOUBLE
                     ELSE getvariable('keep_other')::DOUBLE END;
