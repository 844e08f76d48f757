"""A real `memoserve serve` for the tests, and a small store with text in it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import psutil
from command_line import command

from memoserve.run.windows import window_ids
from memoserve.sequences import open_sequences
from memoserve.store import Store
from memoserve.suites import load_suite, select


class Server:
    """A `memoserve serve` process. `client` speaks to it; `start` again after `kill`."""

    def __init__(self, store: Path | str, *options: str, env: dict[str, str] | None = None) -> None:
        self.store = Path(store)
        self._at = store
        self._options = options
        # Its own, and short: sockets of engines have to fit into a path of 107 characters.
        self.temporary = Path(tempfile.mkdtemp(prefix="ms-"))
        self._env = {**os.environ, "TMPDIR": str(self.temporary), **(env or {})}
        self.process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start it and wait until it says its address."""
        self.process = subprocess.Popen(
            command("serve", self._at, "--port", "0", *self._options),
            stdout=subprocess.PIPE,
            stderr=(self.temporary / "stderr").open("a"),
            text=True,
            env=self._env,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"at (http://\S+)/$", line.strip())
        assert found, line + self.stderr()
        self.url = found[1]
        self.port = int(self.url.rpartition(":")[2])
        self.client = httpx.Client(base_url=self.url, timeout=120)

    def stderr(self) -> str:
        """What it complained of."""
        return (self.temporary / "stderr").read_text()

    def kill(self) -> None:
        """As `kill -9` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def get(self, path: str, code: int = 200, **parameters: Any) -> Any:
        """The JSON at /api/`path`."""
        answer = self.client.get(f"/api/{path}", params=parameters)
        assert answer.status_code == code, (path, answer.status_code, answer.text)
        return answer.json()

    def post(self, path: str, body: Any = None, code: int = 200) -> Any:
        """The JSON that comes back."""
        answer = self.client.post(f"/api/{path}", json={} if body is None else body)
        assert answer.status_code == code, (path, answer.status_code, answer.text)
        return answer.json()

    def close(self) -> None:
        """End it in an orderly way, then whatever it left, and check that it left no files."""
        assert self.process is not None
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        finally:
            self.process.kill()
            for process in workers(self.store):
                process.kill()
        left = [path.name for path in self.temporary.iterdir() if path.name.startswith("memoserve-serve-")]
        shutil.rmtree(self.temporary, ignore_errors=True)
        assert not left, left


@contextmanager
def serving(store: Path | str, *options: str, env: dict[str, str] | None = None) -> Iterator[Server]:
    """A server until the end of the block."""
    server = Server(store, *options, env=env)
    try:
        yield server
    finally:
        server.close()


def workers(store: Path | str) -> list[psutil.Process]:
    """The workers of a store and the runs in it."""
    found = []
    store = Path(store)
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(store.resolve()) in line and (
            "memoserve.serve.jobs.worker" in line or "memoserve run" in line
        ):
            found.append(process)
    return found


def until(condition: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Wait until a condition holds, and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
    return value


def mini_store(path: Path, sequences: int = 1500, selector: str = "116k@301,532k@1001,1.2m@1001") -> Path:
    """A store about mini's own sequences, with made-up scores: larger models match more."""
    suite = load_suite("mini")
    source = open_sequences(str(suite.sequences.path))
    store = Store.create(path)
    identity = {f"sequences_{key}": value for key, value in source.identity().items()}
    store.claim(suite, {"suite": "mini", "mode": "score", "engine": "synthetic", "context": 32, **identity})
    windows = source.read(0, sequences, 64)
    ids = np.arange(sequences, dtype=np.int64)
    numbers = window_ids(windows)
    store.write_sequences("mini", 0, sequences, ids, numbers)
    hardness = (numbers.view(np.uint64) % np.uint64(97)) / 97
    for checkpoint in select(suite, selector):
        strength = 0.15 * (1 + checkpoint.model.order) * checkpoint.step / 1001
        prefixes = np.where(hardness < strength, 32, (hardness * 31).astype(np.uint8)).astype(np.uint8)
        masks = ((np.uint64(1) << prefixes.astype(np.uint64)) - np.uint64(1)).astype(np.uint32)
        matches = SimpleNamespace(
            matched_prefix=prefixes, match_mask=masks, matches=None, continuation_ll=None
        )
        store.write_scores(checkpoint, 0, sequences, ids, matches, "weights")
    return path
