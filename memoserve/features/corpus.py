"""One pass over the training data: where windows occur, how often their runs do, and how often each token."""

from __future__ import annotations

import hashlib
import io
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.features.runs import RunIndex, Tallies
from memoserve.features.windows import WindowIndex
from memoserve.sequences import SequenceSource
from memoserve.store.features import RUN_LENGTHS

_READ = 1 << 20
"""Tokens read at a time."""

SAVE_EVERY = 300.0
"""Seconds after which a pass is saved, so that a killed one goes on from there."""

Numbers = NDArray[np.int64]


@dataclass
class Counts:
    """What the training sequences 0..done-1 hold.

    runs: how often each known run; tokens: i64[v], how often each token; windows, sequences: i64[n] each,
    which window stands at the beginning of which sequence, blocks in any order.
    """

    runs: Tallies
    tokens: Numbers
    done: int = 0
    windows: list[Numbers] = field(default_factory=list)
    sequences: list[Numbers] = field(default_factory=list)

    def occurrences(self) -> tuple[Numbers, Numbers]:
        """Windows and sequences, i64[n] each, by window, its sequences ascending."""
        windows = np.concatenate([np.empty(0, np.int64), *self.windows])
        sequences = np.concatenate([np.empty(0, np.int64), *self.sequences])
        order = np.lexsort((sequences, windows))
        return windows[order], sequences[order]

    def to_bytes(self, of: str) -> bytes:
        """Everything, to go on with later; `of` says what was counted."""
        windows, sequences = self.occurrences()
        arrays: dict[str, Any] = {
            f"runs{length}": n for length, n in zip(RUN_LENGTHS, self.runs.counts, strict=True)
        }
        content = io.BytesIO()
        np.savez(content, tokens=self.tokens, done=np.array(self.done), windows=windows, sequences=sequences,
                 of=np.array(of), **arrays)  # fmt: skip
        return hashlib.sha256(content.getbuffer()).digest() + content.getbuffer()

    @staticmethod
    def from_bytes(content: bytes) -> tuple[str, Counts] | None:
        """What `to_bytes` made, and of what it is; None where it is damaged."""
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            return None
        with np.load(io.BytesIO(content[32:])) as found:
            runs = Tallies(tuple(found[f"runs{length}"] for length in RUN_LENGTHS))
            windows, sequences = [found["windows"]], [found["sequences"]]
            return str(found["of"]), Counts(runs, found["tokens"], int(found["done"]), windows, sequences)


class Corpus:
    """The training sequences 0..trained-1, in which the runs and windows of some windows are counted."""

    def __init__(
        self, source: SequenceSource, trained: int, runs: RunIndex, windows: WindowIndex, length: int
    ) -> None:
        self._source = source
        self._trained = trained
        self._runs = runs
        self._windows = windows
        self._length = length
        self._lock = threading.Lock()

    def count(
        self,
        counts: Counts,
        *,
        save: Callable[[Counts], None] = lambda _: None,
        save_every: float = SAVE_EVERY,
        progress: Callable[[int, int], None] = lambda *_: None,
        stop: int | None = None,
    ) -> None:
        """Go on counting from `counts.done` to `stop`, by default the end, on all cores of this process.

        `save` is called now and then, and at the end, with all that is counted. Raises BadInput and
        StorageFailed as reading sequences does.
        """
        stop = self._trained if stop is None else stop
        threads = len(os.sched_getaffinity(0))
        saved = time.monotonic()
        with ThreadPoolExecutor(threads, "corpus") as pool:
            waiting: deque[tuple[int, Future[None]]] = deque()
            for begin, end in self._blocks(counts.done, stop):
                waiting.append((end, pool.submit(self._block, counts, begin, end)))
                if len(waiting) <= 2 * threads:
                    continue
                if time.monotonic() - saved > save_every:
                    _drain(waiting, counts, progress, self._trained)
                    save(counts)
                    saved = time.monotonic()
                else:
                    _drain(waiting, counts, progress, self._trained, 1)
            _drain(waiting, counts, progress, self._trained)
        save(counts)

    def _blocks(self, first: int, stop: int) -> Iterator[tuple[int, int]]:
        """Half-open ranges of sequences that hold about a million tokens."""
        if first >= stop:
            return
        width = max(int(self._source.lengths(np.array([first]))[0]), 1)
        rows = max(_READ // width, 1)
        for begin in range(first, stop, rows):
            yield begin, min(begin + rows, stop)

    def _block(self, counts: Counts, first: int, stop: int) -> None:
        """Count the sequences first..stop-1."""
        lengths = self._source.lengths(np.arange(first, stop))
        for length in np.unique(lengths[lengths > 0]).tolist():
            ids = first + np.flatnonzero(lengths == length)
            whole = len(ids) == stop - first
            tokens = self._source.read(first, stop, length) if whole else self._source.take(ids, length)
            runs = self._runs.find(tokens)
            times = np.bincount(tokens.ravel())
            rows, windows = (
                self._windows.find(tokens) if length >= self._length else (np.empty(0, np.int64),) * 2
            )
            with self._lock:
                counts.runs.add(runs)
                if len(times) > len(counts.tokens):
                    counts.tokens = np.pad(counts.tokens, (0, len(times) - len(counts.tokens)))
                counts.tokens[: len(times)] += times
                counts.windows.append(windows)
                counts.sequences.append(ids[rows])


def _drain(
    waiting: deque[tuple[int, Future[None]]],
    counts: Counts,
    progress: Callable[[int, int], None],
    total: int,
    at_most: int | None = None,
) -> None:
    """Wait for the oldest blocks, or for all. `counts.done` holds when none is left."""
    for _ in range(len(waiting) if at_most is None else at_most):
        end, block = waiting.popleft()
        block.result()
        counts.done = end
        progress(end, total)
