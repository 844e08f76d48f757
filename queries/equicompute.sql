-- Which is the best predictor of what the target memorized for a given budget of training compute?
--
-- Beside the paper's advice to compare predictors at equal compute (Biderman et al. 2023). For each budget, a
-- share of the target's training compute, the evaluated checkpoint (of any model, at any step, except the
-- target) that costs no more and has the highest recall_corpus; of equals the cheapest. Then the frontier:
-- every checkpoint that no other one beats, that is, none is as cheap and recalls as much. One checkpoint is
-- one run: it costs what its own step costs.
--
-- group: Which predictor to choose
-- example: memoserve query equicompute --budgets 0.05,0.2
-- parameter: suite (text, the first evaluated one): the suite
-- parameter: target (checkpoint, the last evaluated step of the largest evaluated model): what is predicted
-- parameter: budgets (numbers, 0.01 0.02 0.05 0.1 0.2 0.5 1): shares of the target's training compute
-- column: target: the predicted checkpoint
-- column: unit: what is counted, sequences or windows (distinct sequences)
-- column: answer: budget (the best predictor for budget_share) or frontier
-- column: budget_share: the budget as a share of the target's training compute; empty for the frontier
-- column: predictor: the predicting checkpoint; empty if none is that cheap
-- column: training_flops: the predictor's training compute, 6 x parameters x tokens
-- column: flops_share: that compute as a share of the target's
-- column: recall_corpus: share of all that the target memorized which the predictor memorized too; unseen
--   counts as missed; with its interval
-- column: recall_seen: the same over what the predictor has seen
-- column: precision: share of what the predictor memorized which the target memorized too
-- column: f1: harmonic mean of precision and recall_corpus
-- column: on_frontier: whether no other checkpoint is as cheap and recalls as much

WITH target AS MATERIALIZED (FROM the_target()),
candidate AS MATERIALIZED (
    SELECT p.checkpoint, p.model_order, p.step, p.training_flops
    FROM the_checkpoints(NULL) p CROSS JOIN target t
    WHERE p.checkpoint <> t.checkpoint
),
outcome AS MATERIALIZED (
    SELECT c.unit, c.predictor, p.training_flops,
           p.training_flops / nullif(t.training_flops, 0) AS flops_share,
           c.recall_corpus, c.recall_corpus_low, c.recall_corpus_high, c.recall_seen, c.precision, c.f1,
           p.model_order, p.step
    FROM predictions((SELECT suite FROM target), (SELECT checkpoint FROM target),
                     (SELECT list(checkpoint) FROM candidate)) c
    JOIN candidate p ON p.checkpoint = c.predictor
    CROSS JOIN target t
),
judged AS MATERIALIZED (
    SELECT o.*, coalesce(o.recall_corpus, 0) > 0 AND NOT exists(
        SELECT 1 FROM outcome other
        WHERE other.unit = o.unit AND other.training_flops <= o.training_flops
          AND other.recall_corpus >= o.recall_corpus
          AND (other.training_flops < o.training_flops OR other.recall_corpus > o.recall_corpus)
    ) AS on_frontier
    FROM outcome o
),
budget AS (
    SELECT DISTINCT unnest(coalesce(getvariable('budgets')::DOUBLE[],
                                    [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1])) AS budget_share
),
best AS (
    SELECT b.budget_share, j.*
    FROM budget b JOIN judged j ON j.flops_share <= b.budget_share AND j.recall_corpus IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY b.budget_share, j.unit
        ORDER BY j.recall_corpus DESC, j.training_flops, j.model_order, j.step
    ) = 1
),
answer AS (
    SELECT u.unit, 'budget' AS answer, b.budget_share, best.* EXCLUDE (budget_share, unit)
    FROM budget b CROSS JOIN (SELECT DISTINCT unit FROM outcome) u
    LEFT JOIN best ON best.budget_share = b.budget_share AND best.unit = u.unit
    UNION ALL BY NAME
    SELECT 'frontier' AS answer, j.* FROM judged j WHERE j.on_frontier
)
SELECT t.checkpoint AS target, a.unit, a.answer, a.budget_share, a.predictor, a.training_flops, a.flops_share,
       a.recall_corpus, a.recall_corpus_low, a.recall_corpus_high, a.recall_seen, a.precision, a.f1,
       a.on_frontier
FROM answer a CROSS JOIN target t
ORDER BY a.unit, a.answer, a.budget_share, a.training_flops, a.model_order, a.step;
