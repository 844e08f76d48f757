"""One run at a time on a remote store: a lease, which its holder renews and which runs out when it dies.

The lease is an object `.lease/NUMBER.json`. Who wants the store creates the next number, which a put that
never replaces lets one contender do. The holder rewrites its own number every few seconds, and stops when a
higher one is there or when it could not renew for the time the lease lasts. Numbers only rise: a lease that
was given back stays as the last one, marked so. A holder on the same machine whose process is gone is
followed at once; any other one once its lease has run out by the clock *and* has been seen not to be renewed,
so that clocks that disagree give the store to nobody else.

A lease can't be a lock: a process that was stopped for a minute believes in it for one more request. What
keeps two runs from doubling a sequence is that parts are created and never replaced, and that a writer looks
for overlapping ones before and after (see memoserve.store.parts).
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from types import TracebackType
from typing import Any

from memoserve.errors import GOES_ON, MemoserveError, StorageFailed, StoreConflict
from memoserve.files.base import Files

FOLDER = ".lease"


class Lease:
    """A context that holds the store. Entering raises StoreConflict if another run has it."""

    seconds = 60.0
    """For how long a lease counts after it was renewed last. It is renewed four times as often."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._me = {"owner": uuid.uuid4().hex, "pid": os.getpid(), **_this_process()}
        self._number = 0
        self._renewed = 0.0
        self._ending = threading.Event()
        self._lost = ""
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Lease:
        self._take()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        if self._thread is not None:
            self._thread.join()
        if not self._lost:
            with suppress(MemoserveError):  # else it runs out by itself
                self._files.write(_name(self._number), self._record(given_back=True))

    def check(self) -> None:
        """Raise StorageFailed if the store is no longer this run's."""
        if not self._lost and time.monotonic() - self._renewed > self.seconds:
            self._lost = f"the lease could not be renewed for {self.seconds:.0f} s"
        if self._lost:
            raise StorageFailed(f"{self._files.root} is no longer held by this run: {self._lost}.\n{GOES_ON}")

    def _take(self) -> None:
        last = self._last()
        if last:
            self._wait_until_free(last)
        self._number = last + 1
        began = time.monotonic()
        try:
            self._files.create(_name(self._number), self._record())
        except FileExistsError:
            raise StoreConflict(_in_use(self._files.root, "another run was faster")) from None
        self._renewed = began
        for number in self._numbers():
            if number < self._number:
                self._files.remove(_name(number))

    def _wait_until_free(self, number: int) -> None:
        found = self._read(number)
        if found.get("given_back"):
            return
        who = f"process {found.get('pid')} on {found.get('host')}: wait for it, or stop it"
        if self._is_gone(found):
            return
        age = time.time() - float(found.get("renewed", 0))
        if age < self.seconds:
            left = max(1.0, self.seconds - max(age, 0.0))
            raise StoreConflict(
                _in_use(self._files.root, f"{who}; if it has died, try again in {left:.0f} s")
            )
        deadline = time.monotonic() + self.seconds / 3
        while time.monotonic() < deadline:
            time.sleep(self.seconds / 30)
            if self._last() != number or self._read(number) != found:
                raise StoreConflict(_in_use(self._files.root, who))

    def _is_gone(self, found: dict[str, Any]) -> bool:
        """Whether the holder was a process of this machine that is not there any more."""
        import psutil

        here = _this_process()
        if found.get("machine") != here["machine"] or not isinstance(found.get("pid"), int):
            return False
        try:
            # The time is computed from the boot time, which is known to a second.
            return abs(psutil.Process(found["pid"]).create_time() - float(found.get("started", 0))) > 2
        except psutil.NoSuchProcess:
            return True
        except psutil.Error:
            return False

    def _keep(self) -> None:
        while not self._ending.wait(self.seconds / 4):
            began = time.monotonic()
            try:
                if self._last() != self._number:
                    self._lost = "another run has taken it over"
                    return
                self._files.write(_name(self._number), self._record())
                self._renewed = began
            except StorageFailed:
                continue  # the next attempt may succeed; `check` knows for how long to hope

    def _numbers(self) -> list[int]:
        bare = (name.removesuffix(".json") for name in self._files.names(FOLDER))
        return sorted(int(name) for name in bare if name.isdigit())

    def _last(self) -> int:
        return max(self._numbers(), default=0)

    def _read(self, number: int) -> dict[str, Any]:
        try:
            found = json.loads(self._files.read(_name(number)))
        except (FileNotFoundError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}

    def _record(self, given_back: bool = False) -> bytes:
        record = {**self._me, "renewed": time.time()}
        return json.dumps({**record, "given_back": True} if given_back else record).encode()


def _name(number: int) -> str:
    return f"{FOLDER}/{number:012d}.json"


def _in_use(root: str, by: str) -> str:
    return f"{root} is in use by another run ({by})"


def _this_process() -> dict[str, Any]:
    """What tells this machine (and container) and process from any other."""
    import psutil

    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot = file.read().strip()
        boot += f" {os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        boot = str(psutil.boot_time())
    host = socket.gethostname()
    return {"host": host, "machine": f"{host} {boot}", "started": psutil.Process().create_time()}
