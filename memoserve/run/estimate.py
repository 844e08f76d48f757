"""What a plan will cost, before it is started."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from memoserve.domain import CONTINUATION, Model
from memoserve.engines import EngineSettings
from memoserve.run.plan import CheckpointPlan, Plan
from memoserve.run.windows import window_ids
from memoserve.sequences import SequenceSource

_COUNT_WINDOWS_UP_TO = 2_000_000
"""Sequences that are read to count distinct windows; of more, each is taken for a window of its own."""

# Measured on two CPU cores with models of 0.1M to 6M parameters: a row of a score store, the share of the
# matrix-product ceiling that vLLM's generation reaches, its cost per window beside arithmetic, its start.
_BYTES_PER_SEQUENCE = {"score": 5.0, "extract": 0.5}
_LOGLIK_BYTES = 4.0
_SHARE_OF_CEILING = 0.15
_SECONDS_PER_WINDOW = 0.004
_START_SECONDS = 30.0


@dataclass(frozen=True)
class CheckpointEstimate:
    """windows: distinct ones to evaluate, at most; flops: of their evaluation; bytes: of the parts."""

    plan: CheckpointPlan
    windows: int
    flops: float
    bytes: float


@dataclass(frozen=True)
class Estimate:
    """`seconds` is None where nothing is known about the device's speed."""

    checkpoints: tuple[CheckpointEstimate, ...]
    seconds: float | None

    @property
    def flops(self) -> float:
        """Of the whole run."""
        return sum(item.flops for item in self.checkpoints)

    @property
    def bytes(self) -> float:
        """Of the whole run's parts."""
        return sum(item.bytes for item in self.checkpoints)


def flops_per_window(model: Model, context: int) -> float:
    """Two FLOPs per parameter and token: context + 31 tokens pass the model, whether they are generated
    with a cache (`score`) or compared (`extract`, at most: the ladder spares some).

    Of the embeddings only the output half is a matrix product.
    """
    embeddings = model.parameters - model.parameters_without_embeddings
    return 2.0 * (model.parameters_without_embeddings + embeddings / 2) * (context + CONTINUATION - 1)


def estimate(plan: Plan, source: SequenceSource, settings: EngineSettings) -> Estimate:
    """Cost of what is missing. Reads up to two million sequences to count distinct windows."""
    windows = _distinct_windows(plan, source, settings)
    items = tuple(
        CheckpointEstimate(
            item,
            windows[item.checkpoint.step],
            windows[item.checkpoint.step] * flops_per_window(item.checkpoint.model, settings.context),
            item.sequences * (_BYTES_PER_SEQUENCE[settings.mode] + _LOGLIK_BYTES * settings.loglik),
        )
        for item in plan.todo
    )
    if settings.device != "cpu" or not items:
        return Estimate(items, None if items else 0.0)
    flops = sum(item.flops for item in items)
    models = len({item.plan.checkpoint.model.name for item in items})
    seconds = flops / (_SHARE_OF_CEILING * _matrix_product_ceiling())
    seconds += sum(item.windows for item in items) * _SECONDS_PER_WINDOW + models * _START_SECONDS
    return Estimate(items, seconds)


def _distinct_windows(plan: Plan, source: SequenceSource, settings: EngineSettings) -> dict[int, int]:
    """By step: the distinct windows among what its checkpoint lacks (the largest, if sizes differ)."""
    if plan.selection.stop - plan.selection.first > _COUNT_WINDOWS_UP_TO:
        found: dict[int, int] = {}
        for item in plan.todo:
            found[item.checkpoint.step] = max(found.get(item.checkpoint.step, 0), item.sequences)
        return found
    length = settings.context + CONTINUATION
    ids = plan.selection.ids_in(source, plan.selection.first, plan.selection.stop, length)
    hashes = window_ids(source.take(ids, length))
    counts: dict[int, int] = {}
    for item in plan.todo:
        chosen = np.zeros(len(ids), dtype=bool)
        for first, stop in item.missing:
            chosen |= (first <= ids) & (ids < stop)
        step = item.checkpoint.step
        counts[step] = max(counts.get(step, 0), len(np.unique(hashes[chosen])))
    return counts


def _matrix_product_ceiling() -> float:
    """FLOP/s of this machine's fp32 matrix product, in a fraction of a second."""
    n = 1024
    a = np.ones((n, n), dtype=np.float32)
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        a @ a
        best = max(best, 2 * n**3 / (time.perf_counter() - began))
    return best
