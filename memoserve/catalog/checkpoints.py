"""The checkpoints of a store's suites, as the catalog has them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StoredCheckpoint:
    """A row of the view `checkpoints`: a checkpoint of a suite, evaluated or not.

    `order`: of its model, by size, 0 the smallest. `sequences_seen` may be more than the `trained` sequences
    that the suite has. `evaluated`: how many scores it has. `same_weights_as`: the checkpoint whose weights
    its file turned out to hold.
    """

    suite: str
    model: str
    step: int
    order: int
    parameters: int
    parameters_without_embeddings: int
    training_flops: float
    sequences_seen: int
    trained: int
    evaluated: int
    same_weights_as: str | None

    @property
    def name(self) -> str:
        """As it is called everywhere: model@step."""
        return f"{self.model}@{self.step}"

    @property
    def seen(self) -> int:
        """Training sequences that it has seen: those of lower ids."""
        return min(self.sequences_seen, self.trained)

    def __str__(self) -> str:
        return self.name


ROWS = """
SELECT suite, model, step, model_order, parameters, parameters_without_embeddings, training_flops,
       sequences_seen, trained, evaluated, same_weights_as
FROM checkpoints ORDER BY suite, model_order, step
"""
"""Their rows in the order of the fields, by suite, model's size and step."""
