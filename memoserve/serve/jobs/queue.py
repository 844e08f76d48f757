"""The queue of runs: one SQLite file in the store, which the server and the worker both read and write.

Every change is one transaction, on the disk before it counts. Who dies in between loses nothing: a run is
queued, or it says which process works on it.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from memoserve.errors import StorageFailed
from memoserve.files.whole import reporting

State = Literal["queued", "running", "done", "failed", "cancelled"]
UNFINISHED: tuple[State, ...] = ("queued", "running")

FOLDER = "serve"
"""Inside the store: the queue, the logs of its runs, the worker's lock."""

_TABLE = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    state TEXT NOT NULL DEFAULT 'queued',
    request TEXT NOT NULL,            -- JSON, as it was submitted
    arguments TEXT NOT NULL,          -- JSON list: what follows `memoserve run`
    estimate TEXT NOT NULL,           -- JSON, from the dry run
    created REAL NOT NULL,            -- seconds since 1970, as the other times
    started REAL,
    ended REAL,
    attempts INTEGER NOT NULL DEFAULT 0,
    pid INTEGER,                      -- the process of the current attempt, and when that was created,
    pid_created REAL,                 -- since numbers of processes are used again
    cancel INTEGER NOT NULL DEFAULT 0,
    exit_code INTEGER,
    message TEXT NOT NULL DEFAULT '',
    progress TEXT NOT NULL DEFAULT '{}',
    log_read INTEGER NOT NULL DEFAULT 0,  -- bytes of the log that are in `progress`
    version INTEGER NOT NULL DEFAULT 1    -- grows with every change that a watcher should see
) STRICT
"""


@dataclass(frozen=True)
class QueuedJob:
    """A row of the queue."""

    id: int
    state: State
    request: dict[str, Any]
    arguments: list[str]
    estimate: dict[str, Any]
    created: float
    started: float | None
    ended: float | None
    attempts: int
    pid: int | None
    pid_created: float | None
    cancel: bool
    exit_code: int | None
    message: str
    progress: dict[str, Any]
    log_read: int
    version: int

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.state not in UNFINISHED


class Queue:
    """The runs of the store at `store`. Opening makes what is missing."""

    def __init__(self, store: Path) -> None:
        self.folder = store.resolve() / FOLDER
        self.file = self.folder / "runs.sqlite"
        with reporting(self.folder):
            self.folder.mkdir(exist_ok=True)
        with self._open() as connection:
            # ReaderPool and the one writer don't wait for each other.
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(_TABLE)

    def log_of(self, id_: int) -> Path:
        """The file that holds what a run printed, all its attempts."""
        return self.folder / f"run-{id_}.log"

    def submit(
        self, request: Mapping[str, Any], arguments: list[str], estimate: Mapping[str, Any]
    ) -> QueuedJob:
        """Add a run at the end."""
        with self._open() as connection:
            (id_,) = connection.execute(
                "INSERT INTO runs (request, arguments, estimate, created) VALUES (?, ?, ?, ?) RETURNING id",
                (json.dumps(request), json.dumps(arguments), json.dumps(estimate), time.time()),
            ).fetchone()
        return self.get(id_)

    def find(self, id_: int) -> QueuedJob | None:
        """The run of that number."""
        with self._open() as connection:
            row = connection.execute("SELECT * FROM runs WHERE id = ?", (id_,)).fetchone()
        return None if row is None else _run(row)

    def get(self, id_: int) -> QueuedJob:
        """The run of that number, which exists."""
        run = self.find(id_)
        assert run is not None, id_
        return run

    def newest(self, limit: int, offset: int = 0) -> list[QueuedJob]:
        """Runs, the newest first."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT * FROM runs ORDER BY id DESC LIMIT ? OFFSET ?", (limit, offset)
            ).fetchall()
        return [_run(row) for row in rows]

    def unfinished(self) -> list[QueuedJob]:
        """The running one, if there is one, then the queued ones in their order."""
        with self._open() as connection:
            rows = connection.execute(
                "SELECT * FROM runs WHERE state IN ('queued', 'running') ORDER BY state = 'queued', id"
            ).fetchall()
        return [_run(row) for row in rows]

    def last_with_data(self) -> dict[str, str]:
        """Suite -> the arguments' --data of its newest run that named some."""
        with self._open() as connection:
            rows = connection.execute("SELECT request, arguments FROM runs ORDER BY id").fetchall()
        found = {}
        for row in rows:
            for argument in json.loads(row["arguments"]):
                if argument.startswith("--data="):
                    found[json.loads(row["request"])["suite"]] = argument.removeprefix("--data=")
        return found

    def cancel(self, id_: int) -> None:
        """Ask for a run to end: at once if it waits, by the worker if it runs."""
        with self._open() as connection:
            connection.execute(
                "UPDATE runs SET cancel = 1, version = version + 1, "
                "ended = CASE state WHEN 'queued' THEN ? ELSE ended END, "
                "state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END "
                "WHERE id = ? AND state IN ('queued', 'running')",
                (time.time(), id_),
            )

    # The worker's part

    def begin(self, id_: int) -> bool:
        """Take a queued run; False if it was cancelled in the meantime."""
        with self._open() as connection:
            changed = connection.execute(
                "UPDATE runs SET state = 'running', attempts = attempts + 1, started = coalesce(started, ?), "
                "pid = NULL, pid_created = NULL, message = '', version = version + 1 "
                "WHERE id = ? AND state = 'queued'",
                (time.time(), id_),
            )
            return changed.rowcount == 1

    def work_on(self, id_: int, pid: int, created: float) -> None:
        """Say which process it is."""
        with self._open() as connection:
            connection.execute("UPDATE runs SET pid = ?, pid_created = ? WHERE id = ?", (pid, created, id_))

    def progress(self, id_: int, progress: Mapping[str, Any], log_read: int) -> None:
        """Where a run is, and how much of its log says so."""
        with self._open() as connection:
            connection.execute(
                "UPDATE runs SET progress = ?, log_read = ?, version = version + 1 WHERE id = ?",
                (json.dumps(progress), log_read, id_),
            )

    def wait(self, id_: int, message: str) -> None:
        """Say of a queued run why it isn't begun."""
        with self._open() as connection:
            connection.execute(
                "UPDATE runs SET message = ?, version = version + 1 "
                "WHERE id = ? AND state = 'queued' AND message <> ?",
                (message, id_, message),
            )

    def requeue(self, id_: int, message: str, *, counts: bool = True) -> None:
        """Put a run whose process is gone back, before those that came later."""
        with self._open() as connection:
            connection.execute(
                "UPDATE runs SET state = 'queued', message = ?, pid = NULL, pid_created = NULL, "
                "attempts = attempts - ?, version = version + 1 WHERE id = ?",
                (message, 0 if counts else 1, id_),
            )

    def end(self, id_: int, state: State, exit_code: int | None, message: str) -> None:
        """A run has come to its end."""
        with self._open() as connection:
            connection.execute(
                "UPDATE runs SET state = ?, exit_code = ?, message = ?, ended = ?, pid = NULL, "
                "pid_created = NULL, version = version + 1 WHERE id = ?",
                (state, exit_code, message, time.time(), id_),
            )

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction."""
        try:
            with reporting(self.file), closing(sqlite3.connect(self.file, timeout=30)) as connection:
                connection.row_factory = sqlite3.Row
                connection.execute("PRAGMA synchronous = FULL")
                with connection:
                    yield connection
        except sqlite3.Error as error:
            raise StorageFailed(
                f"the queue of runs, {self.file}, can't be read or written ({error}): is the store still "
                "there, and its disk not full? A damaged queue can be moved away: the next start makes one"
            ) from error


def _run(row: sqlite3.Row) -> QueuedJob:
    fields = dict(row)
    for name in ("request", "arguments", "estimate", "progress"):
        fields[name] = json.loads(fields[name])
    fields["cancel"] = bool(fields["cancel"])
    return QueuedJob(**fields)
