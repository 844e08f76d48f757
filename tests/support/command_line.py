"""The command line as a user calls it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

Cli = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: str | Path) -> list[str]:
    """The command line of memoserve with these arguments."""
    return [sys.executable, "-m", "memoserve", *map(str, arguments)]
