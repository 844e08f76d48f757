"""How a run tells a notebook where it is: lines, and bars that move, in one output of the cell."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from memoserve.run import events
from memoserve.run.display import duration, line_of
from memoserve.run.events import Event
from memoserve.terminal import escape_for_terminal, escape_lines_for_terminal

if TYPE_CHECKING:
    from memoserve.domain import Checkpoint

_INTERVAL = 0.25
"""Seconds between two pictures of a bar: each goes through the browser."""


@dataclass
class _Bar:
    """Sequences done of those to do. `total` 0: nobody knows yet, or there are none."""

    label: str
    total: int
    done: int = 0
    began: float = field(default_factory=time.monotonic)

    def text(self) -> str:
        """How far it is, and how long it takes from here."""
        elapsed = time.monotonic() - self.began
        left = f", about {duration(elapsed * (self.total - self.done) / self.done)} left" if self.done else ""
        return f"{self.done:,} of {self.total:,} sequences" + (left if self.done < self.total else "")

    def html(self) -> str:
        return (
            f"<div><code>{escape(escape_for_terminal(self.label))}</code> "
            f'<progress value="{self.done}" max="{self.total or 1}"></progress> {escape(self.text())}</div>'
        )


class NotebookDisplay:
    """Takes a run's events, from whatever thread, one at a time."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._all: _Bar | None = None
        self._checkpoints: dict[Checkpoint, _Bar] = {}
        self._handle: Any = None
        self._shown = 0.0

    def __call__(self, event: Event) -> None:
        """Show what it changes."""
        if line := line_of(event):
            self._lines.append(escape_lines_for_terminal(line))
        match event:
            case events.PlanEvent(plan):
                self._all = _Bar("all checkpoints", plan.sequences)
                if not plan.todo and not plan.index:
                    self._lines.append("nothing to do: all scores exist")
            case events.CheckpointStarted(checkpoint, sequences):
                self._checkpoints[checkpoint] = _Bar(str(checkpoint), sequences)
            case events.ProgressEvent(checkpoint, counts) | events.PartDone(checkpoint, _, _, _, counts):
                if self._all is not None:
                    self._all.done = counts.all_done
                if checkpoint in self._checkpoints:
                    self._checkpoints[checkpoint].done = counts.done
            case events.CheckpointFinished(checkpoint) | events.CheckpointFailed(checkpoint):
                self._checkpoints.pop(checkpoint, None)
            case events.End(outcome=outcome) if outcome is not None:
                self._lines += outcome.incomplete
        is_progress = isinstance(event, events.ProgressEvent | events.PartDone)
        if not is_progress or time.monotonic() - self._shown > _INTERVAL:
            self._show()

    def _show(self) -> None:
        from IPython.display import display

        bars = [bar for bar in (self._all, *self._checkpoints.values()) if bar is not None and bar.total]
        lines = "\n".join(self._lines)
        plain = [*self._lines, *(f"{escape_for_terminal(bar.label)}: {bar.text()}" for bar in bars)]
        content = {
            "text/html": f"<pre>{escape(lines)}</pre>" + "".join(bar.html() for bar in bars),
            "text/plain": "\n".join(plain),
        }
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
        self._shown = time.monotonic()
