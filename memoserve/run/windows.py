"""Windows: the tokens themselves, counted once however often they occur."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memoserve.engines import Matches

Entry = tuple[int, int | None, float | None]


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

    Bounded: it forgets the oldest beyond `limit` (about 300 bytes each).
    """

    def __init__(self, limit: int = 1 << 20) -> None:
        self._limit = limit
        self._entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def full(self) -> bool:
        """Whether adding more would forget some."""
        return len(self._entries) >= self._limit

    def unknown(self, windows: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The rows of u32[n, m] that have no entry, ascending."""
        missing = [row for row, window in enumerate(windows) if window.tobytes() not in self._entries]
        return np.array(missing, dtype=np.int64)

    def add(self, windows: NDArray[np.uint32], matches: Matches) -> None:
        """Remember the matches of u32[n, m] windows."""
        n = len(windows)
        masks = [None] * n if matches.match_mask is None else matches.match_mask.tolist()
        lls = [None] * n if matches.continuation_ll is None else matches.continuation_ll.tolist()
        entries = zip(matches.matched_prefix.tolist(), masks, lls, strict=True)
        for window, entry in zip(windows, entries, strict=True):
            self._entries[window.tobytes()] = entry
        while len(self._entries) > self._limit:
            del self._entries[next(iter(self._entries))]

    def merge(self, windows: NDArray[np.uint32], rows: NDArray[np.int64], matches: Matches | None) -> Matches:
        """The matches of all u32[n, m] windows: `matches` for `rows`, what is remembered for the rest."""
        fresh = dict(zip(rows.tolist(), range(len(rows)), strict=True))
        entries: list[Entry] = []
        for row, window in enumerate(windows):
            if matches is not None and row in fresh:
                at = fresh[row]
                mask = None if matches.match_mask is None else int(matches.match_mask[at])
                ll = None if matches.continuation_ll is None else float(matches.continuation_ll[at])
                entries.append((int(matches.matched_prefix[at]), mask, ll))
            else:
                entries.append(self._entries[window.tobytes()])
        prefixes, masks, lls = zip(*entries, strict=True)
        return Matches(
            np.array(prefixes, dtype=np.uint8),
            None if masks[0] is None else np.array(masks, dtype=np.uint32),
            None if lls[0] is None else np.array(lls, dtype=np.float32),
        )
