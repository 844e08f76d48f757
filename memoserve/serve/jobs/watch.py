"""The server's side of the queue: tells watchers of changes, and sees to it that a worker works."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import subprocess
import time
from pathlib import Path

from memoserve.files.lock import is_locked
from memoserve.serve.jobs.queue import Queue
from memoserve.serve.jobs.worker import lock_file, start_worker

_POLL_SECONDS = 0.2
_RESTART_SECONDS = 3.0
"""Between two starts of a worker, so that one that can't start is not started all the time."""

_log = logging.getLogger("uvicorn.error")


class Watch:
    """One for each server; `run` is its task."""

    def __init__(self, store: Path, queue: Queue) -> None:
        self._store, self._queue = store, queue
        self._change = asyncio.Event()
        self._started = 0.0
        self._worker: subprocess.Popen[bytes] | None = None
        self._trouble = ""

    async def changed(self) -> None:
        """Return when the queue has changed."""
        await self._change.wait()

    async def run(self) -> None:
        """Look every moment, for ever."""
        connection = sqlite3.connect(self._queue.file)
        seen = None
        try:
            while True:
                try:
                    # Grows when another connection has written, and costs next to nothing.
                    (version,) = connection.execute("PRAGMA data_version").fetchone()
                    if version != seen:
                        seen = version
                        self._change.set()
                        self._change = asyncio.Event()
                    self._see_to_worker()
                    self._trouble = ""
                except Exception as error:
                    self._complain(error)
                await asyncio.sleep(_POLL_SECONDS)
        finally:
            connection.close()

    def _complain(self, error: Exception) -> None:
        """Into the log, once for as long as it is the same: this happens every moment."""
        if str(error) != self._trouble:
            self._trouble = str(error)
            _log.error("looking after the queue", exc_info=error)

    def _see_to_worker(self) -> None:
        if self._worker is not None and self._worker.poll() is not None:
            self._worker = None
        if time.monotonic() - self._started < _RESTART_SECONDS or not self._queue.unfinished():
            return
        if is_locked(lock_file(self._queue.folder)):
            return
        self._started = time.monotonic()
        self._worker = start_worker(self._store)
