-- Does it matter for being memorized when in training a sequence is read?
--
-- The paper's test of whether position in the training order matters (Biderman et al. 2023; it found no
-- effect): what a checkpoint has seen, cut into buckets of equal length by position, the memorized share of
-- each, and what an even spread would give. Repeats blur the question, so it is asked three times: for
-- sequences; for windows, each once, where it occurs first; and for windows that occur only once. Among first
-- occurrences the often repeated come early, and those are memorized more: a fall there says nothing about
-- position. The first and the third are fair. position_test tests them.
--
-- group: Order of training
-- example: memoserve query position --buckets 10
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: checkpoint (checkpoint, the last evaluated step of the largest evaluated model): the checkpoint
-- parameter: buckets (whole number, 20): how many buckets
-- column: checkpoint: the checkpoint, model@step
-- column: unit: what is counted, sequences, windows (by first occurrence) or unrepeated (windows that occur
--   once)
-- column: bucket: from 1 on, in the order of training
-- column: first: the first sequence id of the bucket
-- column: last: the last one
-- column: evaluated: evaluated ones in the bucket
-- column: memorized: the memorized ones among them
-- column: share: memorized / evaluated, with its interval, equal windows of a bucket as one cluster
-- column: expected: what memorized would be if the share were the same everywhere

WITH chosen AS MATERIALIZED (
    SELECT suite, model, step, checkpoint, seen,
           least(coalesce(getvariable('buckets')::BIGINT, 20), sequences_seen, trained) AS buckets
    FROM the_checkpoint(getvariable('checkpoint'))
),
numbered AS (SELECT count(*) > 0 AS windows FROM (SELECT 1 FROM sequences JOIN chosen USING (suite) LIMIT 1)),
-- A cell is a bucket of a repeated window; of all others together where first_id is NULL.
cell AS MATERIALIZED (
    SELECT r.first_id, s.sequence_id * c.buckets // c.seen AS bucket, count(*) AS n,
           count(*) FILTER (coalesce(s.matched_prefix, s.matches) = 32) AS memorized
    FROM scores s JOIN chosen c USING (suite, model, step)
    LEFT JOIN repeats((SELECT suite FROM chosen), false) r ON r.sequence_id = s.sequence_id
    WHERE s.sequence_id < c.seen
    GROUP BY ALL
),
item AS (
    SELECT 'sequences' AS unit, bucket, n, memorized,
           CASE WHEN first_id IS NULL THEN n ELSE n * n END AS squares
    FROM cell
    UNION ALL
    SELECT 'unrepeated', bucket, n, memorized, n FROM cell, numbered WHERE windows AND first_id IS NULL
    UNION ALL
    SELECT 'windows', bucket, n, memorized, n FROM cell, numbered WHERE windows AND first_id IS NULL
    UNION ALL
    SELECT 'windows', first_id * c.buckets // c.seen, 1, max(least(memorized, 1)), 1 FROM cell, chosen c
    WHERE first_id IS NOT NULL GROUP BY first_id, c.buckets, c.seen
),
counted AS (
    SELECT unit, bucket, sum(n)::BIGINT AS evaluated, sum(memorized)::BIGINT AS memorized,
           sum(n) ** 2 / nullif(sum(squares), 0) AS effective
    FROM item GROUP BY ALL
),
total AS (SELECT unit, sum(evaluated)::BIGINT AS evaluated, sum(memorized)::BIGINT AS memorized FROM counted
    GROUP BY unit)
SELECT c.checkpoint, t.unit, b.bucket + 1 AS bucket,
       (b.bucket * c.seen + c.buckets - 1) // c.buckets AS first,
       ((b.bucket + 1) * c.seen + c.buckets - 1) // c.buckets - 1 AS last,
       coalesce(n.evaluated, 0) AS evaluated, coalesce(n.memorized, 0) AS memorized,
       n.memorized / n.evaluated AS share,
       share_low(n.memorized, n.evaluated, n.effective) AS share_low,
       share_high(n.memorized, n.evaluated, n.effective) AS share_high,
       coalesce(n.evaluated, 0) * (t.memorized / t.evaluated) AS expected
FROM chosen c CROSS JOIN total t CROSS JOIN (SELECT unnest(range(c.buckets)) AS bucket FROM chosen c) b
LEFT JOIN counted n ON n.unit = t.unit AND n.bucket = b.bucket
ORDER BY t.unit, b.bucket;
