-- What is written: the rows of `flagged`, one a sequence, with its window and how many rows have that window
-- (NULL if windows aren't numbered).
CREATE OR REPLACE TEMP TABLE predicted AS
SELECT sequence_id, predictor, matches, matched_prefix, continuation_ll, window_id,
       CASE WHEN window_id IS NOT NULL THEN count(*) OVER (PARTITION BY window_id) END AS occurrences
FROM (
    SELECT sequence_id, string_agg(predictor, ' + ' ORDER BY ordinal) AS predictor, max(matches) AS matches,
           max(matched_prefix) AS matched_prefix, max(continuation_ll) AS continuation_ll
    FROM flagged GROUP BY sequence_id
)
LEFT JOIN (SELECT sequence_id, window_id FROM sequences WHERE suite = $suite) USING (sequence_id)
ORDER BY sequence_id;
