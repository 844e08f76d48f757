"""The worker: carries out the queue, one run at a time, each as a `memoserve run` of its own.

It is a process that no other needs. The server starts one when there is something to do, and it ends when
there is nothing; it may be killed, and so may the server, or the run: runs print to files and not to pipes,
and the next worker finds a living one by its number, and begins a dead one again, which goes on where it
stopped, as every `memoserve run` does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path

import psutil

from memoserve.errors import RunIncomplete, StoreConflict
from memoserve.files.local import LOCK
from memoserve.files.lock import is_locked, try_lock
from memoserve.serve.jobs import progress
from memoserve.serve.jobs.process import command_of
from memoserve.serve.jobs.queue import Queue, QueuedJob

POLL_SECONDS = 0.2
IDLE_SECONDS = 5.0
"""A worker with nothing to do ends after this."""
TERM_SECONDS = 30.0
"""What a cancelled run has to end by itself."""
MOST_ATTEMPTS = 3
_LINES = 8
_INTERRUPTED = 130


def lock_file(folder: Path) -> Path:
    """What the one worker of a store holds."""
    return folder / "worker.lock"


def start_worker(store: Path) -> subprocess.Popen[bytes]:
    """Start a worker that outlives this process."""
    queue = Queue(store)
    with (queue.folder / "worker.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "memoserve.serve.jobs.worker", str(store.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


class QueueWorker:
    """Works on the queue of one store, whose worker's lock the caller holds."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._queue = Queue(store)

    def work(self) -> None:
        """Until nothing has been left to do for a while."""
        idle_since = time.monotonic()
        while time.monotonic() - idle_since < IDLE_SECONDS:
            unfinished = self._queue.unfinished()
            if unfinished:
                self._advance(unfinished[0])
                idle_since = time.monotonic()
            else:
                time.sleep(POLL_SECONDS)

    def _advance(self, run: QueuedJob) -> None:
        if run.state == "running":
            process = _living(run)
            if process is None:
                self._decide(self._read(run), None)
            else:
                self._follow(run, process)
            return
        # Somebody's own `memoserve run` may be at work in the store, or a run that an earlier worker began
        # and had not yet noted.
        if is_locked(self._store / LOCK):
            self._queue.wait(run.id, "waits for another run in this store")
            time.sleep(POLL_SECONDS)
            return
        device = _hold_device()
        if device is None:
            self._queue.wait(run.id, "waits for another run on this machine")
            time.sleep(POLL_SECONDS)
            return
        try:
            if self._queue.begin(run.id):
                self._start(self._queue.get(run.id), device)
        finally:
            os.close(device)

    def _start(self, run: QueuedJob, device: int) -> None:
        """Start the process of a run. It inherits the device's lock, which so is held as long as it lives."""
        with self._queue.log_of(run.id).open("ab") as log:
            process = subprocess.Popen(
                command_of(run.arguments),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[device],
                env={**os.environ, "COLUMNS": "160"},
            )
        self._queue.work_on(run.id, process.pid, psutil.Process(process.pid).create_time())
        self._follow(run, process)

    def _follow(self, run: QueuedJob, process: subprocess.Popen[bytes] | psutil.Process) -> None:
        """Watch a run's process to its end, and end it when that is asked for."""
        told: float | None = None
        while not _ended(process):
            run = self._read(run)
            if self._queue.get(run.id).cancel:
                if told is None:
                    _signal(process.pid, signal.SIGTERM)
                    told = time.monotonic()
                elif time.monotonic() - told > TERM_SECONDS:
                    _signal(process.pid, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        code = process.returncode if isinstance(process, subprocess.Popen) else None
        self._decide(self._read(run), code)

    def _read(self, run: QueuedJob) -> QueuedJob:
        """Take what the run has printed since into its progress."""
        run = self._queue.get(run.id)
        events, _, offset = progress.read_events(self._queue.log_of(run.id), run.log_read)
        if offset == run.log_read:
            return run
        now = progress.kept(run.progress)
        for event in events:
            now = progress.follow(now, event)
        self._queue.progress(run.id, asdict(now), offset)
        return self._queue.get(run.id)

    def _decide(self, run: QueuedJob, code: int | None) -> None:
        """What becomes of a run whose process has ended, with `code` if that is known."""
        now = progress.kept(run.progress)
        if code is None:
            # Of a process that another worker had started, only its own last event tells how it ended.
            code = now.exit_code
        queue, id_ = self._queue, run.id
        if code == 0:
            queue.end(id_, "done", 0, "")
        elif run.cancel:
            queue.end(id_, "cancelled", code, "cancelled: whole parts are kept")
        elif code == StoreConflict.exit_code and is_locked(self._store / LOCK):
            queue.requeue(id_, "waits for another run in this store", counts=False)
        elif code is None or code < 0 or code in {_INTERRUPTED, RunIncomplete.exit_code}:
            why = _why(code)
            # A checkpoint whose engine was killed is made the next time; one that can't be made is not.
            most = 2 if code == RunIncomplete.exit_code else MOST_ATTEMPTS
            if run.attempts < most:
                self._forget_end(run)
                queue.requeue(id_, f"{why}; it goes on where it stopped")
            else:
                queue.end(id_, "failed", code, f"{why}, {run.attempts} times")
        else:
            queue.end(id_, "failed", code, now.error or self._tail(id_) or f"exit code {code}")

    def _forget_end(self, run: QueuedJob) -> None:
        """The end of this attempt is not that of the next."""
        now = replace(progress.kept(run.progress), exit_code=None, error="")
        self._queue.progress(run.id, asdict(now), run.log_read)

    def _tail(self, id_: int) -> str:
        """The last lines of a log that are no events."""
        _, lines, _ = progress.read_events(self._queue.log_of(id_), 0)
        return "\n".join(lines[-_LINES:]).removeprefix("error: ")


def _why(code: int | None) -> str:
    if code is None:
        return "its process was gone"
    if code < 0:
        return f"it was killed by {signal.Signals(-code).name}"
    return "it was interrupted" if code == _INTERRUPTED else "some checkpoints failed"


def _living(run: QueuedJob) -> psutil.Process | None:
    """The process that works on a run, if it still does."""
    if run.pid is None or run.pid_created is None:
        return None
    try:
        process = psutil.Process(run.pid)
        # The time is computed from the boot time, which is known to a second.
        same = abs(process.create_time() - run.pid_created) < 2
    except psutil.NoSuchProcess:
        return None
    return process if same and not _ended(process) else None


def _ended(process: subprocess.Popen[bytes] | psutil.Process) -> bool:
    if isinstance(process, subprocess.Popen):
        return process.poll() is not None
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _signal(pid: int, number: signal.Signals) -> None:
    """To the run's own process; what it started ends with it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def _hold_device() -> int | None:
    """The lock of this machine's device, or None if a run of another store of this user has it."""
    file = Path(tempfile.gettempdir()) / f"memoserve-{os.getuid()}-device.lock"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    if try_lock(descriptor):
        return descriptor
    os.close(descriptor)
    return None


def main(store: Path) -> None:
    """Work, unless another worker does."""
    queue = Queue(store)
    descriptor = os.open(lock_file(queue.folder), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if try_lock(descriptor):
        QueueWorker(store).work()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
