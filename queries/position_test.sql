-- Is what is memorized spread evenly over training, or does it rise or fall?
--
-- Two tests behind the paper's finding that the position in the training order does not matter (Biderman et
-- al. 2023), on the buckets and units of position: a chi-square test that all buckets have the same memorized
-- share, and the least-squares line of memorized (0 or 1) over position (0 = first, 1 = last sequence seen),
-- as in the paper's regression plots. Equal windows are memorized together, so beside the plain test stands
-- one divided by the design effect (Rao and Scott's first-order correction, windows as clusters), and the
-- line's standard error is the sandwich estimate clustered by window. chi_square_tail gives p-values to ten
-- digits, but the test itself needs smallest_expected of 5 or so.
--
-- group: Order of training
-- example: memoserve query position_test --checkpoint 1.2m@1001
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: checkpoint (checkpoint, the last evaluated step of the largest evaluated model): the checkpoint
-- parameter: buckets (whole number, 20): how many buckets
-- column: checkpoint: the checkpoint, model@step
-- column: unit: what is counted, sequences, windows (by first occurrence) or unrepeated (windows that occur
--   once)
-- column: evaluated: evaluated ones of those it has seen
-- column: memorized: the memorized ones among them
-- column: smallest_expected: the smallest count of memorized ones that an even spread expects in a bucket
-- column: chi_square: the statistic, over buckets with anything evaluated
-- column: degrees: its degrees of freedom
-- column: p_value: how likely a statistic at least as large is if position doesn't matter and every sequence
--   is independent
-- column: design_effect: how much larger the statistic is to be expected because equal windows go together; 1
--   without repeats
-- column: p_value_clustered: the p-value of chi_square / design_effect
-- column: intercept: the line's share at the first position
-- column: slope: how much the share changes from the first position to the last; 95% interval slope_low to
--   slope_high
-- column: slope_error: the slope's standard error, windows as clusters

WITH chosen AS MATERIALIZED (
    SELECT suite, model, step, checkpoint, seen,
           least(coalesce(getvariable('buckets')::BIGINT, 20), sequences_seen, trained) AS buckets
    FROM the_checkpoint(getvariable('checkpoint'))
),
numbered AS (SELECT count(*) > 0 AS windows FROM (SELECT 1 FROM sequences JOIN chosen USING (suite) LIMIT 1)),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM chosen), false)),
scored AS NOT MATERIALIZED (
    SELECT s.sequence_id AS id, r.first_id, (coalesce(s.matched_prefix, s.matches) = 32)::INTEGER AS y
    FROM scores s JOIN chosen c USING (suite, model, step) LEFT JOIN repeat r ON r.sequence_id = s.sequence_id
    WHERE s.sequence_id < c.seen
),
-- cluster is the window of repeated sequences; NULL: a cluster of its own.
item AS NOT MATERIALIZED (
    SELECT u.unit, u.cluster, u.y, u.id, u.id * c.buckets // c.seen AS bucket,
           (u.id + 0.5::DOUBLE) / c.seen AS x
    FROM (
        SELECT 'sequences' AS unit, id, first_id AS cluster, y FROM scored
        UNION ALL
        SELECT 'unrepeated', id, NULL, y FROM scored, numbered WHERE windows AND first_id IS NULL
        UNION ALL
        SELECT 'windows', id, NULL, y FROM scored, numbered WHERE windows AND first_id IS NULL
        UNION ALL
        SELECT 'windows', first_id, NULL, max(y) FROM scored WHERE first_id IS NOT NULL GROUP BY first_id
    ) u CROSS JOIN chosen c
),
cell AS MATERIALIZED (SELECT unit, cluster, bucket, count(*) AS n, sum(y)::BIGINT AS m FROM item
    GROUP BY ALL),
bucket AS MATERIALIZED (SELECT unit, bucket, sum(n)::BIGINT AS n, sum(m)::BIGINT AS m FROM cell GROUP BY ALL),
total AS MATERIALIZED (
    SELECT unit, sum(n)::BIGINT AS n, sum(m)::BIGINT AS m, count(*) - 1 AS degrees, sum(m) / sum(n) AS p,
           sum(m) / sum(n) * (1 - sum(m) / sum(n)) AS pq, min(n) * (sum(m) / sum(n)) AS smallest_expected
    FROM bucket GROUP BY unit
),
statistic AS (
    SELECT unit, sum((b.m - b.n * t.p) ** 2 / b.n ORDER BY b.bucket) / nullif(t.pq, 0) AS chi_square
    FROM bucket b JOIN total t USING (unit) GROUP BY unit, t.pq
),
-- What to expect of the statistic (times pq): the sum over clusters of the sum over buckets of u * u / n less
-- (the sum of u)^2 / total n, with u the cluster's sum of y - p in the bucket; for clusters as they are, and
-- for every row as its own.
spread AS (
    SELECT unit, sum(CASE WHEN cluster IS NULL THEN single ELSE together END ORDER BY cluster)
                 / nullif(sum(single ORDER BY cluster), 0) AS design_effect
    FROM (
        SELECT unit, cluster,
               sum((c.m * (1 - t.p) ** 2 + (c.n - c.m) * t.p ** 2) * (1 / b.n - 1 / t.n)
                   ORDER BY bucket) AS single,
               sum((c.m - c.n * t.p) ** 2 / b.n ORDER BY bucket)
                   - (sum(c.m) - sum(c.n) * any_value(t.p)) ** 2 / any_value(t.n)
               AS together
        FROM cell c JOIN bucket b USING (unit, bucket) JOIN total t USING (unit) GROUP BY unit, cluster
    ) GROUP BY unit
),
-- Least squares from sums of whole numbers: exact, whatever the order of summing.
line AS MATERIALIZED (
    SELECT unit, (i / n + 0.5) / seen AS x, m / n AS y, (n * ii - i * i)::DOUBLE / n / seen ** 2 AS sxx,
           seen * (n * im - i * m)::DOUBLE / nullif((n * ii - i * i)::DOUBLE, 0) AS slope
    FROM (
        SELECT unit, count(*)::HUGEINT AS n, sum(id)::HUGEINT AS i, sum(id::HUGEINT * id)::HUGEINT AS ii,
               sum(y)::HUGEINT AS m, sum(id * y)::HUGEINT AS im
        FROM item GROUP BY unit
    ) CROSS JOIN chosen
),
-- Decimals for the same reason.
sandwich AS (
    SELECT unit, sum(squares) AS squares, sum(clusters) AS clusters FROM (
        SELECT unit, cluster, CASE WHEN cluster IS NULL THEN count(*) ELSE 1 END AS clusters,
               CASE WHEN cluster IS NULL THEN sum((part * part)::DECIMAL(38, 18))
                    ELSE ((sum(part::DECIMAL(38, 18))::DOUBLE) ** 2)::DECIMAL(38, 18) END AS squares
        FROM (
            SELECT i.unit, i.cluster, (i.x - l.x) * (i.y - l.y - l.slope * (i.x - l.x)) AS part
            FROM item i JOIN line l ON l.unit = i.unit
        ) GROUP BY unit, cluster
    ) GROUP BY unit
),
tested AS (
    SELECT t.*, s.chi_square, v.design_effect, l.y - l.slope * l.x AS intercept,
           l.slope, sqrt(w.squares::DOUBLE * w.clusters / nullif(w.clusters - 1, 0))
               / nullif(l.sxx, 0) AS slope_error
    FROM total t JOIN statistic s USING (unit) JOIN spread v USING (unit) JOIN line l USING (unit)
    JOIN sandwich w USING (unit)
)
SELECT c.checkpoint, t.unit, t.n AS evaluated, t.m AS memorized, t.smallest_expected,
       CASE WHEN t.degrees > 0 THEN t.chi_square END AS chi_square, t.degrees,
       chi_square_tail(t.chi_square, t.degrees) AS p_value, t.design_effect,
       chi_square_tail(t.chi_square / nullif(t.design_effect, 0), t.degrees) AS p_value_clustered,
       t.intercept, t.slope, t.slope - 1.959963984540054 * t.slope_error AS slope_low,
       t.slope + 1.959963984540054 * t.slope_error AS slope_high, t.slope_error
FROM tested t CROSS JOIN chosen c
ORDER BY t.unit;
