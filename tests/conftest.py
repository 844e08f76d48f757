"""What the tests share: the shipped suite, and the command line as a user calls it."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ONE_THREAD, Cli, WarmProcess, environment, run_fresh
from hypothesis import settings
from numpy.typing import NDArray

from memoserve.sequences import open_sequences
from memoserve.suites import Suite, load_suite

# How long an example takes is the machine's business: what must be fast has a test of its own.
settings.register_profile("memoserve", deadline=None)
settings.load_profile("memoserve")

for name, value in ONE_THREAD.items():
    os.environ.setdefault(name, value)

# Engines of this process, and of calls of the command line, are forked from one that has imported vLLM,
# whichever comes first: after one of Transformers, each of vLLM's would import it anew.
forkserver.set_forkserver_preload(["memoserve.engines.vllm.preload"])
forkserver.set_forkserver_preload = lambda modules_names: None


@pytest.fixture(scope="session")
def mini() -> Suite:
    """The suite that ships with memoserve."""
    return load_suite("mini")


@pytest.fixture(scope="session")
def mini_windows(mini: Suite) -> NDArray[np.uint32]:
    """Every distinct window of mini, trained and control, u32[n, 64], in order of first occurrence."""
    source = open_sequences(str(mini.sequences.path))
    windows = source.read(0, source.count, 64)
    _, first = np.unique(windows, axis=0, return_index=True)
    return windows[np.sort(first)]


_ENVIRONMENT = environment()
"""Before any test has changed it."""


@pytest.fixture(scope="session")
def warm_process() -> Iterator[WarmProcess]:
    """What calls of the command line are forked from."""
    process = WarmProcess(_ENVIRONMENT)
    yield process
    process.close()


@pytest.fixture
def cli(warm_process: WarmProcess, tmp_path: Path) -> Cli:
    """Call memoserve in an empty directory and wait for it.

    A process is forked for it from one that has imported memoserve. `fresh`, or where a test has changed the
    environment, wants to see what engines print, or runs over Ray: an interpreter is started, as for a user.
    """

    def call(
        *arguments: str | Path, code: int | None = 0, fresh: bool = False
    ) -> subprocess.CompletedProcess[str]:
        words = [str(argument) for argument in arguments]
        alone = {"--verbose", "-v", "ray"} & {*words}
        fresh = fresh or bool(alone) or environment() != warm_process.environment
        result = (run_fresh if fresh else warm_process.run)(words, tmp_path)
        if code is not None:
            assert result.returncode == code, f"{arguments}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr, result.stderr
        return result

    return call


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in several processes: those first that take long.

    Each process gets a stretch of the list, and who is done takes from the end of another's: there are short
    ones, so that all end at about the same time. Tests of a file that take long stay together: they share
    servers and engines.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes == 1:
        return
    long: dict[Path, list[pytest.Item]] = {}
    short = []
    for item in items:
        if item.get_closest_marker("engine") or item.get_closest_marker("browser"):
            long.setdefault(item.path, []).append(item)
        else:
            short.append(item)
    stretches: list[list[pytest.Item]] = [[] for _ in range(processes)]
    for of_file in sorted(long.values(), key=len, reverse=True):
        min(stretches, key=len).extend(of_file)
    size = len(items) // processes
    for stretch in stretches:
        wanted = max(0, size - len(stretch))
        stretch += short[:wanted]
        del short[:wanted]
    items[:] = [*(item for stretch in stretches for item in stretch), *short]


# Tests that the selection leaves out, by the mark that does it. Where tests run in several processes, each of
# them counts the same.
_left_out: Counter[str] = Counter()


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    for item in items:
        _left_out["exhaustive" if item.get_closest_marker("exhaustive") else "thorough"] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(_left_out)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    _left_out.clear()
    _left_out.update(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if terminalreporter.config.getoption("-m"):
        for mark, option in (("thorough", "--all"), ("exhaustive", "--exhaustive")):
            if number := _left_out[mark]:
                terminalreporter.line(f"left out: {number} {mark} tests; scripts/test {option} runs them")
