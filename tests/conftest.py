"""What the tests share: the shipped suite, and the command line as a user calls it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli, command
from numpy.typing import NDArray

from memoserve.sequences import open_sequences
from memoserve.suites import Suite, load_suite


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


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """Call memoserve in an empty directory and wait for it."""

    def call(*arguments: str | Path, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            command(*arguments),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "COLUMNS": "160"},
        )
        if code is not None:
            assert result.returncode == code, f"{arguments}\n{result.stdout}\n{result.stderr}"
        assert "Traceback" not in result.stderr, result.stderr
        return result

    return call
