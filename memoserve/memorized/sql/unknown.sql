-- How many scores of a checkpoint lack the signal, counted up to one: see flagged.sql.
SELECT count(*)
FROM (FROM scores
      WHERE suite = $suite AND model = $model AND step = $step
        AND CASE $signal WHEN 'matches' THEN matches
                         WHEN 'matched_prefix' THEN matched_prefix
                         WHEN 'continuation_ll' THEN continuation_ll
                         ELSE coalesce(matches, matched_prefix) END IS NULL
      LIMIT 1);
