"""The command line as a user calls it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

import warm_process

Cli = Callable[..., subprocess.CompletedProcess[str]]

ONE_THREAD = {"OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
"""Engines of tests compute in one thread. Two tests run at a time: with a thread for each core, threads that
wait for each other in a loop would take the cores from others, and all would take several times as long.
"""


def on_all_cores() -> dict[str, str]:
    """The environment for an engine that takes all cores, as a user's does."""
    return {name: value for name, value in os.environ.items() if name not in ONE_THREAD}


def command(*arguments: str | Path) -> list[str]:
    """The command line of memoserve with these arguments."""
    return [sys.executable, "-m", "memoserve", *map(str, arguments)]


def environment() -> dict[str, str]:
    """That of a call: the one of now, and a terminal that is wide enough for tables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return {**kept, "COLUMNS": "160"}


def run_fresh(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Call memoserve in an interpreter that starts for it, and wait for it."""
    return subprocess.run(
        command(*arguments), cwd=folder, capture_output=True, text=True, check=False, env=environment()
    )


def engine_fork_server() -> tuple[str, int]:
    """The address of what engines of this process are forked from, and a descriptor that keeps it alive."""
    forkserver.ensure_running()
    running = vars(forkserver)["_forkserver"]
    return running._forkserver_address, running._forkserver_alive_fd


class WarmProcess:
    """The tests' end of a process that forks for each call of the command line: see warm_process."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self._calls, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, warm_process.__file__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment,
            )

    def run(self, arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        """Call memoserve in a process that is forked from one that has imported it, and wait for it."""
        call: dict[str, object] = {"arguments": arguments, "folder": str(folder), "engines": ""}
        with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
            descriptors = [stdout.fileno(), stderr.fileno()]
            if arguments[0] == "run" and "--dry-run" not in arguments:
                call["engines"], alive = engine_fork_server()
                descriptors.append(alive)
            message = json.dumps(call).encode()
            socket.send_fds(self._calls, [len(message).to_bytes(warm_process.LENGTH)], descriptors)
            self._calls.sendall(message)
            code = b""
            while not code.endswith(b"\n"):
                received = self._calls.recv(64)
                assert received, "the process that calls are forked from is gone"
                code += received
            for stream in (stdout, stderr):
                stream.seek(0)
            return subprocess.CompletedProcess(arguments, int(code), stdout.read(), stderr.read())

    def close(self) -> None:
        """End it."""
        self._calls.close()
        self._process.wait(timeout=60)
