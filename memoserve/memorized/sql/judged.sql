-- The same with what the target made of each: NULL where it has not seen it or was not evaluated on it.
CREATE OR REPLACE TEMP TABLE predicted AS
SELECT *, CASE
    WHEN sequence_id < $seen AND sequence_id IN (
        SELECT sequence_id FROM scores WHERE suite = $suite AND model = $model AND step = $step)
    THEN sequence_id IN (
        SELECT sequence_id FROM memorized WHERE suite = $suite AND model = $model AND step = $step)
END AS target_memorized
FROM predicted ORDER BY sequence_id;
