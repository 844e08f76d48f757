-- How much could be extracted if less than the whole continuation had to match?
--
-- Beyond the paper, which asks for all 32 tokens (Biderman et al. 2023): for each continuation length from 1
-- to 32, the share of what a checkpoint has seen of which it generates at least that many tokens verbatim,
-- from the first on (matched_prefix). The last row of each checkpoint is counts'. Intervals are Wilson's,
-- 95%, equal windows as one cluster. Imported scores have no matched prefix and give no rows.
--
-- group: How much is memorized
-- example: memoserve query continuation_lengths --checkpoints 532k@1001,1.2m@1001
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: checkpoints (checkpoint names, the last evaluated step of every model): which checkpoints
-- column: checkpoint: the checkpoint, model@step
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: length: how many tokens of the continuation have to match
-- column: evaluated: evaluated ones of those it has seen
-- column: extractable: those with a matched prefix of at least that length
-- column: share: extractable / evaluated, with its interval

WITH asked AS MATERIALIZED (SELECT the_suite() AS suite),
chosen AS MATERIALIZED (
    SELECT suite, model, step, checkpoint, model_order, seen
    FROM the_last_checkpoints(getvariable('checkpoints')::VARCHAR[])
    LIMIT 100000
),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM asked), false)),
numbered AS (SELECT count(*) > 0 AS windows FROM (SELECT 1 FROM sequences JOIN asked USING (suite) LIMIT 1)),
-- first_id is NULL for all sequences together that are the only one of their window.
bin AS MATERIALIZED (
    SELECT c.checkpoint, r.first_id, s.matched_prefix AS prefix, count(*) AS n
    FROM scores s JOIN chosen c USING (suite, model, step) LEFT JOIN repeat r ON r.sequence_id = s.sequence_id
    WHERE s.sequence_id < c.seen AND s.matched_prefix IS NOT NULL
    GROUP BY ALL
),
item AS (
    SELECT 'sequences' AS unit, checkpoint, first_id, prefix, n FROM bin
    UNION ALL
    SELECT 'windows', checkpoint, NULL, prefix, sum(n)::BIGINT FROM bin, numbered
    WHERE windows AND first_id IS NULL GROUP BY ALL
    UNION ALL
    SELECT 'windows', checkpoint, NULL, prefix, count(*) FROM (
        SELECT checkpoint, first_id, max(prefix) AS prefix FROM bin WHERE first_id IS NOT NULL GROUP BY ALL
    ) GROUP BY ALL
),
total AS (
    SELECT unit, checkpoint, sum(n)::BIGINT AS evaluated, sum(n) ** 2 / sum(squares) AS effective FROM (
        SELECT unit, checkpoint, sum(n) AS n,
               CASE WHEN first_id IS NULL THEN sum(n) ELSE sum(n) ** 2 END AS squares
        FROM item GROUP BY unit, checkpoint, first_id
    ) GROUP BY ALL
),
counted AS (
    SELECT t.unit, t.checkpoint, l.length, t.evaluated, t.effective,
           coalesce(sum(i.n), 0)::BIGINT AS extractable
    FROM total t CROSS JOIN (SELECT unnest(range(1, 33)) AS length) l
    LEFT JOIN (SELECT unit, checkpoint, prefix, sum(n) AS n FROM item GROUP BY ALL) i
           ON i.unit = t.unit AND i.checkpoint = t.checkpoint AND i.prefix >= l.length
    GROUP BY ALL
)
SELECT n.checkpoint, n.unit, n.length, n.evaluated, n.extractable, n.extractable / n.evaluated AS share,
       share_low(n.extractable, n.evaluated, n.effective) AS share_low,
       share_high(n.extractable, n.evaluated, n.effective) AS share_high
FROM counted n JOIN chosen c USING (checkpoint)
ORDER BY n.unit, c.model_order, c.step, n.length;
