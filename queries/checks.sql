-- What was verified of the weights, the data and the engines behind these scores, and what came of it?
--
-- Beyond the paper: whatever is read or computed is held against something else that says something about it,
-- and each such comparison is kept beside the scores. Of one comparison that was made several times, the
-- newest. What failed comes first, then warnings, then what there was nothing to check against; checkpoints
-- in order of size and training.
--
-- group: What was verified
-- example: memoserve query checks
-- parameter: suite (text, every one): the suite
-- column: suite: the suite
-- column: name: what was compared
-- column: subject: of what: a checkpoint, a file
-- column: result: failed, warning (the run went on), not checked (nothing to hold it against) or
--   passed
-- column: figure: the number that decided, if one did
-- column: detail: both sides of the comparison, and what to do where it failed
-- column: checked_at: when, in UTC

SELECT c.suite, c.name, c.subject, c.result, c.figure, c.detail, c.checked_at
FROM checks c LEFT JOIN checkpoints p USING (suite, model, step)
WHERE c.suite = coalesce(getvariable('suite')::VARCHAR, c.suite)
ORDER BY coalesce(list_position(['failed', 'warning', 'not checked', 'passed'], c.result), 0), c.suite,
         p.model_order NULLS FIRST,
         c.step NULLS FIRST, c.subject, c.name;
