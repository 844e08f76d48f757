-- About how many windows a checkpoint was evaluated on and how many it memorized: the repeated ones, of
-- forecast_windows, once each. Parameters: suite, model, step; the same again, and what it has seen.
WITH evaluated AS (
    SELECT coalesce(sum(rows), 0)::BIGINT AS rows FROM part_rows WHERE suite = ? AND model = ? AND step = ?
),
repeated AS (
    SELECT count(*) - count(DISTINCT first_id) AS more FROM forecast_windows WHERE representative IS NOT NULL
),
hit AS (
    SELECT count(*) AS windows
    FROM (SELECT sequence_id FROM memorized
          WHERE suite = ? AND model = ? AND step = ? AND sequence_id < ?) m
    LEFT JOIN forecast_windows w USING (sequence_id)
    WHERE w.sequence_id IS NULL OR w.representative = w.sequence_id
)
SELECT greatest(e.rows - r.more, h.windows) AS evaluated, h.windows AS memorized
FROM evaluated e CROSS JOIN repeated r CROSS JOIN hit h;
