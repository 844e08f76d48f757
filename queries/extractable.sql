-- How much could be extracted by sampling n times, with probability p?
--
-- Beyond the paper: (n, p)-discoverable extraction (Hayes et al. 2024, arXiv 2410.19482), for runs with
-- continuation log-likelihoods (--loglik). A sequence counts if 1 - (1 - exp(ll))^n >= p, that n independent
-- samples at temperature 1 contain the continuation with probability at least p. Solved for ll, ll >=
-- log_likelihood_needed = ln(1 - (1 - p)^(1/n)), with series for ln(1 - p) and exp where p or 1/n is tiny:
-- exact to 12 digits, and no exp(ll) can vanish. p lies between 0 and 1. Intervals are Wilson's, 95%, equal
-- windows as one cluster.
--
-- group: How much is memorized
-- example: memoserve query extractable --samples 1,100 --probabilities 0.5
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: checkpoints (checkpoint names, the last evaluated step of every model): which checkpoints
-- parameter: samples (numbers, 1 10 100 1000 10000): n, how many samples
-- parameter: probabilities (numbers, 0.1 0.5 0.9): p, the probabilities to reach
-- column: checkpoint: the checkpoint, model@step
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: samples: n
-- column: probability: p
-- column: log_likelihood_needed: the continuation log-likelihood from which on a sequence counts, in nats
-- column: evaluated: seen by the checkpoint, with a log-likelihood
-- column: extractable: those that n samples contain with probability at least p
-- column: share: extractable / evaluated, with its interval
-- column: memorized: those that greedy decoding gives; the paper's definition

WITH asked AS MATERIALIZED (SELECT the_suite() AS suite),
chosen AS MATERIALIZED (
    SELECT suite, model, step, checkpoint, model_order, seen
    FROM the_last_checkpoints(getvariable('checkpoints')::VARCHAR[])
    LIMIT 100000
),
-- a = ln(1 - p) / n, and the probability needed of one sample is 1 - exp(a).
question AS MATERIALIZED (
    SELECT samples, probability,
           ln(CASE WHEN a > -1e-3 THEN -a * (1 + a / 2 * (1 + a / 3 * (1 + a / 4 * (1 + a / 5))))
               ELSE 1 - exp(a) END) AS needed,
           row_number() OVER (ORDER BY needed) AS rank
    FROM (
        SELECT samples, probability,
               CASE WHEN probability < 1e-3
                    THEN -probability * (1 + probability * (1 / 2 + probability * (1 / 3 + probability / 4)))
                    ELSE ln(1 - probability) END / samples AS a
        FROM (SELECT DISTINCT unnest(coalesce(getvariable('samples')::DOUBLE[],
                                              [1, 10, 100, 1000, 10000])) AS samples),
             (SELECT DISTINCT unnest(coalesce(getvariable('probabilities')::DOUBLE[],
                                              [0.1, 0.5, 0.9])) AS probability)
        WHERE samples > 0 AND probability > 0 AND probability < 1
    )
),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM asked), false)),
numbered AS (SELECT count(*) > 0 AS windows FROM (SELECT 1 FROM sequences JOIN asked USING (suite) LIMIT 1)),
needs AS MATERIALIZED (SELECT list(needed ORDER BY needed) AS needs FROM question),
-- How many of the questions each sequence passes; first_id is NULL for all together that are the only one of
-- their window.
bin AS MATERIALIZED (
    SELECT c.checkpoint, r.first_id,
           len(list_filter(q.needs, lambda need: need <= s.continuation_ll::DOUBLE)) AS passed,
           coalesce(coalesce(s.matched_prefix, s.matches) = 32, false) AS memorized, count(*) AS n
    FROM scores s JOIN chosen c USING (suite, model, step) CROSS JOIN needs q
    LEFT JOIN repeat r ON r.sequence_id = s.sequence_id
    WHERE s.sequence_id < c.seen AND s.continuation_ll IS NOT NULL AND q.needs IS NOT NULL
    GROUP BY ALL
),
item AS (
    SELECT 'sequences' AS unit, checkpoint, first_id, passed, memorized, n FROM bin
    UNION ALL
    SELECT 'windows', checkpoint, NULL, passed, memorized, n FROM bin, numbered
    WHERE windows AND first_id IS NULL
    UNION ALL
    SELECT 'windows', checkpoint, NULL, max(passed), bool_or(memorized), 1 FROM bin
    WHERE first_id IS NOT NULL GROUP BY checkpoint, first_id
),
total AS (
    SELECT unit, checkpoint, sum(n)::BIGINT AS evaluated, sum(memorized)::BIGINT AS memorized,
           sum(n) ** 2 / sum(squares) AS effective
    FROM (
        SELECT unit, checkpoint, sum(n) AS n, sum(n) FILTER (memorized) AS memorized,
               CASE WHEN first_id IS NULL THEN sum(n) ELSE sum(n) ** 2 END AS squares
        FROM item GROUP BY unit, checkpoint, first_id
    ) GROUP BY ALL
),
counted AS (
    SELECT t.unit, t.checkpoint, q.samples, q.probability, q.needed, t.evaluated, t.memorized, t.effective,
           coalesce(sum(i.n), 0)::BIGINT AS extractable
    FROM total t CROSS JOIN question q
    LEFT JOIN (SELECT unit, checkpoint, passed, sum(n) AS n FROM item GROUP BY ALL) i
           ON i.unit = t.unit AND i.checkpoint = t.checkpoint AND i.passed >= q.rank
    GROUP BY ALL
)
SELECT n.checkpoint, n.unit, n.samples, n.probability, n.needed AS log_likelihood_needed, n.evaluated,
       n.extractable,
       n.extractable / n.evaluated AS share,
       share_low(n.extractable, n.evaluated, n.effective) AS share_low,
       share_high(n.extractable, n.evaluated, n.effective) AS share_high,
       coalesce(n.memorized, 0) AS memorized
FROM counted n JOIN chosen c USING (checkpoint)
ORDER BY n.unit, c.model_order, c.step, n.samples, n.probability;
