"""Processes that answer: each question in one that is killed when it takes too long, or too much.

DuckDB can be asked to stop, and stops between chunks of rows; inside one expression it does not, and not
all memory counts against its limit. A process ends whatever it does, and takes nothing with it.
"""

from __future__ import annotations

import functools
import os
import resource
import shutil
import signal
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

import psutil

from memoserve.errors import MemoserveError, StorageFailed
from memoserve.serve.errors import Busy, TooLong, TooMuch
from memoserve.serve.settings import Settings

if TYPE_CHECKING:
    from memoserve.catalog import Catalog

P = ParamSpec("P")

# Address space beside what the answer itself may use: the interpreter, the libraries, their threads' stacks.
_BASE = 4 << 30

_PREFIX = "memoserve-serve-"
_SPILL = "spill-"
_REMADE_SECONDS = 60.0


@dataclass(frozen=True)
class Workspace:
    """Where a reader works, and within which limits."""

    store: Path | str
    scratch: Path
    memory: int
    threads: int
    seconds: float


@dataclass(frozen=True)
class Reply:
    """An answer ready to send: in memory, or as the name of a file in the scratch folder."""

    media: str
    body: bytes = b""
    file: Path | None = None
    headers: dict[str, str] = field(default_factory=dict)


Task = Callable[Concatenate[Workspace, P], Reply]


class ReaderPool:
    """At most `settings.readers` processes; who comes later waits, for a while."""

    def __init__(self, settings: Settings) -> None:
        import anyio

        self._settings = settings
        self._limiter = anyio.CapacityLimiter(settings.readers)
        _remove_abandoned(Path(tempfile.gettempdir()), _PREFIX)
        self._scratch = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        self._threads = max(1, (os.cpu_count() or 2) // settings.readers)

    def close(self) -> None:
        """Remove what they left."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    async def ask(
        self, task: Callable[Concatenate[Workspace, P], Reply], *args: P.args, **kwargs: P.kwargs
    ) -> Reply:
        """Run `task` in a reader. Raises what it raises, TooLong, TooMuch, and Busy.

        The caller removes the reply's file, with the folder it is in.
        """
        import anyio
        from anyio import to_process

        workspace = Workspace(
            self._settings.store,
            self._scratch / uuid.uuid4().hex,
            self._settings.memory,
            self._threads,
            self._settings.seconds,
        )
        borrower = object()
        try:
            with anyio.fail_after(self._settings.seconds):
                await self._limiter.acquire_on_behalf_of(borrower)
        except TimeoutError:
            raise Busy("too many questions at once: try again in a moment") from None
        reply = None
        try:
            workspace.scratch.mkdir()
            with anyio.fail_after(workspace.seconds):
                reply = await to_process.run_sync(
                    functools.partial(_within, workspace, task, *args, **kwargs),
                    cancellable=True,
                    limiter=anyio.CapacityLimiter(1),
                )
            return reply
        except TimeoutError:
            raise TooLong(
                f"the answer took longer than {workspace.seconds:g} s and was stopped: ask for less, or ask "
                "the store on the command line"
            ) from None
        except anyio.BrokenWorkerProcess:
            raise TooMuch(
                "the process that worked on the answer died, most likely of too much memory: ask for less"
            ) from None
        finally:
            self._limiter.release_on_behalf_of(borrower)
            if reply is None or reply.file is None:
                shutil.rmtree(workspace.scratch, ignore_errors=True)
            if reply is None:
                _remove_abandoned(self._scratch, _SPILL)


def _remove_abandoned(within: Path, prefix: str) -> None:
    """The folders PREFIX PID [-...] of processes that were killed."""
    for folder in within.glob(f"{prefix}*"):
        number = folder.name.removeprefix(prefix).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def _within(workspace: Workspace, task: Callable[..., Reply], *args: Any, **kwargs: Any) -> Reply:
    """In the reader: limits that hold even if the server is gone, and a scratch folder of its own."""
    hard = workspace.memory + _BASE
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    # Of a whole second more, so that the server's own limit comes first.
    signal.setitimer(signal.ITIMER_REAL, workspace.seconds + 1)
    tempfile.tempdir = str(workspace.scratch)
    try:
        return task(workspace, *args, **kwargs)
    except MemoryError:
        raise TooMuch("the answer needs more memory than it may use: ask for less") from None
    except MemoserveError:
        raise
    except OSError as error:
        raise StorageFailed(
            f"{error.filename or 'something'} could not be read or written ({error.strerror or error}): what "
            "the store holds may just have changed, so ask again"
        ) from None
    except Exception as error:
        # A traceback stays in its process; as text it gets into the server's log.
        error.add_note(f"in the reader:\n{traceback.format_exc()}")
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        tempfile.tempdir = None


@contextmanager
def asking(workspace: Workspace) -> Iterator[Catalog]:
    """The store's catalog, within the reader's limits, for one question.

    A database takes longer to make than most answers, so a reader makes one and gives each question a cursor:
    a session of its own, whose variables go with it. Questions can't change what they share; after one that
    failed, whatever it left, the next has a new one.
    """
    from memoserve.catalog import Catalog, explained, kinds_of_parts
    from memoserve.files.local import LocalFiles
    from memoserve.files.opening import open_files

    files = open_files(workspace.store)
    # What is looked up when it is made: of a remote store, where looking takes a while, now and then.
    as_of = kinds_of_parts(files) if isinstance(files, LocalFiles) else time.monotonic() // _REMADE_SECONDS
    try:
        with explained(workspace.store), _database(workspace, as_of).connection.cursor() as connection:
            yield Catalog(connection, workspace.store)
    except BaseException:
        _forget()
        raise


_made: dict[tuple[Any, ...], Catalog] = {}


def _database(workspace: Workspace, as_of: object) -> Catalog:
    from memoserve.catalog import Catalog

    key = (workspace.store, workspace.memory, workspace.threads, as_of)
    if key not in _made:
        _forget()
        spill = workspace.scratch.parent / f"{_SPILL}{os.getpid()}"
        spill.mkdir(exist_ok=True)
        _made[key] = Catalog.open(
            workspace.store,
            memory_limit=f"{workspace.memory // 2 >> 20}MiB",
            threads=workspace.threads,
            spill=spill,
        )
    return _made[key]


def _forget() -> None:
    for database in _made.values():
        database.close()
    _made.clear()
