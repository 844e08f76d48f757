-- How do the precision and recall of each smaller Pythia compare with the paper's table?
--
-- The paper's table (Biderman et al. 2023): what fully trained smaller models say of what Pythia-12B
-- memorized, beside the same of the store's scores, row by row, with differences. A model that the store
-- lacks keeps its row. A precision, a recall and the two counts are linked, precision / recall = target's
-- memorized / predictor's memorized, so that ratio is shown for both: where it differs, the two can't be
-- about the same counts, and the rates can't agree. (The authors' notebook used the deduplicated v0 models,
-- the published lists are of the final ones.) Sequences, as in the paper. `memoserve query predictors
-- --compare paper` runs this.
--
-- group: What predicts it
-- example: memoserve query predictors_vs_paper --suite pythia
-- parameter: suite (text, pythia if evaluated, else pythia-deduped): the suite
-- parameter: target (checkpoint, the last evaluated step of 12b): what is predicted
-- column: target: the predicted checkpoint
-- column: model: the smaller model
-- column: predictor: its last evaluated step that is not after the target's; empty if none is evaluated
-- column: precision: both memorized / predictor memorized, with its interval precision_low to precision_high
-- column: paper_precision: the paper's
-- column: precision_difference: precision less the paper's
-- column: recall_corpus: both memorized / target memorized; unseen counts as missed; with its interval
-- column: paper_recall: the paper's
-- column: recall_difference: recall_corpus less the paper's
-- column: ratio: the target's memorized sequences for each one of the predictor
-- column: paper_ratio: the same as the paper's precision and recall imply it

WITH paper(model, paper_order, paper_precision, paper_recall) AS (
    VALUES ('70m', 1, 0.956, 0.197), ('160m', 2, 0.948, 0.289), ('410m', 3, 0.940, 0.401),
           ('1b', 4, 0.931, 0.512), ('1.4b', 5, 0.926, 0.554), ('2.8b', 6, 0.909, 0.658),
           ('6.9b', 7, 0.884, 0.795)
),
target AS MATERIALIZED (
    SELECT suite, checkpoint, step
    FROM checkpoints
    WHERE evaluated > 0
      AND suite = coalesce(getvariable('suite')::VARCHAR, (
              SELECT min(suite) FROM checkpoints
              WHERE evaluated > 0 AND suite IN ('pythia', 'pythia-deduped')))
      AND CASE WHEN getvariable('target') IS NULL THEN model = '12b' AND same_weights_as IS NULL
               ELSE checkpoint = getvariable('target')::VARCHAR END
    ORDER BY step DESC
    LIMIT 1
),
predictor AS MATERIALIZED (
    SELECT p.model, p.checkpoint
    FROM checkpoints p JOIN target t USING (suite) JOIN paper USING (model)
    WHERE p.evaluated > 0 AND p.same_weights_as IS NULL AND p.step <= t.step AND p.checkpoint <> t.checkpoint
    QUALIFY row_number() OVER (PARTITION BY p.model ORDER BY p.step DESC) = 1
),
found AS (
    SELECT p.model, c.*
    FROM predictions((SELECT suite FROM target), (SELECT checkpoint FROM target),
                     (SELECT list(checkpoint) FROM predictor)) c
    JOIN predictor p ON p.checkpoint = c.predictor
    WHERE c.unit = 'sequences'
)
SELECT t.checkpoint AS target, model, f.predictor, f.precision, f.precision_low, f.precision_high,
       paper_precision::DOUBLE AS paper_precision,
       f.precision - paper_precision::DOUBLE AS precision_difference,
       f.recall_corpus, f.recall_corpus_low, f.recall_corpus_high,
       paper_recall::DOUBLE AS paper_recall, f.recall_corpus - paper_recall::DOUBLE AS recall_difference,
       f.target_memorized / nullif(f.predictor_memorized, 0) AS ratio,
       paper_precision::DOUBLE / paper_recall::DOUBLE AS paper_ratio
FROM paper LEFT JOIN found f USING (model) LEFT JOIN target t ON true
ORDER BY paper_order;
