"""How a run tells a program where it is: one JSON object a line. docs/run.md lists the events and fields."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from memoserve.checks import Check
from memoserve.run.inputs import Inputs
from memoserve.run.plan import CheckpointPlan, Plan, Range

if TYPE_CHECKING:
    from memoserve.domain import Checkpoint

_INTERVAL = 1.0
"""Seconds between two `progress` events at least; parts and checkpoints are told whenever they are done."""


class Events:
    """Writes events to a stream, each line at once. A Progress as soon as it has a plan."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._done: dict[Checkpoint, int] = {}
        self._windows: dict[Checkpoint, int] = {}
        self._began: dict[Checkpoint, float] = {}
        self._all_done = self._all_total = self._indexed = self._to_index = 0
        self._last = 0.0
        self._ended = False

    def plan(self, plan: Plan, inputs: Inputs | None = None, **about: Any) -> None:
        """The first event of a run. `inputs`: what was checked before it; `about`: fields that say with what
        it runs.
        """
        self._all_total = plan.sequences
        self._to_index = sum(stop - first for first, stop in plan.index)
        self.event(
            "plan",
            suite=plan.suite.name,
            **about,
            sequences=plan.sequences,
            checkpoints=[
                {
                    **_name(item),
                    "wanted": item.wanted,
                    "sequences": item.sequences,
                    "parts": len(item.missing),
                }
                for item in plan.checkpoints
            ],
            **(_of_inputs(inputs) if inputs is not None else {}),
        )

    def event(self, event: str, **fields: Any) -> None:
        """One line."""
        line = json.dumps({"event": event, "time": round(time.time(), 3), **fields})
        print(line, file=self._stream, flush=True)

    # The Progress protocol

    def indexing(self, sequences: int) -> None:
        self._indexed += sequences
        if self._due() or self._indexed == self._to_index:
            self.event("indexing", done=self._indexed, total=self._to_index)

    def starting(self, model: str, lane: str) -> None:
        self.event("engine_starting", model=model, lane=lane)

    def started(self, model: str, lane: str, seconds: float) -> None:
        self.event("engine_up", model=model, lane=lane, seconds=round(seconds, 3))

    def not_started(self, model: str, lane: str, reason: str) -> None:
        self.event("engine_not_started", model=model, lane=lane, reason=reason)

    def checkpoint(self, plan: CheckpointPlan) -> None:
        self._done[plan.checkpoint] = self._windows[plan.checkpoint] = 0
        self._began[plan.checkpoint] = time.monotonic()
        self.event("checkpoint_started", **_name(plan), sequences=plan.sequences, parts=len(plan.missing))

    def advanced(self, plan: CheckpointPlan, sequences: int, windows: int) -> None:
        self._done[plan.checkpoint] += sequences
        self._windows[plan.checkpoint] += windows
        self._all_done += sequences
        if self._due():
            self.event("progress", **_name(plan), **self._counts(plan))

    def part(self, plan: CheckpointPlan, span: Range, sequences: int, windows: int) -> None:
        self.event(
            "part_done",
            **_name(plan),
            first=span[0],
            stop=span[1],
            sequences=sequences,
            windows=windows,
            **self._counts(plan),
        )

    def finished(self, plan: CheckpointPlan, memorized: int, windows: int, seconds: float) -> None:
        self.event(
            "checkpoint_finished",
            **_name(plan),
            sequences=plan.sequences,
            memorized=memorized,
            windows=windows,
            seconds=round(seconds, 3),
        )

    def failed(self, plan: CheckpointPlan, reason: str) -> None:
        self.event("checkpoint_failed", **_name(plan), reason=reason)

    def checked(self, check: Check) -> None:
        if check.result != "passed":
            self.event("checked", **asdict(check))

    def notice(self, text: str) -> None:
        self.event("notice", text=text)

    def end(self, status: str, exit_code: int, **fields: Any) -> None:
        """The last event; only the first call counts."""
        if not self._ended:
            self._ended = True
            self.event("end", status=status, exit_code=exit_code, **fields)

    def _counts(self, plan: CheckpointPlan) -> dict[str, Any]:
        elapsed = max(time.monotonic() - self._began[plan.checkpoint], 1e-9)
        return {
            "windows_per_second": round(self._windows[plan.checkpoint] / elapsed, 1),
            "done": self._done[plan.checkpoint],
            "total": plan.sequences,
            "all_done": self._all_done,
            "all_total": self._all_total,
        }

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._last < _INTERVAL:
            return False
        self._last = now
        return True


def _name(plan: CheckpointPlan) -> dict[str, Any]:
    return {"model": plan.checkpoint.model.name, "step": plan.checkpoint.step}


def skipped(inputs: Inputs) -> list[dict[str, Any]]:
    """The checkpoints that have the weights of another one, as events list them."""
    return [
        {"model": one.model.name, "step": one.step, "same_weights_as": str(other)}
        for one, other in inputs.weights.same_as.items()
    ]


def _of_inputs(inputs: Inputs) -> dict[str, Any]:
    return {"skipped": skipped(inputs), "checks": [asdict(check) for check in inputs.checks]}
