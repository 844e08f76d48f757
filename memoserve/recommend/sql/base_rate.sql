-- Share of what a checkpoint has seen and was evaluated on that it memorized; $unit: sequences or windows.
WITH evaluated AS (
    SELECT suite, s.sequence_id, coalesce(s.matched_prefix, s.matches) = 32 AS memorized
    FROM scores s JOIN checkpoints c USING (suite, model, step)
    WHERE suite = $suite AND model = $model AND step = $step
      AND s.sequence_id < least(c.sequences_seen, c.trained)
),
item AS (
    SELECT sequence_id AS id, memorized FROM evaluated WHERE $unit = 'sequences'
    UNION ALL
    SELECT w.window_id, memorized FROM evaluated JOIN sequences w USING (suite, sequence_id)
    WHERE $unit = 'windows'
)
SELECT count(DISTINCT id) FILTER (memorized) / count(DISTINCT id) FROM item;
