-- How do precision and recall grow with a predictor's compute and size, whatever the target's size?
--
-- Beside the paper's figures of precision and recall by compute (Biderman et al. 2023): what `memoserve
-- scaling` fits a law to. Every model at one step is the target, every evaluated checkpoint of a model up
-- to its size that cost less predicts it, by the paper's rule; compute and size count as ratios to the
-- target's. Precision and recall_corpus as in predictors: what a predictor has not seen counts as not
-- predicted, what it has seen and was not evaluated on is left out. The effective numbers take equal windows
-- as one cluster.
--
-- group: Which predictor to choose
-- example: memoserve query scaling --smaller_than 1.2m
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: step (whole number, the last one): each model is the target at its last evaluated step up to
--   this one
-- parameter: smaller_than (model, none): the name of a model; only smaller models are targets
-- column: target: the checkpoint that is predicted
-- column: target_model: its model
-- column: target_order: its model's rank by size, from 0 on
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: predictor: the predicting checkpoint
-- column: predictor_model: its model
-- column: training_flops: the predictor's training compute, 6 x parameters x tokens
-- column: compute_ratio: that compute divided by the target's
-- column: size_ratio: the predictor's parameters divided by the target's
-- column: predictor_memorized: memorized by the predictor, of what the target was evaluated on
-- column: target_memorized: memorized by the target
-- column: both_memorized: memorized by both
-- column: precision: both_memorized / predictor_memorized
-- column: recall_corpus: both_memorized / target_memorized
-- column: predictor_effective: effective number of predictor_memorized
-- column: target_effective: effective number of target_memorized

WITH suite AS MATERIALIZED (SELECT the_suite() AS suite),
checkpoint AS MATERIALIZED (
    SELECT c.model, c.step, c.checkpoint, c.model_order, c.parameters, c.training_flops, c.seen
    FROM the_checkpoints(NULL) c
    WHERE c.model_order < coalesce((SELECT min(l.model_order) FROM checkpoints l JOIN suite USING (suite)
                                    WHERE l.model = getvariable('smaller_than')::VARCHAR), 1000000)
),
target AS MATERIALIZED (
    FROM checkpoint WHERE step <= coalesce(getvariable('step')::BIGINT, step)
    QUALIFY row_number() OVER (PARTITION BY model ORDER BY step DESC) = 1
),
pair AS MATERIALIZED (
    SELECT t.checkpoint AS target, t.model AS target_model, t.model_order AS target_order,
           p.checkpoint AS predictor,
           p.model AS predictor_model, p.model_order, p.step, p.seen, p.training_flops,
           p.training_flops / t.training_flops AS compute_ratio, p.parameters / t.parameters AS size_ratio
    FROM target t JOIN checkpoint p ON p.model_order <= t.model_order AND p.checkpoint <> t.checkpoint
                                   AND p.training_flops < t.training_flops
),
-- Which checkpoints memorized an id, as a string of bits, one for each.
member AS MATERIALIZED (
    SELECT checkpoint, seen, bit_index, set_bit(repeat('0', checkpoints)::BIT, bit_index::INTEGER, 1) AS bits,
           repeat('0', checkpoints)::BIT AS none
    FROM (SELECT *, row_number() OVER () - 1 AS bit_index, (count(*) OVER ())::INTEGER AS checkpoints
        FROM checkpoint) LIMIT 100000
),
everyone AS MATERIALIZED (SELECT list({'bits': bits, 'seen': seen}) AS members, any_value(none) AS none
    FROM member),
item AS (
    SELECT e.unit, e.id, CASE WHEN e.repeated THEN e.window_number END AS cluster,
           bit_or(CASE WHEN e.memorized THEN m.bits ELSE m.none END) AS memorized_by, bit_or(m.bits) AS known
    FROM evaluations((SELECT suite FROM suite), (SELECT list(checkpoint) FROM checkpoint)) e
    JOIN member m USING (checkpoint)
    GROUP BY ALL
),
-- may: which of them can say something of the id, or have not seen it. cluster is NULL for all that are
-- clusters of their own.
kind AS MATERIALIZED (
    SELECT i.unit, i.cluster, i.memorized_by, i.known, count(*) AS n,
           CASE WHEN bit_count(i.known) = bit_length(i.known) THEN i.known
                ELSE i.known | coalesce(list_bit_or([m.bits FOR m IN a.members IF i.id >= m.seen]),
                                        a.none) END AS may
    FROM item i CROSS JOIN everyone a GROUP BY ALL
),
unit AS (SELECT DISTINCT unit FROM kind),
counted AS (
    SELECT p.target, p.predictor, k.unit, k.cluster,
           sum(k.n) FILTER (get_bit(k.memorized_by, x.bit_index::INTEGER) = 1
                            AND get_bit(k.known, t.bit_index::INTEGER) = 1) AS predicted,
           sum(k.n) FILTER (get_bit(k.memorized_by, x.bit_index::INTEGER) = 1
                            AND get_bit(k.memorized_by, t.bit_index::INTEGER) = 1) AS hits,
           sum(k.n) FILTER (get_bit(k.memorized_by, t.bit_index::INTEGER) = 1
                            AND get_bit(k.may, x.bit_index::INTEGER) = 1) AS wanted
    FROM kind k CROSS JOIN pair p JOIN member t ON t.checkpoint = p.target
    JOIN member x ON x.checkpoint = p.predictor
    GROUP BY ALL
),
pair_total AS (
    SELECT target, predictor, unit, sum(predicted)::BIGINT AS n, sum(hits)::BIGINT AS hits,
           sum(wanted)::BIGINT AS wanted,
           sum(predicted) ** 2 / sum(CASE WHEN cluster IS NULL THEN predicted
                                     ELSE predicted ** 2 END) AS effective,
           sum(wanted) ** 2 / sum(CASE WHEN cluster IS NULL THEN wanted
                                  ELSE wanted ** 2 END) AS wanted_effective
    FROM counted GROUP BY ALL
)
SELECT p.target, p.target_model, p.target_order, u.unit, p.predictor, p.predictor_model, p.training_flops,
       p.compute_ratio,
       p.size_ratio, coalesce(s.n, 0) AS predictor_memorized, coalesce(s.wanted, 0) AS target_memorized,
       coalesce(s.hits, 0) AS both_memorized, coalesce(s.hits, 0) / nullif(s.n, 0) AS precision,
       coalesce(s.hits, 0) / nullif(s.wanted, 0) AS recall_corpus, s.effective AS predictor_effective,
       s.wanted_effective AS target_effective
FROM pair p CROSS JOIN unit u
LEFT JOIN pair_total s ON s.target = p.target AND s.predictor = p.predictor AND s.unit = u.unit
ORDER BY u.unit, p.target_order, p.model_order, p.step;
