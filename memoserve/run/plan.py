"""What a run has to do: which ids of which checkpoints are wanted, and which of them are missing."""

from __future__ import annotations

from dataclasses import dataclass

from memoserve.domain import Checkpoint
from memoserve.sequences import Selection
from memoserve.store import Store, missing_ranges
from memoserve.suites import Suite

Range = tuple[int, int]

_SMALLEST_PART = 8_192
_LARGEST_PART = 1 << 20
_PARTS = 64


@dataclass(frozen=True)
class CheckpointPlan:
    """One checkpoint: half-open ranges still to score, and how many selected sequences they hold."""

    checkpoint: Checkpoint
    missing: tuple[Range, ...]
    sequences: int
    wanted: int


@dataclass(frozen=True)
class Plan:
    """A whole run; `index` are the ranges whose window ids are missing."""

    suite: Suite
    selection: Selection
    part_size: int
    index: tuple[Range, ...]
    checkpoints: tuple[CheckpointPlan, ...]

    @property
    def todo(self) -> tuple[CheckpointPlan, ...]:
        """The checkpoints that lack something."""
        return tuple(plan for plan in self.checkpoints if plan.missing)

    @property
    def sequences(self) -> int:
        """Sequences still to score, over all checkpoints."""
        return sum(plan.sequences for plan in self.checkpoints)

    @property
    def unindexed(self) -> int:
        """Sequences whose window ids are missing."""
        return sum(_count(self.selection, span) for span in self.index)


def part_size_for(selection: Selection) -> int:
    """Ids in a part: some dozens of parts, none so small that files outnumber their use.

    A power of two, so that a longer range of the same data mostly keeps the grid of a shorter one.
    """
    size = _SMALLEST_PART
    while size < _LARGEST_PART and size * _PARTS < selection.stop - selection.first:
        size *= 2
    return size


def wanted_ranges(suite: Suite, checkpoint: Checkpoint, selection: Selection, unseen: bool) -> list[Range]:
    """What of `selection` this checkpoint is evaluated on: what it has seen, and the control.

    With `unseen`, all of the selection.
    """
    if unseen:
        return [(selection.first, selection.stop)]
    parts = [(0, checkpoint.sequences_seen)]
    if suite.sequences.control is not None:
        parts.append(suite.sequences.control)
    cut = [(max(first, selection.first), min(stop, selection.stop)) for first, stop in parts]
    return [(first, stop) for first, stop in cut if first < stop]


def make_plan(
    suite: Suite,
    checkpoints: tuple[Checkpoint, ...],
    selection: Selection,
    store: Store | None,
    part_size: int,
    unseen: bool = False,
) -> Plan:
    """Plan the run; `store` is None where none exists yet (then everything is missing)."""
    plans = []
    index: set[Range] = set()
    for checkpoint in checkpoints:
        wanted = wanted_ranges(suite, checkpoint, selection, unseen)
        missing = _missing(store, checkpoint, wanted, part_size)
        plans.append(
            CheckpointPlan(
                checkpoint,
                tuple(missing),
                sum(_count(selection, span) for span in missing),
                sum(_count(selection, span) for span in wanted),
            )
        )
        index.update(wanted)
    spans = sorted(index)
    if store is None:
        unindexed = missing_ranges(spans, [], part_size)
    else:
        unindexed = store.missing_sequences(suite.name, spans, part_size)
    return Plan(suite, selection, part_size, tuple(unindexed), tuple(plans))


def _missing(store: Store | None, checkpoint: Checkpoint, wanted: list[Range], part_size: int) -> list[Range]:
    if store is None:
        return missing_ranges(wanted, [], part_size)
    return store.missing(checkpoint.suite, checkpoint.model.name, checkpoint.step, wanted, part_size)


def _count(selection: Selection, span: Range) -> int:
    """Selected ids in a range; for a sample of a wide range, the expected number."""
    first, stop = span
    if selection.fraction == 1.0:
        return stop - first
    if stop - first > 1 << 24:
        return round((stop - first) * selection.fraction)
    return len(selection.ids(first, stop))
