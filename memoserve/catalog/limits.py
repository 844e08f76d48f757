"""How long a statement may take and how much memory, enforced on the process that it runs in.

DuckDB's memory limit covers its own buffers: a function that makes one long string allocates beside it, and
can't be interrupted in the middle. So the process's address space is limited too, and where an interrupt has
no effect, the process ends.
"""

from __future__ import annotations

import glob
import os
import resource
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from memoserve.errors import BadInput

if TYPE_CHECKING:
    import duckdb

GRACE = 5.0
"""Seconds that an interrupted statement has to stop."""

_BESIDE = 1 << 30
_A_THREAD = 72 << 20
"""Address space beside DuckDB's memory limit: of the answer, and of a thread's stack and allocations."""

DEFAULT_MEMORY = 4 << 30


def default_memory() -> str:
    """4 GiB, or half of what the machine has, as DuckDB takes it."""
    import psutil

    return f"{min(DEFAULT_MEMORY, psutil.virtual_memory().total // 2) >> 20}MiB"


@contextmanager
def limited(connection: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    """Limit what is done inside to `seconds`, and the process to the memory limit of the connection.

    For a process that does nothing else: what doesn't stop ends it, with a message and BadInput's exit
    code. Raises BadInput for what stops.
    """
    import duckdb

    late = threading.Event()
    done = threading.Event()

    def interrupt() -> None:
        late.set()
        connection.interrupt()

    def end() -> None:
        if done.is_set():
            return
        print(f"error: {_too_long(seconds)}; it could not be interrupted", file=sys.stderr, flush=True)
        for spilled in glob.glob(f"{glob.escape(tempfile.gettempdir())}/memoserve-{os.getpid()}-*"):
            shutil.rmtree(spilled, ignore_errors=True)
        os._exit(BadInput.exit_code)

    timers = [threading.Timer(seconds, interrupt), threading.Timer(seconds + GRACE, end)]
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_allowed(connection, before[1]), before[1]))
    try:
        for timer in timers:
            timer.daemon = True
            timer.start()
        yield
    except (BadInput, duckdb.Error):
        if late.is_set():
            raise BadInput(_too_long(seconds)) from None
        raise
    except MemoryError:
        raise BadInput(
            "the answer needs more memory than it may use: ask for less, or allow more with --memory"
        ) from None
    finally:
        done.set()
        for timer in timers:
            timer.cancel()
        resource.setrlimit(resource.RLIMIT_AS, before)


def _too_long(seconds: float) -> str:
    return f"the statement took longer than {seconds:g} s: ask for less, or give it more with --seconds"


def _allowed(connection: duckdb.DuckDBPyConnection, hard: int) -> int:
    import psutil

    limit, threads = connection.execute(
        "SELECT current_setting('memory_limit'), current_setting('threads')"
    ).fetchone() or ("0 bytes", 1)
    number, unit = str(limit).split()
    units = {"bytes": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40}
    memory = int(float(number) * (1 << units[unit]))
    allowed = int(psutil.Process().memory_info().vms) + memory + _BESIDE + int(threads) * _A_THREAD
    return allowed if hard == resource.RLIM_INFINITY else min(allowed, hard)
