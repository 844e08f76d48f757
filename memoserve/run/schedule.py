"""Who does what next: parts that are missing, handed out to lanes, each of which is one engine."""

from __future__ import annotations

from collections import deque

from memoserve.run.plan import CheckpointPlan, Range

Assignment = tuple[CheckpointPlan, Range]


class Schedule:
    """The parts of a plan that nobody has been given yet.

    A lane stays with its checkpoint while that has parts to give, then with its model, so that weights are
    replaced seldom and engines started seldom; and it takes what no other lane is at, so that sizes run side
    by side. When nothing else is left, lanes share the parts of one checkpoint.

    A lane that could not start an engine for a checkpoint gets none of its parts, and none of its model's
    while other lanes do better: what is wrong may be the lane or the checkpoint.
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

    def next(self, lane: str) -> Assignment | None:
        """The next part for a lane, None if nothing is left."""
        item = self._choose(lane)
        if item is None:
            return None
        self._at[lane] = item
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

    def leave(self, lane: str) -> None:
        """A lane is no more."""
        self._at.pop(lane, None)

    def refuse(self, lane: str, item: CheckpointPlan) -> None:
        """A lane could not start an engine for a checkpoint."""
        self._refused.setdefault(item, set()).add(lane)
        self._without.setdefault(lane, set()).add(item.checkpoint.model.name)

    def refused(self, lane: str, item: CheckpointPlan) -> bool:
        """Whether a lane could not start an engine for a checkpoint."""
        return lane in self._refused.get(item, ())

    def relent(self, item: CheckpointPlan | None = None) -> None:
        """Let lanes try other checkpoints of the models that they could not start an engine for: all of
        them, or those that failed at one checkpoint, which is to blame.
        """
        lanes = set(self._without) if item is None else self._refused.get(item, set())
        for lane in lanes:
            if item is None:
                self._without[lane].clear()
            else:
                self._without[lane].discard(item.checkpoint.model.name)

    def _choose(self, lane: str) -> CheckpointPlan | None:
        mine = self._at.get(lane)
        if mine is not None and self._left.get(mine) and not self.refused(lane, mine):
            return mine
        others = [item for name, item in self._at.items() if name != lane]
        models = {item.checkpoint.model.name for item in others}
        model = mine.checkpoint.model.name if mine is not None else None

        def reluctance(item: CheckpointPlan) -> tuple[bool, bool, bool, float]:
            shared = others.count(item)
            return (
                shared > 0,
                item.checkpoint.model.name != model,
                item.checkpoint.model.name in models,
                -len(self._left[item]) / (shared + 1) if shared else 0.0,
            )

        without = self._without.get(lane, ())
        mine_to_take = (
            item
            for item in self.left
            if not self.refused(lane, item) and item.checkpoint.model.name not in without
        )
        return min(mine_to_take, key=reluctance, default=None)
