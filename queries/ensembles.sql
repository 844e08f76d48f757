-- Do two cheap predictors together beat one, for what they cost?
--
-- Beyond the paper, which predicts from one run at a time: for all pairs of predictors (triples too, with
-- members = 3), predicting what any of them memorized (union) or what all did (intersection), beside each
-- alone. Precision and recall_corpus are as in predictors: a sequence that a member has not seen is not
-- predicted by that member, one that it has seen and was not evaluated on is left out. Checkpoints of one
-- model cost what their latest costs, different models add up. Cheapest first. Intervals are Wilson's, 95%,
-- equal windows as one cluster.
--
-- group: Which predictor to choose
-- example: memoserve query ensembles --members 3
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: target (checkpoint, the last evaluated step of the largest evaluated model): what is predicted
-- parameter: predictors (checkpoint names, every smaller model at its last evaluated step): at most 62, of
--   steps not after the target's
-- parameter: members (whole number, 2): how many together at most, 1 to 3
-- column: target: the predicted checkpoint
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: predictors: the predicting checkpoints
-- column: operation: alone, union or intersection
-- column: training_flops: what they cost together, 6 x parameters x tokens
-- column: flops_share: that compute as a share of the target's
-- column: predicted: predicted to be memorized, of what the target has seen and was evaluated on
-- column: target_memorized: memorized by the target
-- column: hits: predicted and memorized by the target
-- column: precision: hits / predicted, with its interval
-- column: recall_corpus: hits / target_memorized, with its interval
-- column: f1: harmonic mean of precision and recall_corpus

WITH target AS MATERIALIZED (FROM the_target()),
asked AS MATERIALIZED (
    SELECT getvariable('predictors')::VARCHAR[] AS names,
           coalesce(getvariable('members')::BIGINT, 2) AS members
),
predictor AS MATERIALIZED (
    SELECT checkpoint, model, training_flops, seen, bit_index,
           CASE WHEN count(*) OVER () > 62 THEN error('at most 62 predictors at a time')
               ELSE 1::BIGINT << bit_index END AS bit
    FROM (
        SELECT p.*, row_number() OVER (ORDER BY p.model_order, p.step) - 1 AS bit_index
        FROM (
            SELECT p.* FROM the_checkpoints(NULL) p CROSS JOIN target t CROSS JOIN asked a
            WHERE p.checkpoint <> t.checkpoint AND p.step <= t.step
              AND (list_contains(a.names, p.checkpoint)
                   OR (a.names IS NULL AND p.model_order < t.model_order))
            QUALIFY a.names IS NOT NULL OR row_number() OVER (PARTITION BY p.model ORDER BY p.step DESC) = 1
        ) p
    )
),
team AS MATERIALIZED (
    SELECT bit_index AS team, bit AS mask, [checkpoint] AS names, 1 AS size FROM predictor
    UNION ALL
    SELECT a.bit_index + 64 * b.bit_index, a.bit | b.bit, [a.checkpoint, b.checkpoint], 2
    FROM predictor a JOIN predictor b ON a.bit_index < b.bit_index CROSS JOIN asked x WHERE x.members >= 2
    UNION ALL
    SELECT a.bit_index + 64 * b.bit_index + 4096 * c.bit_index, a.bit | b.bit | c.bit,
           [a.checkpoint, b.checkpoint, c.checkpoint], 3
    FROM predictor a JOIN predictor b ON a.bit_index < b.bit_index
    JOIN predictor c ON b.bit_index < c.bit_index
    CROSS JOIN asked x
    WHERE x.members >= 3
),
cost AS (
    SELECT mask, sum(flops ORDER BY model) AS training_flops FROM (
        SELECT t.mask, p.model, max(p.training_flops) AS flops
        FROM team t JOIN predictor p ON t.mask & p.bit <> 0 GROUP BY t.mask, p.model
    ) GROUP BY mask
),
-- The target is a member too, with bit 62.
member AS MATERIALIZED (
    SELECT checkpoint, bit FROM predictor
    UNION ALL SELECT checkpoint, 1::BIGINT << 62 FROM target LIMIT 100000
),
everyone AS MATERIALIZED (SELECT bit_or(bit) AS bits, list({'bit': bit, 'seen': seen}) AS predictors
    FROM predictor),
item AS (
    SELECT e.unit, e.id, CASE WHEN e.repeated THEN e.window_number END AS cluster,
           bit_or(CASE WHEN e.memorized THEN m.bit ELSE 0 END) AS memorized_by, bit_or(m.bit) AS known
    FROM evaluations((SELECT suite FROM target), (SELECT list(checkpoint) FROM member)) e
    JOIN member m USING (checkpoint)
    GROUP BY ALL
),
-- cluster is NULL for all that are clusters of their own.
kind AS MATERIALIZED (
    SELECT i.unit, i.cluster, i.memorized_by >> 62 = 1 AS truth, i.memorized_by,
           CASE WHEN i.known & a.bits = a.bits THEN 0
                ELSE coalesce(list_bit_or([p.bit FOR p IN a.predictors IF p.bit & i.known = 0
                                           AND i.id < p.seen]), 0) END AS lacking,
           count(*) AS n
    FROM item i CROSS JOIN everyone a WHERE i.known >> 62 = 1 GROUP BY ALL
),
judged AS (
    SELECT k.unit, t.mask, o.operation, k.cluster, k.truth, k.n,
           CASE WHEN o.operation = 'intersection' THEN k.memorized_by & t.mask = t.mask
               ELSE k.memorized_by & t.mask <> 0 END AS predicted
    FROM kind k JOIN team t ON k.lacking & t.mask = 0
    JOIN (VALUES ('alone'), ('intersection'), ('union')) o(operation)
        ON (o.operation = 'alone') = (t.size = 1)
),
cluster AS (
    SELECT unit, mask, operation, cluster, sum(n) FILTER (predicted) AS predicted,
           sum(n) FILTER (truth) AS memorized,
           sum(n) FILTER (predicted AND truth) AS hits
    FROM judged GROUP BY ALL
),
counted AS (
    SELECT unit, mask, operation, coalesce(sum(predicted), 0)::BIGINT AS predicted,
           coalesce(sum(memorized), 0)::BIGINT AS memorized, coalesce(sum(hits), 0)::BIGINT AS hits,
           sum(predicted) ** 2 / sum(CASE WHEN cluster IS NULL THEN predicted
                                     ELSE predicted ** 2 END) AS predicted_effective,
           sum(memorized) ** 2 / sum(CASE WHEN cluster IS NULL THEN memorized
                                     ELSE memorized ** 2 END) AS memorized_effective
    FROM cluster GROUP BY ALL
)
SELECT x.checkpoint AS target, c.unit, array_to_string(t.names, ' + ') AS predictors, c.operation,
       k.training_flops,
       k.training_flops / nullif(x.training_flops, 0) AS flops_share, c.predicted,
       c.memorized AS target_memorized, c.hits,
       c.hits / nullif(c.predicted, 0) AS precision,
       share_low(c.hits, c.predicted, c.predicted_effective) AS precision_low,
       share_high(c.hits, c.predicted, c.predicted_effective) AS precision_high,
       c.hits / nullif(c.memorized, 0) AS recall_corpus,
       share_low(c.hits, c.memorized, c.memorized_effective) AS recall_corpus_low,
       share_high(c.hits, c.memorized, c.memorized_effective) AS recall_corpus_high,
       2 * c.hits / nullif(c.predicted + c.memorized, 0) AS f1
FROM counted c JOIN team t USING (mask) JOIN cost k USING (mask) CROSS JOIN target x
ORDER BY c.unit, k.training_flops, t.team, c.operation;
