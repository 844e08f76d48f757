-- The sequences that one predictor has seen and flags, added to the table `flagged`: what has a signal of at
-- least $threshold or, without one, what is memorized. $signal is matches, matched_prefix or continuation_ll;
-- NULL: matches, or the matched prefix where the store has no more. $ordinal: which of several predictors.
INSERT INTO flagged
SELECT $predictor, $ordinal, sequence_id, matches, matched_prefix, continuation_ll
FROM scores
WHERE suite = $suite AND model = $model AND step = $step AND sequence_id < $seen
  AND CASE WHEN $threshold::DOUBLE IS NULL THEN coalesce(matched_prefix, matches) = 32
           ELSE CASE $signal WHEN 'matches' THEN matches
                             WHEN 'matched_prefix' THEN matched_prefix
                             WHEN 'continuation_ll' THEN continuation_ll
                             ELSE coalesce(matches, matched_prefix) END::DOUBLE >= $threshold::DOUBLE END;
