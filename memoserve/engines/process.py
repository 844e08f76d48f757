"""An engine in a process of its own.

The driver stays free of torch and vLLM; their chatter goes to a log file; a crash, or the kernel's
out-of-memory killer, costs one checkpoint and not the run; and an engine never outlives its driver.

The two talk over a socket in pickled tuples: (method, argument) there, (ok, result) back.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.engines.matches import Matches
from memoserve.engines.settings import EngineSettings
from memoserve.errors import EngineFailed

_LOG_LINES = 8


class EngineProcess:
    """The driver's end. Starting returns at once; the first call waits until the engine is up.

    Raises EngineFailed from any call if the engine can't start, refuses, or dies; after that it must be
    closed and another one started.
    """

    def __init__(
        self,
        settings: EngineSettings,
        folder: Path,
        log_file: Path,
        verbose: bool = False,
    ) -> None:
        self.settings = settings
        self.log_file = log_file
        log_file.parent.mkdir(parents=True, exist_ok=True)
        self._connection, theirs = Pipe()
        with open(log_file, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "memoserve.engines.process", str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=None if verbose else log,
                stderr=None if verbose else log,
                start_new_session=True,  # Ctrl-C is for the driver, which then closes the engine
            )
        theirs.close()
        self._pending = "start"
        self._send((settings, folder))

    def wait_until_up(self) -> None:
        """Return when the engine has loaded its first weights."""
        if self._pending:
            self._receive("start")
            self._pending = ""

    def load(self, folder: Path) -> None:
        """Replace the weights."""
        self._call("load", folder)

    def evaluate(self, windows: NDArray[np.uint32]) -> Matches:
        """Matches of u32[n, context + 32] windows."""
        result: Matches = self._call("evaluate", windows)
        return result

    def generate(self, contexts: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The greedy continuations u32[n, 32] of u32[n, context] contexts."""
        result: NDArray[np.uint32] = self._call("generate", contexts)
        return result

    def margins(self, prefixes: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Of the reference engine: best minus second best logit after u32[n, m] prefixes, f32[n]."""
        result: NDArray[np.float32] = self._call("margins", prefixes)
        return result

    def close(self) -> None:
        """End the process, and whatever it started."""
        with contextlib.suppress(OSError):
            self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _call(self, method: str, argument: Any) -> Any:
        self.wait_until_up()
        self._send((method, argument))
        return self._receive(method)

    def _send(self, message: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # _receive says why
            self._connection.send(message)

    def _receive(self, method: str) -> Any:
        try:
            ok, result = self._connection.recv()
        except (EOFError, ConnectionResetError, OSError):
            raise EngineFailed(self._obituary(method)) from None
        if not ok:
            raise EngineFailed(
                f"the {self.settings.engine} engine failed to {method}: {result}\n{self._tail()}"
            )
        return result

    def _obituary(self, method: str) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        code = self._process.returncode
        how = "closed its connection" if code is None else f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL:
                how += " (out of memory?)"
        return f"the {self.settings.engine} engine {how} during {method}\n{self._tail()}"

    def _tail(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join([f"the end of {self.log_file}:", *(f"  {line}" for line in lines)])


def start_engine(settings: EngineSettings, folder: Path) -> Any:
    """The engine that `settings` names, in this process."""
    if settings.engine == "vllm":
        from memoserve.engines.vllm_engine import VllmEngine

        return VllmEngine(settings, folder)
    from memoserve.engines.transformers_engine import TransformersEngine

    return TransformersEngine(settings, folder)


def _serve(connection: Connection) -> None:
    settings, folder = connection.recv()
    try:
        engine = start_engine(settings, folder)
    except Exception as error:
        connection.send(_refusal(error))
        return
    connection.send((True, None))
    while True:
        method, argument = connection.recv()
        try:
            reply = (True, getattr(engine, method)(argument))
        except Exception as error:
            reply = _refusal(error)
        connection.send(reply)


def _refusal(error: Exception) -> tuple[bool, str]:
    traceback.print_exc()  # into the engine's log
    lines = str(error).strip().splitlines() or [""]
    return False, f"{type(error).__name__}: {lines[0]}"


def _end_with(driver: int) -> None:
    """End this process when the driver is gone, also in the middle of a computation."""

    def watch() -> None:
        while os.getppid() == driver:
            time.sleep(1)
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    _end_with(int(sys.argv[2]))
    with contextlib.suppress(EOFError, ConnectionResetError, BrokenPipeError):
        _serve(Connection(int(sys.argv[1])))
    os._exit(0)  # torch's and vLLM's threads need no goodbye
