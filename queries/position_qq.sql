-- Do memorized sequences arrive like a Poisson process over training?
--
-- The paper's Q-Q plot (Biderman et al. 2023): the memorized ones in each bucket of `size` sequences of the
-- training order, in order of their count, against the quantiles at i / (n + 1) of the Poisson distribution
-- with the same mean. Points on the diagonal: no position is special. Only whole buckets with something
-- evaluated count. The dispersion, variance over mean, is 1 for Poisson; repeats that lie close together
-- raise it, and a share that isn't small lowers it (to 1 - share if sequences are independent). Units as in
-- position: among first occurrences, the often repeated come early.
--
-- group: Order of training
-- example: memoserve query position_qq --size 256
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: checkpoint (checkpoint, the last evaluated step of the largest evaluated model): the checkpoint
-- parameter: size (whole number, 512): sequences per bucket; the paper's
-- column: checkpoint: the checkpoint, model@step
-- column: unit: what is counted, sequences, windows (by first occurrence) or unrepeated (windows that occur
--   once)
-- column: mean: memorized ones per bucket
-- column: dispersion: variance (divisor n - 1) over mean of the counts
-- column: theoretical: the Poisson quantile
-- column: observed: the count at that rank
-- column: buckets: how many ranks have that pair of quantiles

WITH chosen AS MATERIALIZED (
    SELECT suite, model, step, checkpoint, seen,
           coalesce(getvariable('size')::BIGINT, 512) AS size
    FROM the_checkpoint(getvariable('checkpoint'))
),
numbered AS (SELECT count(*) > 0 AS windows FROM (SELECT 1 FROM sequences JOIN chosen USING (suite) LIMIT 1)),
cell AS MATERIALIZED (
    SELECT r.first_id, s.sequence_id // c.size AS bucket,
           count(*) FILTER (coalesce(s.matched_prefix, s.matches) = 32) AS memorized
    FROM scores s JOIN chosen c USING (suite, model, step)
    LEFT JOIN repeats((SELECT suite FROM chosen), false) r ON r.sequence_id = s.sequence_id
    WHERE s.sequence_id < c.seen // c.size * c.size
    GROUP BY ALL
),
unit AS (
    SELECT 'sequences' AS unit UNION ALL SELECT unnest(['unrepeated', 'windows']) FROM numbered WHERE windows
),
item AS (
    SELECT 'sequences' AS unit, bucket, memorized FROM cell
    UNION ALL
    SELECT unit, bucket, memorized FROM cell, (SELECT unnest(['unrepeated', 'windows']) AS unit)
    WHERE first_id IS NULL
    UNION ALL
    SELECT 'windows', first_id // any_value(c.size), max(least(memorized, 1)) FROM cell, chosen c
    WHERE first_id IS NOT NULL GROUP BY first_id
),
-- Buckets without a memorized one are counts too.
bucket AS (
    SELECT u.unit, s.bucket, coalesce(sum(i.memorized), 0)::BIGINT AS observed
    FROM unit u CROSS JOIN (SELECT DISTINCT bucket FROM cell) s
    LEFT JOIN item i ON i.unit = u.unit AND i.bucket = s.bucket
    GROUP BY ALL
),
ranked AS MATERIALIZED (
    SELECT unit, observed, row_number() OVER (PARTITION BY unit ORDER BY observed)
           / (count(*) OVER (PARTITION BY unit) + 1)
           AS quantile
    FROM bucket
),
mean AS MATERIALIZED (
    SELECT unit, sum(observed) / count(*) AS mean,
           (count(*) * sum(observed * observed) - sum(observed) ** 2)
               / nullif((count(*) - 1) * sum(observed), 0) AS dispersion
    FROM ranked GROUP BY unit
),
poisson AS (
    SELECT unit, k, sum(exp(CASE WHEN k = 0 THEN 0
                            ELSE k * ln(greatest(mean, 1e-300)) END - mean - lgamma(k + 1)))
                    OVER (PARTITION BY unit ORDER BY k) AS cumulative
    FROM (SELECT unit, mean, unnest(range((mean + 10 * sqrt(mean) + 40)::BIGINT)) AS k FROM mean)
),
-- Where the tail is too thin to add anything, the first k is the quantile.
quantile AS (SELECT unit, cumulative, min(k) AS k FROM poisson GROUP BY unit, cumulative),
paired AS (
    SELECT r.unit, r.observed, p.k AS theoretical
    FROM ranked r ASOF JOIN quantile p ON p.unit = r.unit AND r.quantile <= p.cumulative
)
SELECT c.checkpoint, p.unit, m.mean, m.dispersion, p.theoretical, p.observed, count(*) AS buckets
FROM paired p JOIN mean m ON m.unit = p.unit CROSS JOIN chosen c
GROUP BY ALL
ORDER BY p.unit, p.observed, p.theoretical;
