-- How wide are the bootstrap confidence bands of precision and recall by threshold?
--
-- Beyond the paper: the precision-recall curve of thresholds with the percentiles (95%) of a bootstrap over
-- blocks of the training order, which makes no assumption about how sequences are linked within a block. A
-- window counts in the block of its first occurrence, so that none is in two. Each replicate weighs each
-- block by a Poisson variable of mean 1, drawn from an MD5 of block, replicate and seed: the same answer
-- every time. Lines as in thresholds, of a log-likelihood half nats from -64 on (all below count at -64).
-- With few blocks that have anything to count, under 20 or so, percentiles are too narrow. Reads all scores
-- of the predictor.
--
-- group: Which predictor to choose
-- example: memoserve query threshold_bands --predictor 532k@1001
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: target (checkpoint, the last evaluated step of the largest evaluated model): what is predicted
-- parameter: predictor (checkpoint, the largest smaller model at its last evaluated step not after the
--   target's): what predicts
-- parameter: signal (continuation_ll|matches|matched_prefix, the first of these that the predictor has): the
--   signal
-- parameter: blocks (whole number, 200): how many blocks the training order is cut into
-- parameter: replicates (whole number, 500): how many replicates
-- parameter: seed (whole number, 1): the seed
-- column: target: the predicted checkpoint
-- column: predictor: the predicting checkpoint
-- column: signal: continuation_ll, matches or matched_prefix
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: blocks: blocks with something flagged or memorized
-- column: average_precision: of the whole curve, with its interval
-- column: tau: the threshold
-- column: flagged: predicted to be memorized
-- column: hits: those of them that the target memorized
-- column: precision: hits / flagged, with its interval
-- column: recall_corpus: share of all that the target memorized, with its interval

WITH target AS MATERIALIZED (FROM the_target()),
predictor AS MATERIALIZED (
    SELECT p.suite, p.model, p.step, p.checkpoint, least(p.seen, t.seen) AS seen
    FROM the_checkpoints(NULL) p CROSS JOIN target t
    WHERE p.checkpoint <> t.checkpoint
      AND CASE WHEN getvariable('predictor') IS NULL THEN p.model_order < t.model_order AND p.step <= t.step
               ELSE p.checkpoint = getvariable('predictor')::VARCHAR END
    ORDER BY p.model_order DESC, p.step DESC
    LIMIT 1
),
asked AS MATERIALIZED (
    SELECT coalesce(getvariable('signal')::VARCHAR, CASE
                    WHEN count(s.continuation_ll) > 0 THEN 'continuation_ll'
                    WHEN count(s.matches) > 0 THEN 'matches' ELSE 'matched_prefix' END) AS signal
    FROM scores s JOIN predictor p USING (suite, model, step)
),
drawn AS MATERIALIZED (
    SELECT coalesce(getvariable('blocks')::BIGINT, 200) AS blocks,
           coalesce(getvariable('replicates')::BIGINT, 500) AS replicates,
           coalesce(getvariable('seed')::BIGINT, 1) AS seed
),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM target), false)),
numbered AS (SELECT count(*) > 0 AS windows FROM (SELECT 1 FROM sequences JOIN target USING (suite) LIMIT 1)),
hit AS MATERIALIZED (
    SELECT m.sequence_id FROM memorized m JOIN target t USING (suite, model, step)
    WHERE m.sequence_id < t.seen
),
-- What the target was evaluated on, as bitmaps of 64 ids; if that is all it has seen, nothing need be looked
-- up.
complete AS MATERIALIZED (
    SELECT complete FROM coverage((SELECT suite FROM target)) SEMI JOIN target USING (checkpoint)
),
evaluated AS MATERIALIZED (
    SELECT s.sequence_id >> 6 AS block, bit_or(bit_of(s.sequence_id)) AS ids
    FROM scores s
    JOIN (FROM (SELECT t.* FROM target t SEMI JOIN complete c ON NOT c.complete)
          LIMIT 1) t USING (suite, model, step)
    WHERE s.sequence_id < t.seen GROUP BY ALL
),
flagged AS (
    SELECT s.sequence_id, CASE a.signal
           WHEN 'continuation_ll' THEN greatest(floor(2 * s.continuation_ll::DOUBLE) / 2, -64)
                                        WHEN 'matches' THEN s.matches::DOUBLE
                                        WHEN 'matched_prefix' THEN s.matched_prefix::DOUBLE END AS tau
    FROM scores s JOIN predictor p USING (suite, model, step) CROSS JOIN asked a WHERE s.sequence_id < p.seen
),
-- By block of its window's first occurrence; first_id is NULL for all together whose window occurs once.
seen_by_both AS MATERIALIZED (
    SELECT r.first_id, coalesce(r.first_id, f.sequence_id) * d.blocks // t.seen AS block, f.tau,
           h.sequence_id IS NOT NULL AS hit, count(*) AS n
    FROM flagged f CROSS JOIN complete c CROSS JOIN drawn d CROSS JOIN target t
    LEFT JOIN evaluated e ON e.block = f.sequence_id >> 6
    LEFT JOIN hit h ON h.sequence_id = f.sequence_id LEFT JOIN repeat r ON r.sequence_id = f.sequence_id
    WHERE f.tau IS NOT NULL AND (c.complete OR e.ids & bit_of(f.sequence_id) <> 0) GROUP BY ALL
),
item AS (
    SELECT 'sequences' AS unit, block, tau, hit, n FROM seen_by_both
    UNION ALL
    SELECT 'windows', block, tau, hit, n FROM seen_by_both CROSS JOIN numbered
    WHERE first_id IS NULL AND windows
    UNION ALL
    SELECT 'windows', block, max(tau), bool_or(hit), 1 FROM seen_by_both CROSS JOIN numbered
    WHERE first_id IS NOT NULL AND windows GROUP BY first_id, block
),
-- What the target memorized and the predictor has not seen: it is in the recall, at no threshold.
unseen AS (
    SELECT coalesce(r.first_id, m.sequence_id) AS window_number
    FROM memorized m JOIN target t USING (suite, model, step) CROSS JOIN predictor p
    LEFT JOIN repeat r ON r.sequence_id = m.sequence_id
    WHERE m.sequence_id >= p.seen AND m.sequence_id < t.seen
),
bin AS MATERIALIZED (
    SELECT unit, block, tau, sum(n)::BIGINT AS n, coalesce(sum(n) FILTER (hit), 0)::BIGINT AS hits,
           0 AS unseen
    FROM item GROUP BY ALL
    UNION ALL
    SELECT unit, window_number * d.blocks // t.seen, NULL, 0, 0, count(*)
    FROM (
        SELECT 'sequences' AS unit, window_number FROM unseen
        UNION ALL
        SELECT DISTINCT 'windows', u.window_number FROM unseen u CROSS JOIN numbered CROSS JOIN predictor p
        WHERE windows AND u.window_number >= p.seen
    ) CROSS JOIN drawn d CROSS JOIN target t GROUP BY ALL
),
-- Replicate 0 is the data as it is.
weight AS MATERIALIZED (
    SELECT block, replicate,
           CASE WHEN replicate = 0 THEN 1 WHEN u < 0.36787944117144233 THEN 0
               WHEN u < 0.7357588823428847 THEN 1
                WHEN u < 0.9196986029286058 THEN 2 WHEN u < 0.9810118431238462 THEN 3
                    WHEN u < 0.9963401531726563 THEN 4
                WHEN u < 0.9994058151824183 THEN 5 WHEN u < 0.9999167588507119 THEN 6 ELSE 7 END AS w
    FROM (
        SELECT b.block, r.replicate, md5_number_lower(b.block || ' ' || r.replicate || ' ' || d.seed)
               / 18446744073709551616 AS u
        FROM (SELECT DISTINCT block FROM bin) b CROSS JOIN drawn d
        CROSS JOIN (SELECT unnest(range(0, replicates + 1)) AS replicate FROM drawn) r
    )
),
summed AS (
    SELECT unit, replicate, tau, sum(n * w)::BIGINT AS n, sum(hits * w)::BIGINT AS hits,
           sum(unseen * w)::BIGINT AS unseen
    FROM bin JOIN weight USING (block) GROUP BY ALL
),
curve AS MATERIALIZED (
    SELECT unit, replicate, tau, hits AS new_hits, sum(n) OVER down AS flagged, sum(hits) OVER down AS hits,
           sum(hits) OVER whole AS seen, sum(hits + unseen) OVER whole AS memorized
    FROM summed
    WINDOW down AS (PARTITION BY unit, replicate ORDER BY tau DESC NULLS LAST ROWS UNBOUNDED PRECEDING),
           whole AS (PARTITION BY unit, replicate)
),
average AS (
    SELECT unit, replicate, sum(new_hits * (hits / nullif(flagged, 0)) ORDER BY tau)
           / nullif(any_value(seen), 0) AS average_precision
    FROM curve WHERE tau IS NOT NULL GROUP BY ALL
),
average_ends AS (
    SELECT unit, any_value(average_precision) FILTER (replicate = 0) AS value,
           quantile_cont(average_precision, 0.025) FILTER (replicate > 0) AS low,
           quantile_cont(average_precision, 0.975) FILTER (replicate > 0) AS high
    FROM average GROUP BY unit
),
ends AS (
    SELECT unit, tau, any_value(flagged) FILTER (replicate = 0) AS flagged,
           any_value(hits) FILTER (replicate = 0) AS hits,
           any_value(memorized) FILTER (replicate = 0) AS memorized,
           quantile_cont(hits / nullif(flagged, 0), 0.025) FILTER (replicate > 0) AS precision_low,
           quantile_cont(hits / nullif(flagged, 0), 0.975) FILTER (replicate > 0) AS precision_high,
           quantile_cont(hits / nullif(memorized, 0), 0.025) FILTER (replicate > 0) AS recall_low,
           quantile_cont(hits / nullif(memorized, 0), 0.975) FILTER (replicate > 0) AS recall_high
    FROM curve WHERE tau IS NOT NULL GROUP BY ALL
),
counted AS (SELECT unit, count(DISTINCT block) AS blocks FROM bin GROUP BY unit)
SELECT t.checkpoint AS target, p.checkpoint AS predictor, a.signal, e.unit, c.blocks,
       v.value AS average_precision,
       v.low AS average_precision_low, v.high AS average_precision_high, e.tau, e.flagged::BIGINT AS flagged,
       e.hits::BIGINT AS hits,
       e.hits / nullif(e.flagged, 0) AS precision, e.precision_low, e.precision_high,
       e.hits / nullif(e.memorized, 0) AS recall_corpus, e.recall_low AS recall_corpus_low,
           e.recall_high AS recall_corpus_high
FROM ends e JOIN average_ends v USING (unit) JOIN counted c USING (unit) CROSS JOIN target t
CROSS JOIN predictor p CROSS JOIN asked a
ORDER BY e.unit, e.tau DESC;
