"""How a run tells a person where it is: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from memoserve.checks import Check
from memoserve.run import events
from memoserve.run.checks import proof
from memoserve.run.events import Event, OnEvent
from memoserve.terminal import escape_for_terminal, escape_lines_for_terminal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from memoserve.domain import Checkpoint

_INTERVAL = 10.0
"""Seconds between two lines about a checkpoint that is under way."""


@contextmanager
def reporting(console: Console) -> Iterator[OnEvent]:
    """The display that fits where the output goes."""
    if console.is_terminal:
        live = _Live(console)
        try:
            yield live
        finally:
            live.stop()
    else:
        yield _Lines(console)


def line_of(event: Event) -> str:
    """One line about an event, empty for what needs none: progress, and checks that passed."""
    match event:
        case events.EngineStarting(model, worker):
            return f"starting the engine for {model}{_on(worker)}"
        case events.EngineUp(model, worker, seconds):
            return f"engine for {model}{_on(worker)} is ready in {seconds:.1f} s"
        case events.EngineNotStarted(model, worker, reason):
            return f"no engine for {model}{_on(worker)}, continuing on other devices: {reason}"
        case events.CheckpointFinished(checkpoint, sequences, memorized, windows, seconds):
            rate = windows / seconds if seconds > 0 else 0.0
            return (
                f"{checkpoint!s:>14}  {sequences:,} sequences, {memorized:,} memorized; "
                f"{windows:,} windows evaluated in {seconds:.1f} s ({rate:,.0f}/s)"
            )
        case events.CheckpointFailed(checkpoint, reason):
            return f"{checkpoint!s:>14}  FAILED: {reason}"
        case events.Checked(check):
            return checked_line(check)
        case events.Notice(text):
            return text
    return ""


def checked_line(check: Check) -> str:
    """One line about a check, empty for what a person need not read while a run goes on."""
    if check.result == "passed" or (check.result == "not checked" and check.name != proof.AGREES):
        return ""
    mark = "FAILED" if check.result == "failed" else check.result
    return f"{check.subject:>14}  {check.name}: {mark}: {check.detail}"


class _Lines:
    """Plain lines: one per event, and one at most every ten seconds within a checkpoint."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = 0.0
        self._last = time.monotonic()

    def __call__(self, event: Event) -> None:
        match event:
            case events.Indexing(done):
                if self._is_due():
                    self._print(f"reading sequences: {done:,}")
            case events.CheckpointStarted():
                self._last = time.monotonic()
            case events.ProgressEvent():
                if self._is_due():
                    self._print(self._progress_line(event))
            case events.EngineUp():
                self._print(line_of(event))
                self._began = self._began or time.monotonic()
            case _:
                if line := line_of(event):
                    self._print(line)

    def _progress_line(self, event: events.ProgressEvent) -> str:
        counts = event.counts
        elapsed = time.monotonic() - self._began
        left = elapsed * (counts.all_total - counts.all_done) / counts.all_done if counts.all_done else 0.0
        return (
            f"{event.checkpoint!s:>14}  {counts.done:,} of {counts.total:,} sequences; "
            f"all: {counts.all_done:,} of {counts.all_total:,}, about {duration(left)} left"
        )

    def _is_due(self) -> bool:
        if time.monotonic() - self._last < _INTERVAL:
            return False
        self._last = time.monotonic()
        return True

    def _print(self, line: str) -> None:
        self._console.print(escape_lines_for_terminal(line), markup=False, highlight=False, soft_wrap=True)


class _Live:
    """Bars, for the whole run and for each checkpoint that is under way, with the time that is left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = _bars(console)
        self._index: TaskID | None = None
        self._all: TaskID | None = None
        self._engines: dict[str, TaskID] = {}
        self._checkpoints: dict[Checkpoint, TaskID] = {}
        self._began: dict[Checkpoint, float] = {}

    def __call__(self, event: Event) -> None:
        self._move_bars(event)
        failed = (
            isinstance(event, events.EngineNotStarted | events.CheckpointFailed)
            or (isinstance(event, events.Checked) and event.check.result == "failed")
        )  # fmt: skip
        if (line := line_of(event)) and not isinstance(event, events.EngineStarting):
            style = "bold red" if failed else None
            self._console.print(escape_lines_for_terminal(line), markup=False, highlight=False, style=style)

    def stop(self) -> None:
        """Leave the bars as they are."""
        self._bars.stop()

    def _move_bars(self, event: Event) -> None:
        match event:
            case events.PlanEvent(plan):
                self._begin(sum(stop - first for first, stop in plan.index), plan.sequences)
            case events.Indexing(done) if self._index is not None:
                self._bars.update(self._index, completed=done)
            case events.EngineStarting(_, worker):
                if self._index is not None:
                    self._bars.update(self._index, visible=False)
                self._engines[worker] = self._add(line_of(event), None)
            case events.EngineUp(_, worker) | events.EngineNotStarted(_, worker):
                self._remove(self._engines.pop(worker, None))
            case events.CheckpointStarted(checkpoint, sequences):
                self._checkpoints[checkpoint] = self._add(str(checkpoint), sequences)
                self._began[checkpoint] = time.monotonic()
            case events.ProgressEvent():
                self._advance(event)
            case events.CheckpointFinished(checkpoint) | events.CheckpointFailed(checkpoint):
                self._remove(self._checkpoints.pop(checkpoint, None))

    def _begin(self, to_index: int, sequences: int) -> None:
        if not to_index and not sequences:
            return
        if to_index:
            self._index = self._add("reading sequences", to_index)
        self._all = self._add("all checkpoints", sequences)
        self._bars.start()

    def _advance(self, event: events.ProgressEvent) -> None:
        counts = event.counts
        if self._all is not None:
            self._bars.update(self._all, completed=counts.all_done)
        if (task := self._checkpoints.get(event.checkpoint)) is not None:
            rate = counts.done / max(time.monotonic() - self._began[event.checkpoint], 1e-9)
            self._bars.update(task, completed=counts.done, rate=f"{rate:,.0f} sequences/s")

    def _add(self, text: str, total: int | None) -> TaskID:
        from rich.markup import escape

        return self._bars.add_task(escape(escape_for_terminal(text)), total=total, rate="")

    def _remove(self, task: TaskID | None) -> None:
        if task is not None:
            self._bars.remove_task(task)


def _bars(console: Console) -> Progress:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def _on(worker: str) -> str:
    return f" on {worker}" if worker else ""


def duration(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
