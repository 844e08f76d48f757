"""Who does what next: parts that are missing, handed out to workers, each of which is one engine."""

from __future__ import annotations

from collections import deque

from memoserve.run.plan import CheckpointPlan, Range

Assignment = tuple[CheckpointPlan, Range]


class Schedule:
    """The parts of a plan that nobody has been given yet.

    A worker stays with its checkpoint while that has parts to give, then with its model, so that weights are
    replaced seldom and engines started seldom; and it takes what no other worker is at, so that sizes run
    side by side. When nothing else is left, workers share the parts of one checkpoint.

    A worker that could not start an engine for a checkpoint gets none of its parts, and none of its model's
    while other workers do better: what is wrong may be the worker or the checkpoint.
    """

    def __init__(self, todo: tuple[CheckpointPlan, ...]) -> None:
        self._left = {item: deque(item.missing) for item in todo}
        self._unfinished = {item: len(item.missing) for item in todo}
        self._at: dict[str, CheckpointPlan] = {}
        self._refused: dict[CheckpointPlan, set[str]] = {}
        self._without: dict[str, set[str]] = {}

    @property
    def left(self) -> list[CheckpointPlan]:
        """The checkpoints of which something is left to give."""
        return [item for item, spans in self._left.items() if spans]

    @property
    def empty(self) -> bool:
        """Whether nothing is left to give."""
        return not any(self._left.values())

    def next(self, worker: str) -> Assignment | None:
        """The next part for a worker, None if nothing is left."""
        item = self._choose(worker)
        if item is None:
            return None
        self._at[worker] = item
        return item, self._left[item].popleft()

    def done(self, item: CheckpointPlan) -> bool:
        """A part of a checkpoint is done; whether that was its last."""
        self._unfinished[item] -= 1
        return self._unfinished[item] == 0

    def give_back(self, item: CheckpointPlan, span: Range) -> None:
        """A part was not done, and somebody else is to do it."""
        if item in self._left:
            self._left[item].appendleft(span)

    def drop(self, item: CheckpointPlan) -> None:
        """Hand out nothing more of a checkpoint."""
        self._left.pop(item, None)

    def leave(self, worker: str) -> None:
        """A worker is no more."""
        self._at.pop(worker, None)

    def refuse(self, worker: str, item: CheckpointPlan) -> None:
        """A worker could not start an engine for a checkpoint."""
        self._refused.setdefault(item, set()).add(worker)
        self._without.setdefault(worker, set()).add(item.checkpoint.model.name)

    def refused(self, worker: str, item: CheckpointPlan) -> bool:
        """Whether a worker could not start an engine for a checkpoint."""
        return worker in self._refused.get(item, ())

    def retry_refused(self, item: CheckpointPlan | None = None) -> None:
        """Let workers try other checkpoints of the models that they could not start an engine for: all of
        them, or those that failed at one checkpoint, which is to blame.
        """
        workers = set(self._without) if item is None else self._refused.get(item, set())
        for worker in workers:
            if item is None:
                self._without[worker].clear()
            else:
                self._without[worker].discard(item.checkpoint.model.name)

    def _choose(self, worker: str) -> CheckpointPlan | None:
        mine = self._at.get(worker)
        if mine is not None and self._left.get(mine) and not self.refused(worker, mine):
            return mine
        others = [item for name, item in self._at.items() if name != worker]
        models = {item.checkpoint.model.name for item in others}
        model = mine.checkpoint.model.name if mine is not None else None

        def cost(item: CheckpointPlan) -> tuple[bool, bool, bool, float]:
            shared = others.count(item)
            return (
                shared > 0,
                item.checkpoint.model.name != model,
                item.checkpoint.model.name in models,
                -len(self._left[item]) / (shared + 1) if shared else 0.0,
            )

        without = self._without.get(worker, ())
        mine_to_take = (
            item
            for item in self.left
            if not self.refused(worker, item) and item.checkpoint.model.name not in without
        )
        return min(mine_to_take, key=cost, default=None)
