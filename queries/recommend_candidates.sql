-- Which rules could predict what the target memorized, and what does each find where it is judged?
--
-- What `memoserve recommend` selects from. A rule is a checkpoint and a line: what it memorized (the paper's
-- rule, Biderman et al. 2023), or what has a signal of at least tau; or the union of what two checkpoints
-- memorized. Candidates cost less to train than the target. The training order is cut into blocks: even
-- blocks are for choosing a rule, odd ones for judging it. Every occurrence of a window counts in the block
-- of its first one, so no window is on both sides. As in predictors, what a predictor has not seen counts as
-- not predicted, what it has seen and was not evaluated on is left out. Checkpoints of one model cost what
-- their latest costs, different models add up.
--
-- group: Which predictor to choose
-- example: memoserve query recommend_candidates --target 1.2m@1001 -o candidates.parquet
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: target (checkpoint, the last evaluated step of the largest evaluated model): what is predicted
-- parameter: predictors (checkpoint names, every evaluated one that costs less than the target): what may
--   predict
-- parameter: blocks (whole number, 1000): how many blocks the training order is cut into
-- parameter: lowest (whole number, 1; 8 if the target has over 10 million scores): the lowest tau for matches
--   and matched_prefix
-- column: target: the predicted checkpoint
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: predictors: the predicting checkpoints
-- column: operation: alone or union
-- column: signal: memorized, matches, matched_prefix or continuation_ll
-- column: tau: the line; empty for memorized; for continuation_ll not below -32 nats
-- column: training_flops: what the predictors cost together, 6 x parameters x tokens
-- column: flops_share: that compute as a share of the target's
-- column: choosing_flagged: predicted to be memorized, in the even blocks
-- column: choosing_target_memorized: memorized by the target, in the even blocks
-- column: choosing_hits: both, in the even blocks
-- column: judging_flagged: predicted to be memorized, in the odd blocks
-- column: judging_target_memorized: memorized by the target, in the odd blocks
-- column: judging_hits: both, in the odd blocks
-- column: choosing_flagged_effective: effective number of choosing_flagged, equal windows as one cluster;
--   empty for unions
-- column: choosing_target_memorized_effective: effective number of choosing_target_memorized; empty for
--   unions
-- column: flagged_effective: effective number of judging_flagged; empty for unions
-- column: target_memorized_effective: effective number of judging_target_memorized; empty for unions
-- column: block_flagged: judging_flagged block by block, for the bootstrap; blocks without anything are left
--   out
-- column: block_target_memorized: judging_target_memorized of the same blocks
-- column: block_hits: judging_hits of the same blocks

WITH target AS MATERIALIZED (FROM the_target()),
asked AS MATERIALIZED (
    SELECT getvariable('predictors')::VARCHAR[] AS names,
           coalesce(getvariable('blocks')::BIGINT, 1000) AS blocks,
           coalesce(getvariable('lowest')::BIGINT, CASE WHEN evaluated > 10_000_000 THEN 8
                    ELSE 1 END) AS lowest
    FROM target
),
candidate AS MATERIALIZED (
    SELECT p.suite, p.model, p.step, p.checkpoint, p.training_flops, p.seen,
           row_number() OVER (ORDER BY p.model_order, p.step) AS ordinal,
           row_number() OVER (PARTITION BY p.model ORDER BY p.step DESC) = 1 AS latest
    FROM the_checkpoints(NULL) p CROSS JOIN target t CROSS JOIN asked a
    WHERE p.checkpoint <> t.checkpoint AND p.training_flops < t.training_flops
      AND (a.names IS NULL OR list_contains(a.names, p.checkpoint))
    LIMIT 100000
),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM target), false)),
unit AS MATERIALIZED (
    SELECT 'sequences' AS unit
    UNION ALL
    SELECT 'windows' WHERE exists(SELECT 1 FROM sequences JOIN target USING (suite))
),
-- Which of them were evaluated on everything that they have seen: what those have seen needs no looking up.
complete AS MATERIALIZED (
    SELECT checkpoint FROM coverage((SELECT suite FROM target)) WHERE complete
),
-- What the target memorized and, if that isn't everything, what it was evaluated on. id: the sequence's, or
-- that of the window's first occurrence.
memorized_sequence AS MATERIALIZED (
    SELECT m.sequence_id AS id, coalesce(r.first_id, m.sequence_id) AS window_number
    FROM memorized m JOIN target t USING (suite, model, step) LEFT JOIN repeat r USING (sequence_id)
    WHERE m.sequence_id < t.seen
),
memorized_truth AS MATERIALIZED (
    SELECT 'sequences' AS unit, id, window_number FROM memorized_sequence
    UNION ALL
    SELECT DISTINCT 'windows', window_number, window_number FROM memorized_sequence
    WHERE 'windows' IN (SELECT unit FROM unit)
),
scanned_target AS MATERIALIZED (FROM (FROM target ANTI JOIN complete USING (checkpoint)) LIMIT 1),
evaluated_sequence AS (
    SELECT s.sequence_id AS id, coalesce(r.first_id, s.sequence_id) AS window_number
    FROM scores s JOIN scanned_target t USING (suite, model, step) LEFT JOIN repeat r USING (sequence_id)
    WHERE s.sequence_id < t.seen
),
evaluated_truth AS MATERIALIZED (
    SELECT 'sequences' AS unit, id FROM evaluated_sequence
    UNION ALL
    SELECT DISTINCT 'windows', window_number FROM evaluated_sequence
    WHERE 'windows' IN (SELECT unit FROM unit)
),
-- What has a signal above the lowest lines, by the signal's number. Whole numbers and half nats: exact, and
-- few enough to try them all. (Not by unnesting a list of signals: DuckDB 2.0.0 then stops with an internal
-- error where the rows are many.)
above AS MATERIALIZED (
    SELECT c.ordinal, s.sequence_id, coalesce(r.first_id, s.sequence_id) AS window_number,
           r.first_id IS NOT NULL AS repeated,
           a.lowest, s.matches, s.matched_prefix, s.continuation_ll
    FROM scores s JOIN candidate c USING (suite, model, step) CROSS JOIN asked a
    LEFT JOIN repeat r USING (sequence_id)
    WHERE s.sequence_id < c.seen
      AND (s.matches >= least(a.lowest, 32) OR s.matched_prefix >= least(a.lowest, 32)
           OR s.continuation_ll >= -32)
),
scored AS NOT MATERIALIZED (
    SELECT ordinal, sequence_id, window_number, repeated, 1 AS signal, 32::DOUBLE AS tau FROM above
    WHERE coalesce(matched_prefix, matches) = 32
    UNION ALL
    SELECT ordinal, sequence_id, window_number, repeated, 2, matches::DOUBLE FROM above
    WHERE matches >= lowest
    UNION ALL
    SELECT ordinal, sequence_id, window_number, repeated, 3, matched_prefix::DOUBLE FROM above
    WHERE matched_prefix >= lowest
    UNION ALL
    SELECT ordinal, sequence_id, window_number, repeated, 4, floor(2 * continuation_ll::DOUBLE) / 2 FROM above
    WHERE continuation_ll >= -32
),
-- Windows are clusters of their own, and so are sequences whose window occurs once.
flagged AS (
    SELECT 'sequences' AS unit, ordinal, signal, tau, sequence_id AS id, window_number, repeated FROM scored
    WHERE tau IS NOT NULL
    UNION ALL
    SELECT 'windows', ordinal, signal, tau, sequence_id, window_number, false FROM scored
    WHERE tau IS NOT NULL AND NOT repeated AND 'windows' IN (SELECT unit FROM unit)
    UNION ALL
    SELECT 'windows', ordinal, signal, max(tau), window_number, window_number, false FROM scored
    WHERE tau IS NOT NULL AND repeated AND 'windows' IN (SELECT unit FROM unit)
    GROUP BY ordinal, signal, window_number
),
judged AS (
    SELECT f.unit, f.ordinal, f.signal, f.tau, f.window_number, f.repeated, h.id IS NOT NULL AS hit
    FROM flagged f CROSS JOIN target t
    LEFT JOIN memorized_truth h ON h.unit = f.unit AND h.id = f.id
    LEFT JOIN evaluated_truth e ON e.unit = f.unit AND e.id = f.id
    WHERE e.id IS NOT NULL OR (f.id < t.seen AND t.checkpoint IN (SELECT checkpoint FROM complete))
),
counted AS MATERIALIZED (
    SELECT unit, ordinal, ['memorized', 'matches', 'matched_prefix', 'continuation_ll'][signal] AS signal,
           tau,
           block, cluster, n, hits
    FROM (
        SELECT j.unit, j.ordinal, j.signal, j.tau, j.window_number * a.blocks // t.seen AS block,
               CASE WHEN j.repeated THEN j.window_number END AS cluster, count(*) AS n,
               count(*) FILTER (j.hit) AS hits
        FROM judged j CROSS JOIN asked a CROSS JOIN target t GROUP BY ALL
    )
),
-- By how much the sum of squares of the clusters' sizes grows as the line comes down.
grown AS (
    SELECT *, sum(n) OVER (PARTITION BY unit, ordinal, signal, cluster ORDER BY tau DESC) ** 2
              - (sum(n) OVER (PARTITION BY unit, ordinal, signal, cluster ORDER BY tau DESC)
                  - n) ** 2 AS squares
    FROM counted WHERE cluster IS NOT NULL
    UNION ALL
    SELECT *, n::DOUBLE FROM counted WHERE cluster IS NULL
),
bin AS MATERIALIZED (
    SELECT unit, ordinal, signal, tau, block, sum(n) AS n, sum(hits) AS hits, sum(squares) AS squares
    FROM grown
    GROUP BY ALL
),
-- What the target memorized, for each candidate: but for what it has seen and was not evaluated on.
occurrence AS MATERIALIZED (
    SELECT 'sequences' AS unit, id AS sequence_id, id FROM memorized_truth WHERE unit = 'sequences'
    UNION ALL
    SELECT 'windows', id, id FROM memorized_truth WHERE unit = 'windows'
    UNION
    SELECT 'windows', r.sequence_id, m.id FROM memorized_truth m JOIN repeat r ON r.first_id = m.id
    WHERE m.unit = 'windows'
),
scanned AS MATERIALIZED (FROM (FROM candidate ANTI JOIN complete USING (checkpoint)) LIMIT 100000),
known AS (
    SELECT DISTINCT o.unit, c.ordinal, o.id
    FROM scores s JOIN scanned c USING (suite, model, step) JOIN occurrence o USING (sequence_id)
    WHERE s.sequence_id < c.seen
    UNION
    SELECT o.unit, c.ordinal, o.id
    FROM candidate c SEMI JOIN complete USING (checkpoint) JOIN occurrence o ON o.sequence_id < c.seen
),
wanted AS MATERIALIZED (
    SELECT unit, ordinal, window_number * a.blocks // t.seen AS block, sum(n) AS n, sum(n * n) AS squares
    FROM (
        SELECT m.unit, c.ordinal, m.window_number, count(*) AS n
        FROM memorized_truth m CROSS JOIN candidate c
        LEFT JOIN known k ON k.unit = m.unit AND k.ordinal = c.ordinal AND k.id = m.id
        WHERE k.id IS NOT NULL OR m.id >= c.seen
        GROUP BY ALL
    ) CROSS JOIN asked a CROSS JOIN target t
    GROUP BY ALL
),
-- One row a checkpoint and line. The paper's rule is there even where nothing was memorized.
line AS MATERIALIZED (
    SELECT DISTINCT unit, ordinal, signal, tau FROM bin
    UNION
    SELECT u.unit, c.ordinal, 'memorized', 32 FROM unit u CROSS JOIN candidate c
),
found AS (
    SELECT l.unit, l.ordinal, l.signal, l.tau, b.block, b.n AS flagged, 0 AS memorized, b.hits,
           b.squares AS flagged_squares,
           0 AS memorized_squares
    FROM line l
    JOIN bin b ON b.unit = l.unit AND b.ordinal = l.ordinal AND b.signal = l.signal AND b.tau >= l.tau
    UNION ALL
    SELECT l.unit, l.ordinal, l.signal, l.tau, w.block, 0, w.n, 0, 0, w.squares
    FROM line l JOIN wanted w ON w.unit = l.unit AND w.ordinal = l.ordinal
),
alone AS (
    SELECT l.unit, l.ordinal, l.signal, l.tau, f.block, coalesce(sum(f.flagged), 0) AS flagged,
           coalesce(sum(f.memorized), 0) AS memorized, coalesce(sum(f.hits), 0) AS hits,
           coalesce(sum(f.flagged_squares), 0) AS flagged_squares,
           coalesce(sum(f.memorized_squares), 0) AS memorized_squares
    FROM line l LEFT JOIN found f USING (unit, ordinal, signal, tau) GROUP BY ALL
),
-- Two together, by the paper's rule. A pattern of candidates fits into one number: of more than 62, each
-- model's latest.
member AS MATERIALIZED (
    SELECT checkpoint, model, training_flops, seen, ordinal,
           1::BIGINT << (row_number() OVER (ORDER BY ordinal) - 1) AS bit
    FROM candidate WHERE latest OR (SELECT count(*) FROM candidate) <= 62
    QUALIFY row_number() OVER (ORDER BY ordinal) <= 62
),
pair AS MATERIALIZED (
    SELECT a.ordinal * 100000 + b.ordinal AS pair, a.bit | b.bit AS mask,
           a.checkpoint || ' + ' || b.checkpoint AS names,
           CASE WHEN a.model = b.model THEN greatest(a.training_flops, b.training_flops)
                ELSE a.training_flops + b.training_flops END AS training_flops
    FROM member a JOIN member b ON a.ordinal < b.ordinal
),
-- The target is one of them, with bit 62.
everyone AS MATERIALIZED (
    SELECT checkpoint, bit FROM member UNION ALL SELECT checkpoint, 1::BIGINT << 62 FROM target LIMIT 100000
),
members AS MATERIALIZED (SELECT bit_or(bit) AS bits, list({'bit': bit, 'seen': seen}) AS members FROM member),
pattern AS (
    SELECT e.unit, e.window_number, e.id, bit_or(CASE WHEN e.memorized THEN m.bit ELSE 0 END) AS memorized_by,
           bit_or(m.bit) AS known
    FROM evaluations((SELECT suite FROM target), (SELECT list(checkpoint) FROM everyone)) e
    JOIN everyone m USING (checkpoint)
    GROUP BY ALL
),
kind AS MATERIALIZED (
    SELECT i.unit, i.window_number * a.blocks // t.seen AS block, i.memorized_by >> 62 = 1 AS truth,
           i.memorized_by,
           CASE WHEN i.known & o.bits = o.bits THEN 0
                ELSE coalesce(list_bit_or([p.bit FOR p IN o.members IF p.bit & i.known = 0
                                           AND i.id < p.seen]), 0) END AS lacking,
           count(*) AS n
    FROM pattern i CROSS JOIN asked a CROSS JOIN target t CROSS JOIN members o WHERE i.known >> 62 = 1
    GROUP BY ALL
),
together AS (
    SELECT k.unit, p.pair, k.block, coalesce(sum(k.n) FILTER (k.memorized_by & p.mask <> 0), 0) AS flagged,
           coalesce(sum(k.n) FILTER (k.truth), 0) AS memorized,
           coalesce(sum(k.n) FILTER (k.truth AND k.memorized_by & p.mask <> 0), 0) AS hits
    FROM kind k JOIN pair p ON k.lacking & p.mask = 0 GROUP BY ALL
),
rule AS (
    SELECT a.unit, c.checkpoint AS predictors, 'alone' AS operation, a.signal,
           CASE WHEN a.signal <> 'memorized' THEN a.tau END AS tau, c.training_flops, a.ordinal AS sorting,
           a.block, a.flagged, a.memorized, a.hits, a.flagged_squares, a.memorized_squares
    FROM alone a JOIN candidate c USING (ordinal)
    UNION ALL
    SELECT g.unit, p.names, 'union', 'memorized', NULL, p.training_flops, p.pair, g.block, g.flagged,
           g.memorized, g.hits, NULL, NULL
    FROM together g JOIN pair p USING (pair)
)
SELECT t.checkpoint AS target, r.unit, r.predictors, r.operation, r.signal, r.tau, r.training_flops,
       r.training_flops / nullif(t.training_flops, 0) AS flops_share,
       coalesce(sum(r.flagged) FILTER (r.block % 2 = 0), 0)::BIGINT AS choosing_flagged,
       coalesce(sum(r.memorized) FILTER (r.block % 2 = 0), 0)::BIGINT AS choosing_target_memorized,
       coalesce(sum(r.hits) FILTER (r.block % 2 = 0), 0)::BIGINT AS choosing_hits,
       coalesce(sum(r.flagged) FILTER (r.block % 2 = 1), 0)::BIGINT AS judging_flagged,
       coalesce(sum(r.memorized) FILTER (r.block % 2 = 1), 0)::BIGINT AS judging_target_memorized,
       coalesce(sum(r.hits) FILTER (r.block % 2 = 1), 0)::BIGINT AS judging_hits,
       (sum(r.flagged) FILTER (r.block % 2 = 0)) ** 2
           / nullif(sum(r.flagged_squares) FILTER (r.block % 2 = 0), 0)
           AS choosing_flagged_effective,
       (sum(r.memorized) FILTER (r.block % 2 = 0)) ** 2
           / nullif(sum(r.memorized_squares) FILTER (r.block % 2 = 0), 0)
           AS choosing_target_memorized_effective,
       (sum(r.flagged) FILTER (r.block % 2 = 1)) ** 2
           / nullif(sum(r.flagged_squares) FILTER (r.block % 2 = 1), 0) AS flagged_effective,
       (sum(r.memorized) FILTER (r.block % 2 = 1)) ** 2
           / nullif(sum(r.memorized_squares) FILTER (r.block % 2 = 1), 0)
           AS target_memorized_effective,
       coalesce(list(r.flagged::BIGINT ORDER BY r.block) FILTER (r.block % 2 = 1), []) AS block_flagged,
       coalesce(list(r.memorized::BIGINT ORDER BY r.block) FILTER (r.block % 2 = 1),
                []) AS block_target_memorized,
       coalesce(list(r.hits::BIGINT ORDER BY r.block) FILTER (r.block % 2 = 1), []) AS block_hits
FROM rule r CROSS JOIN target t
GROUP BY t.checkpoint, t.training_flops, r.unit, r.predictors, r.operation, r.signal, r.tau, r.training_flops,
    r.sorting
ORDER BY r.unit, r.operation, r.training_flops, r.sorting, r.signal = 'memorized' DESC, r.signal, r.tau DESC;
