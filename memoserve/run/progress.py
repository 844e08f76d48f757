"""How a run tells a person where it is: a live display on a terminal, plain lines elsewhere.

For programs there are the events of memoserve.run.events.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from memoserve.checks import Check
from memoserve.run import proof
from memoserve.run.plan import CheckpointPlan, Plan, Range
from memoserve.terminal import harmless, harmless_lines

if TYPE_CHECKING:
    from rich.console import Console

    from memoserve.domain import Checkpoint


class Progress(Protocol):
    """What a run reports, one call at a time. Several checkpoints may be under way together."""

    def indexing(self, sequences: int) -> None:
        """So many more sequences have their window ids."""
        ...

    def starting(self, model: str, lane: str) -> None:
        """An engine is being started for a model; `lane` says where, empty if there is but one."""
        ...

    def started(self, model: str, lane: str, seconds: float) -> None:
        """That engine is up."""
        ...

    def not_started(self, model: str, lane: str, reason: str) -> None:
        """It could not be started, and why; other lanes make its parts."""
        ...

    def checkpoint(self, plan: CheckpointPlan) -> None:
        """A checkpoint begins."""
        ...

    def advanced(self, plan: CheckpointPlan, sequences: int, windows: int) -> None:
        """So many more of its sequences are scored; so many distinct windows were evaluated for them."""
        ...

    def part(self, plan: CheckpointPlan, span: Range, sequences: int, windows: int) -> None:
        """A part is in the store: its sequences, and the distinct windows evaluated for it."""
        ...

    def finished(self, plan: CheckpointPlan, memorized: int, windows: int, seconds: float) -> None:
        """It is whole: memorized sequences among those scored now, distinct windows evaluated."""
        ...

    def failed(self, plan: CheckpointPlan, reason: str) -> None:
        """It is not, and why; the run goes on with the next."""
        ...

    def checked(self, check: Check) -> None:
        """Something was held against something else."""
        ...

    def notice(self, text: str) -> None:
        """Something that a person should know, and that stops nothing."""
        ...


@contextmanager
def reporting(plan: Plan, console: Console) -> Iterator[Progress]:
    """The display that fits where the output goes."""
    if console.is_terminal:
        with _live(plan, console) as display:
            yield display
    else:
        yield _Lines(plan, console)


def finished_line(plan: CheckpointPlan, memorized: int, windows: int, seconds: float) -> str:
    """One line about a checkpoint that is whole."""
    rate = windows / seconds if seconds > 0 else 0.0
    return (
        f"{plan.checkpoint!s:>14}  {plan.sequences:,} sequences, {memorized:,} memorized; "
        f"{windows:,} windows evaluated in {seconds:.1f} s ({rate:,.0f}/s)"
    )


def checked_line(check: Check) -> str:
    """One line about a check, empty for what a person need not read while a run goes on."""
    if check.result == "passed" or (check.result == "not checked" and check.name != proof.AGREES):
        return ""
    mark = "FAILED" if check.result == "failed" else check.result
    return f"{check.subject:>14}  {check.name}: {mark}: {check.detail}"


class _Lines:
    """Plain lines: one per event, and one at most every ten seconds within a checkpoint."""

    interval = 10.0

    def __init__(self, plan: Plan, console: Console) -> None:
        self._console = console
        self._index_total = sum(stop - first for first, stop in plan.index)
        self._indexed = 0
        self._total = plan.sequences
        self._done = 0
        self._began = 0.0
        self._last = time.monotonic()
        self._done_of: dict[Checkpoint, int] = {}

    def indexing(self, sequences: int) -> None:
        self._indexed += sequences
        if self._due():
            self._say(f"reading sequences: {self._indexed:,}")

    def starting(self, model: str, lane: str) -> None:
        self._say(f"starting the engine for {model}{_on(lane)}")

    def started(self, model: str, lane: str, seconds: float) -> None:
        self._say(f"engine for {model}{_on(lane)} is up after {seconds:.1f} s")
        self._began = self._began or time.monotonic()

    def not_started(self, model: str, lane: str, reason: str) -> None:
        self._say(_not_started(model, lane, reason))

    def checkpoint(self, plan: CheckpointPlan) -> None:
        self._done_of[plan.checkpoint] = 0
        self._last = time.monotonic()

    def advanced(self, plan: CheckpointPlan, sequences: int, windows: int) -> None:
        self._done += sequences
        self._done_of[plan.checkpoint] += sequences
        if self._due():
            elapsed = time.monotonic() - self._began
            left = elapsed * (self._total - self._done) / self._done if self._done else 0.0
            self._say(
                f"{plan.checkpoint!s:>14}  {self._done_of[plan.checkpoint]:,} of {plan.sequences:,}"
                f" sequences; all: {self._done:,} of {self._total:,}, about {duration(left)} left"
            )

    def part(self, plan: CheckpointPlan, span: Range, sequences: int, windows: int) -> None:
        pass  # too many of them for lines

    def finished(self, plan: CheckpointPlan, memorized: int, windows: int, seconds: float) -> None:
        self._say(finished_line(plan, memorized, windows, seconds))

    def failed(self, plan: CheckpointPlan, reason: str) -> None:
        self._say(f"{plan.checkpoint!s:>14}  FAILED: {reason}")

    def checked(self, check: Check) -> None:
        if line := checked_line(check):
            self._say(line)

    def notice(self, text: str) -> None:
        self._say(text)

    def _due(self) -> bool:
        if time.monotonic() - self._last < self.interval:
            return False
        self._last = time.monotonic()
        return True

    def _say(self, line: str) -> None:
        self._console.print(harmless_lines(line), markup=False, highlight=False, soft_wrap=True)


@contextmanager
def _live(plan: Plan, console: Console) -> Iterator[Progress]:
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        SpinnerColumn,
        TaskID,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    bars = Bars(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )

    class Live:
        def __init__(self) -> None:
            self._index = bars.add_task(
                "reading sequences", total=sum(stop - first for first, stop in plan.index), rate="",
                visible=bool(plan.index),
            )  # fmt: skip
            self._all = bars.add_task("all checkpoints", total=plan.sequences, rate="")
            self._engines: dict[str, TaskID] = {}
            self._checkpoints: dict[Checkpoint, tuple[TaskID, float]] = {}

        def indexing(self, sequences: int) -> None:
            bars.advance(self._index, sequences)

        def starting(self, model: str, lane: str) -> None:
            bars.update(self._index, visible=False)
            self._engines[lane] = bars.add_task(
                escape(harmless(f"starting the engine for {model}{_on(lane)}")), total=None, rate=""
            )

        def started(self, model: str, lane: str, seconds: float) -> None:
            bars.remove_task(self._engines.pop(lane))
            self._print(f"engine for {model}{_on(lane)} is up after {seconds:.1f} s")

        def not_started(self, model: str, lane: str, reason: str) -> None:
            if lane in self._engines:
                bars.remove_task(self._engines.pop(lane))
            self._print(_not_started(model, lane, reason), style="bold red")

        def checkpoint(self, plan: CheckpointPlan) -> None:
            task = bars.add_task(escape(harmless(str(plan.checkpoint))), total=plan.sequences, rate="")
            self._checkpoints[plan.checkpoint] = task, time.monotonic()

        def advanced(self, plan: CheckpointPlan, sequences: int, windows: int) -> None:
            bars.advance(self._all, sequences)
            if plan.checkpoint in self._checkpoints:
                task, began = self._checkpoints[plan.checkpoint]
                bars.advance(task, sequences)
                rate = bars.tasks[bars.task_ids.index(task)].completed / max(time.monotonic() - began, 1e-9)
                bars.update(task, rate=f"{rate:,.0f} sequences/s")

        def part(self, plan: CheckpointPlan, span: Range, sequences: int, windows: int) -> None:
            pass

        def finished(self, plan: CheckpointPlan, memorized: int, windows: int, seconds: float) -> None:
            self._end(plan)
            self._print(finished_line(plan, memorized, windows, seconds))

        def failed(self, plan: CheckpointPlan, reason: str) -> None:
            self._end(plan)
            self._print(f"{plan.checkpoint!s:>14}  FAILED: {reason}", style="bold red")

        def checked(self, check: Check) -> None:
            if line := checked_line(check):
                self._print(line, style="bold red" if check.result == "failed" else None)

        def notice(self, text: str) -> None:
            self._print(text)

        def _end(self, plan: CheckpointPlan) -> None:
            if plan.checkpoint in self._checkpoints:
                bars.remove_task(self._checkpoints.pop(plan.checkpoint)[0])

        def _print(self, line: str, style: str | None = None) -> None:
            bars.console.print(harmless_lines(line), markup=False, highlight=False, style=style)

    with bars:
        yield Live()


def _not_started(model: str, lane: str, reason: str) -> str:
    return f"no engine for {model}{_on(lane)}, others go on without it: {reason}"


def _on(lane: str) -> str:
    return f" on {lane}" if lane else ""


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
