"""Answers that were given, for as long as the store is what it was: many who look at one page ask once."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import anyio
from cachetools import LRUCache

from memoserve.serve.readers import Place, Readers, Reply

P = ParamSpec("P")

_BYTES = 64 << 20
_LOOK_SECONDS = 0.5
"""How old a look at the store may be."""


class Remembered:
    """Asks `readers` what it doesn't know, and what several ask at once only once."""

    def __init__(self, readers: Readers, store: Path) -> None:
        self._readers, self._store = readers, store
        self._known: LRUCache[Any, Reply] = LRUCache(_BYTES, getsizeof=lambda reply: len(reply.body) + 1000)
        self._asking: dict[Any, asyncio.Lock] = {}
        self._stamp = 0
        self._looked = float("-inf")
        self._looking = asyncio.Lock()

    async def ask(
        self, task: Callable[Concatenate[Place, P], Reply], *args: P.args, **kwargs: P.kwargs
    ) -> Reply:
        """As Readers.ask. `args` are hashable, and the task's answer depends on them and the store alone."""
        key = (await self._look(), task.__name__, args, tuple(sorted(kwargs.items())))
        lock = self._asking.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                found = self._known.get(key)
                if found is not None:
                    return found
                reply = await self._readers.ask(task, *args, **kwargs)
                if reply.file is None and len(reply.body) < _BYTES // 8:
                    self._known[key] = reply
                return reply
        finally:
            if not lock.locked():
                self._asking.pop(key, None)

    async def _look(self) -> int:
        """A number that changes with the store."""
        async with self._looking:
            if time.monotonic() - self._looked > _LOOK_SECONDS:
                self._stamp = await anyio.to_thread.run_sync(_stamp, self._store)
                self._looked = time.monotonic()
        return self._stamp


def _stamp(store: Path) -> int:
    """Of the folders that hold files, whose times change when a file is put in, replaced or removed."""
    return hash(tuple(_times(store)))


def _times(store: Path) -> Iterator[tuple[str, int]]:
    for part, depth in (("suites", 1), ("sequences", 1), ("scores", 3)):
        yield from _below(str(store / part), depth)


def _below(folder: str, depth: int) -> Iterator[tuple[str, int]]:
    try:
        yield folder, os.stat(folder).st_mtime_ns
        if depth:
            with os.scandir(folder) as entries:
                inside = sorted(entry.path for entry in entries if entry.is_dir())
            for path in inside:
                yield from _below(path, depth - 1)
    except FileNotFoundError:
        return
