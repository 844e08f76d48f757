"""Windows: the tokens themselves, counted once however often they occur."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.domain import Matches


def window_ids(windows: NDArray[np.uint32]) -> NDArray[np.int64]:
    """A 64-bit hash of each row of u32[n, m], i64[n]: equal for equal windows, without looking at others.

    BLAKE2b of the little-endian tokens. It is for counting and clustering; over 146 million windows two
    different ones share an id with probability 6e-4. Where a result is used again, tokens are compared.
    """
    rows = np.ascontiguousarray(windows, dtype="<u4")
    digests = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)
    return np.frombuffer(digests, dtype="<i8").astype(np.int64)


@dataclass(frozen=True)
class Distinct:
    """The distinct windows of a block: u32[d, m], and for each of its n rows which one it is, i64[n]."""

    windows: NDArray[np.uint32]
    row_of: NDArray[np.int64]


def distinct(windows: NDArray[np.uint32]) -> Distinct:
    """Collapse equal rows of u32[n, m], keeping the order of first occurrence."""
    rows = np.ascontiguousarray(windows)
    if not len(rows):
        return Distinct(rows, np.empty(0, np.int64))
    keys = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Distinct(rows[first[order]], rank[inverse].astype(np.int64))


class KnownWindows:
    """What one checkpoint made of the windows it was asked about, so that none is asked twice.

    `ask` for a block, evaluate what is new, `tell` the results, and take those of the whole block with `of`.
    Bounded: it forgets the oldest beyond `limit` (about 300 bytes each).
    """

    def __init__(self, limit: int = 1 << 20) -> None:
        self._limit = limit
        # A window's slot is a number that only rises; its results stand at slot modulo the arrays' length.
        self._slots: dict[bytes, int] = {}
        self._next = 0
        self._results: dict[str, NDArray[Any]] = {}

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def full(self) -> bool:
        """Whether adding more would forget some."""
        return len(self._slots) >= self._limit

    def ask(self, windows: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For distinct windows u32[n, m]: their slots i64[n], and the rows that are new, ascending.

        The slots hold until the next call.
        """
        rows = np.ascontiguousarray(windows)
        new = self._next
        slots = []
        for key in rows.view(f"V{rows.dtype.itemsize * rows.shape[1]}").ravel().tolist():
            slot = self._slots.setdefault(key, self._next)
            if slot == self._next:
                self._next += 1
            slots.append(slot)
        self._make_room(min(new, self._limit) + self._next - new)
        excess = len(self._slots) - self._limit
        if excess > 0:
            for key in list(islice(self._slots, excess)):
                del self._slots[key]
        found = np.array(slots, dtype=np.int64)
        return found, np.flatnonzero(found >= new)

    def tell(self, slots: NDArray[np.int64], matches: Matches) -> None:
        """Remember the matches of the windows with these slots."""
        for name, array in vars(matches).items():
            if array is not None and len(array):
                if name not in self._results:
                    self._results[name] = np.zeros(self._length, array.dtype)
                self._results[name][slots % self._length] = array

    def of(self, slots: NDArray[np.int64]) -> Matches:
        """The matches of the windows with these slots."""
        if not len(slots):
            return Matches(np.empty(0, np.uint8))
        return Matches(**{name: array[slots % self._length] for name, array in self._results.items()})

    _length = 0

    def _make_room(self, slots: int) -> None:
        if slots <= self._length:
            return
        before, self._length = self._length, max(slots, 2 * self._length)
        live = np.arange(max(0, self._next - slots), self._next)
        for name, array in self._results.items():
            self._results[name] = np.zeros(self._length, array.dtype)
            self._results[name][live % self._length] = array[live % before]
