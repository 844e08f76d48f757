-- Which suite and checkpoints a question is about, by the variables that it was asked with.

-- The variable `suite`, or the first evaluated suite.
CREATE MACRO the_suite() AS
    coalesce(getvariable('suite')::VARCHAR, (SELECT min(suite) FROM checkpoints WHERE evaluated > 0));

-- Evaluated checkpoints of the suite: those named (a list of model@step) or, if names is NULL, every one that
-- has weights of its own. Where a file of weights turned out to hold another checkpoint's (same_weights_as),
-- scores are of that other one: only who names it gets it. seen: training sequences that it has seen, the ids
-- below.
CREATE MACRO the_checkpoints(names) AS TABLE
SELECT *, least(sequences_seen, trained) AS seen
FROM checkpoints
WHERE evaluated > 0 AND suite = the_suite()
  AND CASE WHEN names IS NULL THEN same_weights_as IS NULL ELSE list_contains(names, checkpoint) END;

-- Those named or, if names is NULL, the last one of each model.
CREATE MACRO the_last_checkpoints(names) AS TABLE
FROM the_checkpoints(names)
QUALIFY names IS NOT NULL OR row_number() OVER (PARTITION BY model ORDER BY step DESC) = 1;

-- Of those, the ones of the model that the variable `model` names, or of the largest.
CREATE MACRO the_model(names) AS TABLE
FROM the_checkpoints(names)
WHERE model = coalesce(getvariable('model')::VARCHAR, model)
QUALIFY model_order = max(model_order) OVER ();

-- The one named or, if name is NULL, the last one of the largest model. No row if there is none.
CREATE MACRO the_checkpoint(name) AS TABLE
FROM the_checkpoints(CASE WHEN name IS NOT NULL THEN [name::VARCHAR] END)
ORDER BY model_order DESC, step DESC LIMIT 1;

-- The one that the variable `target` names, likewise.
CREATE MACRO the_target() AS TABLE FROM the_checkpoint(getvariable('target'));

-- Of each checkpoint of a suite, how many of the sequences that it has seen lie in parts that hold every id,
-- and whether those are all that it has seen: then ids below `seen` are what was evaluated, and no scores
-- need be read to know.
CREATE MACRO coverage(a_suite) AS TABLE
SELECT suite, model, step, checkpoint, evaluated, evaluated = seen AS complete
FROM (
    SELECT suite, model, step, checkpoint, seen,
           coalesce(sum(least(p.last + 1, seen) - p.first) FILTER (
               p.first < seen AND p.rows = p.last - p.first + 1), 0) AS evaluated
    FROM (
        SELECT suite, model, step, checkpoint, least(sequences_seen, trained) AS seen
        FROM checkpoints WHERE suite = a_suite
    ) LEFT JOIN part_rows p USING (suite, model, step)
    GROUP BY suite, model, step, checkpoint, seen
);
