"""Events for programs: one JSON object a line. docs/run.md lists them and their fields."""

from __future__ import annotations

import json
import time
from typing import TextIO

from memoserve.run.events import Checked, End, Event, Indexing, ProgressEvent, as_json

_INTERVAL = 1.0
"""Seconds between two `progress` events at least; parts and checkpoints are told whenever they are done."""


class EventLines:
    """Writes events to a stream, each line at once. Of several ends only the first counts."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = 0.0
        self._ended = False

    def __call__(self, event: Event) -> None:
        """Write an event, unless there are too many of its kind."""
        if self._ended or not self._is_told(event):
            return
        self._ended = isinstance(event, End)
        print(json.dumps(as_json(event)), file=self._stream, flush=True)

    def _is_told(self, event: Event) -> bool:
        if isinstance(event, Checked):
            return event.check.result != "passed"
        if isinstance(event, ProgressEvent):
            return self._is_due()
        if isinstance(event, Indexing):
            return self._is_due() or event.done == event.total
        return True

    def _is_due(self) -> bool:
        now = time.monotonic()
        if now - self._last < _INTERVAL:
            return False
        self._last = now
        return True
