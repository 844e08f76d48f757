WITH counted AS (
    SELECT suite, model, step,
           sum(CASE WHEN first < seen THEN least(rows, seen - first) ELSE 0 END) AS seen_rows
    FROM part_rows JOIN (
        SELECT suite, model, step, least(sequences_seen, trained) AS seen FROM checkpoints
    ) USING (suite, model, step)
    GROUP BY ALL
)
SELECT c.*, least(sequences_seen, trained) AS wanted,
       greatest(0, least(sequences_seen, trained) - coalesce(seen_rows, 0))::BIGINT AS missing
FROM checkpoints c LEFT JOIN counted USING (suite, model, step)
WHERE suite = coalesce(getvariable('suite'), suite)
ORDER BY suite, model_order, step
