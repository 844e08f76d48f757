-- How much did each checkpoint memorize, and is the held-out control clean?
--
-- The paper's counts of memorized sequences by model size and by step, with what they lack: windows beside
-- sequences, intervals that take equal windows as one cluster, and held-out control sequences that no model
-- saw, of which next to none may look memorized. Every evaluated checkpoint has a row; those that turned out
-- to have another's weights (same_weights_as), which all other queries leave out, too.
--
-- group: How much is memorized
-- example: memoserve query counts
-- parameter: suite (text, the first evaluated one): the suite
-- column: checkpoint: the checkpoint, model@step
-- column: step: its training step
-- column: parameters: its parameters
-- column: sequences: evaluated sequences of those it has seen
-- column: sequences_memorized: the memorized ones among them
-- column: sequences_share: their share, with its interval sequences_share_low to sequences_share_high
-- column: windows: distinct windows among those sequences; empty if the store doesn't number windows
-- column: windows_memorized: the memorized ones among them
-- column: windows_share: their share, with its interval
-- column: unseen: evaluated training sequences that it has not seen
-- column: unseen_memorized: those among them that look memorized all the same
-- column: control: evaluated held-out sequences
-- column: control_memorized: those among them that look memorized all the same
-- column: same_weights_as: the checkpoint whose weights it turned out to have, and whose numbers these are;
--   empty if it has its own

WITH asked AS MATERIALIZED (SELECT the_suite() AS suite),
chosen AS MATERIALIZED (
    SELECT suite, model, step, checkpoint, model_order, parameters, trained, same_weights_as,
           least(sequences_seen, trained) AS seen
    FROM checkpoints JOIN asked USING (suite) WHERE evaluated > 0 LIMIT 100000
),
repeat AS MATERIALIZED (FROM repeats((SELECT suite FROM asked), false)),
numbered AS (SELECT count(*) > 0 AS windows FROM (SELECT 1 FROM sequences JOIN asked USING (suite) LIMIT 1)),
-- Parts with as many rows as ids hold every one of them: no row need be read to count those.
whole AS MATERIALIZED (
    SELECT suite, model, step FROM part_rows GROUP BY ALL HAVING bool_and(rows = last - first + 1)
),
evaluated AS MATERIALIZED (
    SELECT model, step, sum(greatest(0, least(last + 1, seen) - first))::BIGINT AS sequences,
           sum(greatest(0, least(last + 1, trained) - greatest(first, seen)))::BIGINT AS unseen,
           sum(greatest(0, last + 1 - greatest(first, trained)))::BIGINT AS control
    FROM part_rows JOIN chosen USING (suite, model, step) SEMI JOIN whole USING (suite, model, step)
    GROUP BY ALL
    UNION ALL
    SELECT model, step, count(*) FILTER (sequence_id < seen),
           count(*) FILTER (sequence_id >= seen AND sequence_id < trained),
           count(*) FILTER (sequence_id >= trained)
    FROM scores
    JOIN (FROM chosen ANTI JOIN whole USING (suite, model, step) LIMIT 100000) USING (suite, model, step)
    GROUP BY ALL
),
found AS MATERIALIZED (
    SELECT model, step, sequence_id, seen, trained
    FROM memorized JOIN chosen USING (suite, model, step)
),
memorized_count AS (
    SELECT model, step, count(*) FILTER (sequence_id < seen) AS sequences_memorized,
           count(*) FILTER (sequence_id >= seen AND sequence_id < trained) AS unseen_memorized,
           count(*) FILTER (sequence_id >= trained) AS control_memorized
    FROM found GROUP BY ALL
),
-- Only repeated windows have to be counted apart: the sum over all windows c of n_c squared is the number of
-- sequences plus, for each repeated one, n_c squared less n_c; and the windows are the sequences less n_c - 1
-- each. What a checkpoint was evaluated on that has all it has seen needs no looking up.
complete AS MATERIALIZED (
    SELECT c.* FROM chosen c SEMI JOIN whole USING (suite, model, step) JOIN evaluated e USING (model, step)
    WHERE e.sequences = c.seen
),
repeated AS (
    SELECT model, step, sum(n - 1)::BIGINT AS surplus, sum(n * n - n)::BIGINT AS excess FROM (
        SELECT c.model, c.step, r.first_id, count(*) AS n FROM complete c
        JOIN repeat r ON r.sequence_id < c.seen GROUP BY ALL
        UNION ALL
        SELECT model, step, first_id, count(*)
        FROM scores
        JOIN (FROM chosen ANTI JOIN complete USING (suite, model, step)
              LIMIT 100000) c USING (suite, model, step)
        JOIN repeat USING (sequence_id)
        WHERE sequence_id < c.seen GROUP BY ALL
    ) GROUP BY ALL
),
repeated_memorized AS (
    SELECT model, step, sum(n - 1)::BIGINT AS surplus_memorized FROM (
        SELECT model, step, first_id, count(*) AS n
        FROM found JOIN repeat USING (sequence_id) WHERE sequence_id < seen GROUP BY ALL
    ) GROUP BY ALL
),
counted AS (
    SELECT c.*, e.sequences, e.unseen, e.control, coalesce(m.sequences_memorized, 0) AS sequences_memorized,
           coalesce(m.unseen_memorized, 0) AS unseen_memorized,
           coalesce(m.control_memorized, 0) AS control_memorized,
           e.sequences ** 2 / nullif(e.sequences + coalesce(r.excess, 0), 0) AS effective,
           CASE WHEN n.windows THEN e.sequences - coalesce(r.surplus, 0) END AS windows,
           CASE WHEN n.windows
                THEN coalesce(m.sequences_memorized, 0)
                    - coalesce(s.surplus_memorized, 0) END AS windows_memorized
    FROM chosen c JOIN evaluated e USING (model, step)
    LEFT JOIN memorized_count m USING (model, step)
    LEFT JOIN repeated r USING (model, step)
    LEFT JOIN repeated_memorized s USING (model, step)
    CROSS JOIN numbered n
)
SELECT checkpoint, step, parameters, sequences, sequences_memorized,
       sequences_memorized / nullif(sequences, 0) AS sequences_share,
       share_low(sequences_memorized, sequences, effective) AS sequences_share_low,
       share_high(sequences_memorized, sequences, effective) AS sequences_share_high,
       windows, windows_memorized, windows_memorized / nullif(windows, 0) AS windows_share,
       wilson_low(windows_memorized, windows) AS windows_share_low,
       wilson_high(windows_memorized, windows) AS windows_share_high,
       unseen, unseen_memorized, control, control_memorized, same_weights_as
FROM counted
ORDER BY model_order, step;
