-- The windows of one cell of a target and a predictor: $cell is memorized (by the target), hit, miss or
-- false-alarm. windows: how many there are, whatever the limit.
--
-- What each memorized of what it has seen; held-out sequences never count. As in the catalog's `predictions`,
-- what one has seen but was not evaluated on is in no cell, and of what the predictor has not seen it
-- predicts nothing. A branch for another cell reads nothing: its condition is a constant.
WITH target AS (
    SELECT sequence_id FROM memorized
    WHERE suite = $suite AND model = $target_model AND step = $target_step AND sequence_id < $target_seen
),
predicted AS (
    SELECT sequence_id FROM memorized
    WHERE suite = $suite AND model = $predictor_model AND step = $predictor_step
      AND sequence_id < $predictor_seen
),
cell AS (
    SELECT sequence_id FROM target WHERE $cell = 'memorized'
    UNION ALL
    SELECT sequence_id FROM target SEMI JOIN predicted USING (sequence_id) WHERE $cell = 'hit'
    UNION ALL
    SELECT sequence_id FROM target ANTI JOIN predicted USING (sequence_id)
    WHERE $cell = 'miss' AND (sequence_id >= $predictor_seen OR sequence_id IN (
        SELECT sequence_id FROM scores
        WHERE suite = $suite AND model = $predictor_model AND step = $predictor_step))
    UNION ALL
    SELECT sequence_id FROM predicted ANTI JOIN target USING (sequence_id)
    WHERE $cell = 'false-alarm' AND sequence_id IN (
        SELECT sequence_id FROM scores
        WHERE suite = $suite AND model = $target_model AND step = $target_step)
)
SELECT min(c.sequence_id) AS first, s.window_id, count(*) AS occurrences, count(*) OVER () AS windows
FROM cell c
LEFT JOIN (SELECT sequence_id, window_id FROM sequences WHERE suite = $suite) s USING (sequence_id)
GROUP BY s.window_id, CASE WHEN s.window_id IS NULL THEN c.sequence_id END
ORDER BY first LIMIT $limit OFFSET $offset;
