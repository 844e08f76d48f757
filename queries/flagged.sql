-- How many sequences would each line flag, before anything is known of the target?
--
-- Beyond the paper: what a prediction costs in false alarms is bounded by what it flags, and that needs no
-- score of the target. One row for each evaluated checkpoint and line, memorized or a signal of at least tau
-- as in thresholds, and for what either of two checkpoints memorized. Counted over what each checkpoint has
-- seen. `memoserve recommend --max-flagged` uses it for a target that is not trained yet.
--
-- group: Which predictor to choose
-- example: memoserve query flagged --checkpoints 532k@1001
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: checkpoints (checkpoint names, every evaluated one): which checkpoints
-- parameter: lowest (whole number, 1; 8 if a checkpoint has over 10 million scores): the lowest tau for
--   matches and matched_prefix
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: predictors: the predicting checkpoints
-- column: operation: alone or union (of two; of more than 62 checkpoints, of each model's latest)
-- column: signal: memorized, matches, matched_prefix or continuation_ll
-- column: tau: the line; empty for memorized; whole numbers, for continuation_ll half nats from -32 on
-- column: flagged: predicted to be memorized

WITH asked AS MATERIALIZED (SELECT the_suite() AS suite),
chosen AS MATERIALIZED (
    SELECT suite, model, step, checkpoint, seen,
           coalesce(getvariable('lowest')::BIGINT, CASE WHEN max(evaluated) OVER () > 10_000_000 THEN 8
                    ELSE 1 END) AS lowest,
           row_number() OVER (ORDER BY model_order, step) AS ordinal,
           row_number() OVER (PARTITION BY model ORDER BY step DESC) = 1 AS latest
    FROM the_checkpoints(getvariable('checkpoints')::VARCHAR[])
    LIMIT 100000
),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM asked), false)),
unit AS MATERIALIZED (
    SELECT 'sequences' AS unit
    UNION ALL
    SELECT 'windows' WHERE exists(SELECT 1 FROM sequences JOIN asked USING (suite))
),
-- first_id is NULL for all sequences together that are the only one of their window.
scored AS (
    SELECT c.ordinal, c.lowest, r.first_id, s.matches, s.matched_prefix,
           CASE WHEN s.continuation_ll >= -32 THEN floor(2 * s.continuation_ll::DOUBLE)
               / 2 END AS continuation_ll, count(*) AS n
    FROM scores s JOIN chosen c USING (suite, model, step) LEFT JOIN repeat r USING (sequence_id)
    WHERE s.sequence_id < c.seen
      AND (s.matches >= least(c.lowest, 32) OR s.matched_prefix >= least(c.lowest, 32)
           OR s.continuation_ll >= -32)
    GROUP BY ALL
),
bin AS MATERIALIZED (
    SELECT ordinal, signal, first_id, tau, sum(n)::BIGINT AS n FROM (
        SELECT ordinal, first_id, n, unnest([
                   {signal: 'memorized', tau: CASE
                       WHEN coalesce(matched_prefix, matches) = 32 THEN 32.0::DOUBLE END},
                   {signal: 'matches', tau: CASE WHEN matches >= lowest THEN matches::DOUBLE END},
                   {signal: 'matched_prefix', tau: CASE
                       WHEN matched_prefix >= lowest THEN matched_prefix::DOUBLE END},
                   {signal: 'continuation_ll', tau: continuation_ll}
               ], recursive := true)
        FROM scored
    ) WHERE tau IS NOT NULL GROUP BY ALL
),
item AS (
    SELECT 'sequences' AS unit, ordinal, signal, tau, n FROM bin
    UNION ALL
    SELECT 'windows', ordinal, signal, tau, n FROM bin WHERE first_id IS NULL
    UNION ALL
    SELECT 'windows', ordinal, signal, max(tau), 1 FROM bin WHERE first_id IS NOT NULL
    GROUP BY ordinal, signal, first_id
),
-- The paper's rule is there even where nothing was memorized.
line AS (
    SELECT unit, ordinal, signal, tau, sum(n) AS n FROM item SEMI JOIN unit USING (unit) GROUP BY ALL
    UNION ALL
    SELECT u.unit, c.ordinal, 'memorized', 32, 0 FROM unit u CROSS JOIN chosen c
),
alone AS (
    SELECT unit, ordinal, signal, tau,
           sum(sum(n)) OVER (PARTITION BY unit, ordinal, signal ORDER BY tau DESC) AS flagged
    FROM line GROUP BY unit, ordinal, signal, tau
),
member AS MATERIALIZED (
    SELECT checkpoint, ordinal, 1::BIGINT << (row_number() OVER (ORDER BY ordinal) - 1) AS bit
    FROM chosen WHERE latest OR (SELECT count(*) FROM chosen) <= 62
    QUALIFY row_number() OVER (ORDER BY ordinal) <= 62
),
pattern AS (
    SELECT e.unit, e.id, bit_or(m.bit) AS memorized_by
    FROM evaluations((SELECT suite FROM asked), (SELECT list(checkpoint) FROM member)) e
    JOIN member m ON m.checkpoint = e.checkpoint
    WHERE e.memorized GROUP BY ALL
),
kind AS MATERIALIZED (SELECT unit, memorized_by, count(*) AS n FROM pattern GROUP BY ALL),
together AS (
    SELECT u.unit, a.ordinal, b.ordinal AS other, a.checkpoint || ' + ' || b.checkpoint AS names,
           coalesce(sum(k.n) FILTER (k.memorized_by & (a.bit | b.bit) <> 0), 0) AS flagged
    FROM unit u CROSS JOIN member a JOIN member b ON a.ordinal < b.ordinal LEFT JOIN kind k ON k.unit = u.unit
    GROUP BY ALL
),
rule AS (
    SELECT a.unit, c.checkpoint AS predictors, 'alone' AS operation, a.signal, a.ordinal, 0 AS other,
           CASE WHEN a.signal <> 'memorized' THEN a.tau END AS tau, a.flagged
    FROM alone a JOIN chosen c USING (ordinal)
    UNION ALL
    SELECT unit, names, 'union', 'memorized', ordinal, other, NULL, flagged FROM together
)
SELECT unit, predictors, operation, signal, tau, flagged::BIGINT AS flagged
FROM rule
ORDER BY unit, operation, ordinal, other, signal = 'memorized' DESC, signal, tau DESC;
