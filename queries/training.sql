-- How does memorization of the same sequences grow over training?
--
-- The paper's curves over training (Biderman et al. 2023), each checkpoint over one common set: what the
-- earliest of them has seen and all were evaluated on. counts gives each checkpoint over all that it has
-- seen, both new and earlier data; here the data stays the same and only training goes on. Intervals are
-- Wilson's, 95%, equal windows as one cluster. Checkpoints that have seen nothing are left out.
--
-- group: Over training
-- example: memoserve query training
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: checkpoints (checkpoint names, every evaluated one): which checkpoints
-- column: checkpoint: the checkpoint, model@step
-- column: step: its training step
-- column: parameters: its parameters
-- column: training_flops: its training compute, 6 x parameters x tokens
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: common_below: the common set lies below this sequence id
-- column: evaluated: the common set's size
-- column: memorized: the memorized ones of it
-- column: share: memorized / evaluated, with its interval

WITH asked AS MATERIALIZED (SELECT the_suite() AS suite),
chosen AS MATERIALIZED (
    SELECT suite, model, step, checkpoint, model_order, parameters, training_flops,
           min(seen) OVER () AS common_below, count(*) OVER () AS checkpoints
    FROM the_checkpoints(getvariable('checkpoints')::VARCHAR[])
    WHERE sequences_seen > 0
    LIMIT 100000
),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM asked), false)),
numbered AS (SELECT count(*) > 0 AS windows FROM (SELECT 1 FROM sequences JOIN asked USING (suite) LIMIT 1)),
-- Ids that all were evaluated on, as bitmaps of 64 ids.
block AS MATERIALIZED (
    SELECT block, bit_and(ids) AS ids FROM (
        SELECT c.checkpoint, c.checkpoints, s.sequence_id >> 6 AS block,
               bit_or(1::UBIGINT << (s.sequence_id & 63)::UBIGINT) AS ids
        FROM scores s JOIN chosen c USING (suite, model, step) WHERE s.sequence_id < c.common_below
        GROUP BY ALL
    ) GROUP BY block HAVING count(*) = any_value(checkpoints)
),
repeated AS MATERIALIZED (
    SELECT r.sequence_id, r.first_id FROM repeat r JOIN block b ON b.block = r.sequence_id >> 6
    WHERE (b.ids >> (r.sequence_id & 63)::UBIGINT) & 1 = 1
),
common AS MATERIALIZED (
    SELECT a.n AS sequences, a.n - coalesce(r.n - r.windows, 0) AS windows,
           a.n ** 2 / nullif(a.n + coalesce(r.squares - r.n, 0), 0) AS effective
    FROM (SELECT coalesce(sum(bit_count(ids)), 0)::BIGINT AS n FROM block) a
    CROSS JOIN (SELECT sum(n)::BIGINT AS n, count(*) AS windows, sum(n * n)::BIGINT AS squares
                FROM (SELECT count(*) AS n FROM repeated GROUP BY first_id)) r
),
found AS (
    SELECT c.checkpoint, count(*) AS sequences, count(DISTINCT coalesce(r.first_id, m.sequence_id)) AS windows
    FROM memorized m JOIN chosen c USING (suite, model, step) JOIN block b ON b.block = m.sequence_id >> 6
    LEFT JOIN repeat r ON r.sequence_id = m.sequence_id
    WHERE m.sequence_id < c.common_below AND (b.ids >> (m.sequence_id & 63)::UBIGINT) & 1 = 1
    GROUP BY ALL
),
counted AS (
    SELECT 'sequences' AS unit, c.checkpoint, x.sequences AS evaluated, coalesce(f.sequences, 0) AS memorized,
           x.effective
    FROM chosen c CROSS JOIN common x LEFT JOIN found f USING (checkpoint)
    UNION ALL
    SELECT 'windows', c.checkpoint, x.windows, coalesce(f.windows, 0), x.windows
    FROM chosen c CROSS JOIN common x CROSS JOIN numbered n LEFT JOIN found f USING (checkpoint)
    WHERE n.windows
)
SELECT c.checkpoint, c.step, c.parameters, c.training_flops, n.unit, c.common_below, n.evaluated, n.memorized,
       n.memorized / nullif(n.evaluated, 0) AS share,
       share_low(n.memorized, n.evaluated, n.effective) AS share_low,
       share_high(n.memorized, n.evaluated, n.effective) AS share_high
FROM counted n JOIN chosen c USING (checkpoint)
ORDER BY n.unit, c.model_order, c.step;
