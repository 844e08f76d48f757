"""A process of its own for an engine.

The driver stays free of torch and vLLM; their chatter goes to a log file; a crash, or the kernel's
out-of-memory killer, costs one checkpoint and not the run; and an engine never outlives its driver.

The two talk over a socket in pickled tuples: (a function of this package, argument) there, (ok, result) back.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import multiprocessing
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing import Pipe, resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from memoserve.engines.settings import EngineSettings
from memoserve.engines.silence import silence
from memoserve.errors import GOES_ON, EngineFailed, EngineStorageFailed, advice_on

T = TypeVar("T")
A = TypeVar("A")
R = TypeVar("R")

_LOG_LINES = 8
_LINE = 300
"""Characters of a line of a log that are shown: names of C++ symbols have thousands."""

_CRASHED = re.compile(
    r"Fatal Python error|Segfault encountered|Segmentation fault|Bus error|Illegal instruction|Aborted|"
    r"terminate called|out of memory|OutOfMemory|CUDA error|Assertion .* failed",
    re.IGNORECASE,
)
_FAILED = re.compile(r"^(\w+\.)*\w*(Error|Exception|Failed)\b.*:|\b(ERROR|FATAL|CRITICAL)\b")
"""A line that names a crash, and one that names an error: the last of a traceback, or a logger's."""

_ROOM = 1 << 16
"""Bytes that must be free where an engine writes; one that is out of room leaves about none."""


_OURS = "MEMOSERVE_"
"""What the names of environment variables begin with that say how engines work."""


_HIDING = threading.Lock()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Nothing here is defined in the main module, which multiprocessing would import in the new process: a
    script that starts a run when it is imported would start it there again, and a notebook has no file.
    """
    with _HIDING:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


class Child(Generic[T]):
    """The driver's end of a process that holds what `make` returns, of the weights in `folder`.

    Starting doesn't wait for the weights; the first call waits until it is up. `name`: for messages and the
    list of processes; `make`: a function or class that pickles by its name; `preload`: a module that imports
    what it needs.

    `device`: GPUs such as `0` or `0,1`, on a CPU cores such as `0-15`; empty for whatever is visible.

    On a CPU, engine processes are forked from one that has imported torch and vLLM and done nothing else,
    which takes 11 of the 13 seconds of a start from all but the first. CUDA and fork don't go together:
    there every engine is a fresh process.

    Raises EngineFailed from any call if the engine can't start, refuses, or dies, EngineStorageFailed if that
    is because it can't write what it has to; after that it must be closed and another one started.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[EngineSettings, Path], T],
        preload: str,
        settings: EngineSettings,
        folder: Path,
        log_file: Path,
        verbose: bool = False,
        device: str = "",
    ) -> None:
        self.name = name
        self.settings = settings
        self.log_file = log_file
        try:
            log_file.parent.mkdir(parents=True, exist_ok=True)
            log_file.touch()
            self._log_begins = log_file.stat().st_size
        except OSError as error:
            raise self._storage_failed("start", log_file, error) from error
        self._connection, theirs = Pipe()
        method = "forkserver" if settings.device == "cpu" else "spawn"
        context: Any = multiprocessing.get_context(method)
        if method == "forkserver":
            # The first one decides; what the eager forward needs is among what any of them imports.
            context.set_forkserver_preload([preload])
        self._process = context.Process(
            target=_child,
            args=(theirs, None if verbose else log_file, device, settings.device, _our_environment()),
            name=f"memoserve {name} engine",
        )
        with silence(2):  # it would tell the user of vLLM's semaphores, which go with the process
            resource_tracker.ensure_running()
        try:
            with _without_main():
                self._process.start()
        except (EOFError, OSError) as error:
            self._connection.close()
            self._raise_if_out_of_room("start", error.errno if isinstance(error, OSError) else None)
            # Its connections end before it does, and while it is still there no other one is started.
            time.sleep(0.5)
            raise EngineFailed(
                f"the {name} engine's process did not start: the fork server was killed "
                f"({type(error).__name__}; out of memory?)"
            ) from error
        finally:
            theirs.close()
        atexit.register(self.kill)  # before multiprocessing waits for its children
        self._pending = "start"
        self._send((make, settings, folder))

    def wait_until_up(self) -> None:
        """Return when the engine has loaded its first weights."""
        if self._pending:
            self._receive("start")
            self._pending = ""

    def close(self) -> None:
        """End the process, and whatever it started."""
        atexit.unregister(self.kill)
        self._hang_up()
        self._connection.close()
        self._process.join(timeout=5)
        self.kill()
        self._process.join()

    def kill(self) -> None:
        """End it at once; a call that is under way in another thread raises EngineFailed."""
        self._hang_up()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)

    def call(self, ask: Callable[[T, A], R], argument: A) -> R:
        """What a function, pickled by its name, says there of what the process holds and an argument."""
        self.wait_until_up()
        with contextlib.suppress(OSError):
            self._log_begins = self.log_file.stat().st_size
        self._send((ask, argument))
        return cast("R", self._receive(ask.__name__.strip("_")))

    def _send(self, message: object) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # _receive says why
            self._connection.send(message)

    def _receive(self, method: str) -> object:
        try:
            ok, result = self._connection.recv()
        except (EOFError, ConnectionResetError, OSError):
            message = self._exit_message(method)
            self._raise_if_out_of_room(method)
            raise EngineFailed(message) from None
        if not ok:
            refused, number, expected = result
            self._raise_if_out_of_room(method, number)
            if expected:
                raise EngineFailed(refused)
            raise EngineFailed(f"the {self.name} engine failed to {method}: {refused}\n{self._tail()}")
        return result

    def _raise_if_out_of_room(self, method: str, number: int | None = None) -> None:
        """Raise EngineStorageFailed if this is why an engine failed: it says so by an `errno`, or can't say
        anything, as where its log is, or its temporary files, nothing more can be written.
        """
        folders = [self.log_file.parent]
        try:
            folders.append(Path(tempfile.gettempdir()))
        except OSError as error:  # there is none that can be written to
            raise self._storage_failed(method, Path("the folder for temporary files"), error) from error
        for folder in folders:
            try:
                with tempfile.TemporaryFile(dir=folder) as file:
                    file.write(bytes(_ROOM))
            except OSError as error:
                raise self._storage_failed(method, folder, error) from error
        if number in (errno.ENOSPC, errno.EDQUOT):
            raise self._storage_failed(method, folders[-1], OSError(number, os.strerror(number)))

    def _storage_failed(self, method: str, folder: Path, error: OSError) -> EngineStorageFailed:
        return EngineStorageFailed(
            f"the {self.name} engine failed to {method}: {folder} could not be written to: "
            f"{error.strerror or error} ({advice_on(error)}; temporary files go where the environment "
            f"variable TMPDIR says).\n{GOES_ON}"
        )

    def _exit_message(self, method: str) -> str:
        self._process.join(timeout=5)
        code = self._process.exitcode
        how = "closed its connection" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                how += " (out of memory?)"
        return f"the {self.name} engine {how} during {method}\n{self._tail()}"

    def _tail(self) -> str:
        with open(self.log_file, "rb") as file:
            file.seek(min(self._log_begins, self.log_file.stat().st_size))
            lines = file.read().decode(errors="replace").splitlines()
        return in_short(lines, self.log_file)


def in_short(lines: list[str], log_file: Path) -> str:
    """Of what an engine wrote into its log in its start or a call: where it went wrong, and the end.

    Behind a crash comes its stack, as long as one likes, so the last lines say nothing; and what follows on
    an error are others, which it caused.
    """
    end = max(0, len(lines) - _LOG_LINES)
    first = next((number for number, line in enumerate(lines[:end]) if _CRASHED.search(line)), None)
    if first is None:
        first = next((number for number, line in enumerate(lines[:end]) if _FAILED.search(line)), None)
    told = [] if first is None else [f"first in {log_file}:", f"  {_cut(lines[first])}"]
    return "\n".join([*told, f"the end of {log_file}:", *(f"  {_cut(line)}" for line in lines[end:])])


def _cut(line: str) -> str:
    return line if len(line) <= _LINE else line[: _LINE - 1] + "…"


def _serve(connection: Connection) -> None:
    make, settings, folder = connection.recv()
    try:
        held = make(settings, folder)
    except Exception as error:
        connection.send(_refusal(error))
        return
    connection.send((True, None))
    while True:
        ask, argument = connection.recv()
        try:
            reply = (True, ask(held, argument))
        except Exception as error:
            reply = _refusal(error)
        connection.send(reply)


def _refusal(error: Exception) -> tuple[bool, tuple[str, int | None, bool]]:
    """What to answer: an error in words, the errno behind it, and whether these words are for people."""
    with contextlib.suppress(OSError):  # a disk that is full doesn't take this either
        traceback.print_exc()  # into the engine's log
    if isinstance(error, EngineFailed):
        return False, (str(error), None, True)
    lines = str(error).strip().splitlines() or [""]
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    return False, (f"{type(error).__name__}: {lines[0]}", cause.errno if cause is not None else None, False)


def _our_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(_OURS)}


def _child(
    connection: Connection, log_file: Path | None, device: str, kind: str, environment: dict[str, str]
) -> None:
    os.setsid()  # Ctrl-C is for the driver, which then closes the engine
    _end_with_driver()
    if log_file is not None:
        with open(log_file, "ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
    # What this process is forked from has the environment of its own start.
    for name in _our_environment():
        del os.environ[name]
    os.environ.update(environment)
    if device and kind == "cpu":
        os.sched_setaffinity(0, cores_of(device))
        os.environ["VLLM_CPU_OMP_THREADS_BIND"] = device
    elif device:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
        _serve(connection)
    os._exit(0)  # torch's and vLLM's threads need no goodbye


def _end_with_driver() -> None:
    """End this process when the driver is gone, also in the middle of a computation."""

    def watch() -> None:
        driver = multiprocessing.parent_process()
        assert driver is not None
        driver.join()
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def cores_of(device: str) -> range:
    """The cores of `3` or `0-15`. Raises ValueError for anything else."""
    first, _, last = device.partition("-")
    return range(int(first), int(last or first) + 1)
