"""Answers that were given, for as long as the store is what it was: many who look at one page ask once."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import anyio
from cachetools import LRUCache

from memoserve.files.base import Files
from memoserve.files.local import LocalFiles
from memoserve.files.opening import open_files
from memoserve.serve.answers.pool import ReaderPool, Reply, Workspace
from memoserve.serve.files import suite_files
from memoserve.serve.settings import Settings

P = ParamSpec("P")

_BYTES = 64 << 20
_LOOK_SECONDS = 0.5
_LOOK_REMOTE_SECONDS = 10.0
"""How old a look at the store may be."""


class AnswerCache:
    """Asks `readers` what it doesn't know, and what several ask at once only once."""

    def __init__(self, readers: ReaderPool, settings: Settings) -> None:
        self._readers, self._suites = readers, settings.suites
        self._files = open_files(settings.store)
        self._look_seconds = _LOOK_SECONDS if isinstance(self._files, LocalFiles) else _LOOK_REMOTE_SECONDS
        self._known: LRUCache[bytes, Reply] = LRUCache(_BYTES, getsizeof=lambda reply: len(reply.body) + 1000)
        self._asking: dict[bytes, asyncio.Task[Reply]] = {}
        self._stamp = 0
        self._looked = float("-inf")
        self._looking = asyncio.Lock()

    async def ask(
        self, task: Callable[Concatenate[Workspace, P], Reply], *args: P.args, **kwargs: P.kwargs
    ) -> Reply:
        """As ReaderPool.ask, of a task that gives no file, and whose answer depends on its arguments, the
        store and the folder of suites alone.
        """
        return await self._shared(await self._look(), task, *args, **kwargs)

    async def ask_once(self, task: Callable[[Workspace], Reply]) -> Reply:
        """The same of a task whose answer is always that."""
        return await self._shared(None, task)

    async def _shared(
        self,
        stamp: int | None,
        task: Callable[Concatenate[Workspace, P], Reply],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Reply:
        question = repr((stamp, task.__name__, args, sorted(kwargs.items())))
        # A digest, since what is asked may be long and isn't counted.
        key = hashlib.sha256(question.encode("utf-8", "replace")).digest()
        found = self._known.get(key)
        if found is not None:
            return found
        asking = self._asking.get(key)
        if asking is None:
            asking = asyncio.create_task(self._ask(key, task, *args, **kwargs))
            self._asking[key] = asking
            asking.add_done_callback(lambda _: self._asking.pop(key, None))
        # Who asked first may go away; the others still wait.
        return await asyncio.shield(asking)

    async def _ask(
        self, key: bytes, task: Callable[Concatenate[Workspace, P], Reply], *args: P.args, **kwargs: P.kwargs
    ) -> Reply:
        reply = await self._readers.ask(task, *args, **kwargs)
        if len(reply.body) < _BYTES // 8:
            self._known[key] = reply
        return reply

    async def _look(self) -> int:
        """A number that changes with the store."""
        async with self._looking:
            if time.monotonic() - self._looked > self._look_seconds:
                self._stamp = await anyio.to_thread.run_sync(_stamp, self._files, self._suites)
                self._looked = time.monotonic()
        return self._stamp


_FOLDERS = (("suites", 1), ("sequences", 1), ("scores", 3))


def _stamp(files: Files, suites: Path | None) -> int:
    """Of a local store's folders, whose times change when a file is put in, replaced or removed; of a remote
    one's files; of the suites' files.
    """
    seen: list[Any] = []
    for part, depth in _FOLDERS:
        if isinstance(files, LocalFiles):
            seen += _below(files.location(part), depth)
        else:
            seen += ((name, entry.size, entry.modified) for name, entry in files.below(part).items())
    if suites is not None:
        seen += _times(suites)
    return hash(tuple(seen))


def _times(suites: Path) -> Iterator[tuple[str, int]]:
    for file in suite_files(suites).values():
        if file.is_relative_to(suites):
            yield from _below(str(file), 0)


def _below(path: str, depth: int) -> Iterator[tuple[str, int]]:
    try:
        yield path, os.stat(path).st_mtime_ns
        if depth:
            with os.scandir(path) as entries:
                inside = sorted(entry.path for entry in entries if entry.is_dir())
            for folder in inside:
                yield from _below(folder, depth - 1)
    except OSError:
        return  # gone, or no folder any more: whoever reads it says so
