"""The evaluated windows, each held once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memoserve.features.keys import Keys, KeyTable, odd_numbers, spread

_BLOCK = 1 << 14


def row_hashes(rows: NDArray[np.unsignedinteger], seed: int) -> Keys:
    """A 64-bit hash of each row of [n, m], u64[n]: sums of tokens times random odd numbers."""
    factors = odd_numbers(seed, rows.shape[1])
    sums = [
        (rows[at : at + _BLOCK].astype(np.uint64) * factors).sum(axis=1, dtype=np.uint64)
        for at in range(0, len(rows), _BLOCK)
    ]
    return spread(np.concatenate([np.empty(0, np.uint64), *sums]))


@dataclass(frozen=True)
class DistinctWindows:
    """The distinct windows of sequences, found again by their tokens.

    windows: [d, m], the narrowest type that holds them; row_of: i64[n], which of them each sequence has;
    number: i64[d], the least id of the sequences that have it.
    """

    windows: NDArray[np.unsignedinteger]
    row_of: NDArray[np.int64]
    number: NDArray[np.int64]


def distinct_windows(ids: NDArray[np.int64], windows: NDArray[np.unsignedinteger]) -> DistinctWindows:
    """Of sequences i64[n], ascending, with windows [n, m]."""
    for seed in range(64):
        _, first, row_of = np.unique(row_hashes(windows, seed), return_index=True, return_inverse=True)
        kept = windows[first]
        if all(
            np.array_equal(kept[row_of[at : at + _BLOCK]], windows[at : at + _BLOCK])
            for at in range(0, len(windows), _BLOCK)
        ):
            return DistinctWindows(kept, row_of.astype(np.int64), ids[first])
    raise ArithmeticError("no hash of 64 tells these windows apart")


class WindowIndex:
    """Finds windows [d, m], distinct, among the first tokens of sequences. Exact: tokens are compared.

    Sequences hold no token that the type of the windows can't.
    """

    def __init__(self, windows: NDArray[np.unsignedinteger]) -> None:
        hashes = row_hashes(windows, 0)
        self._order = np.argsort(hashes)
        self._windows = windows[self._order]
        self._table = KeyTable(hashes[self._order], self._windows)

    def find(self, tokens: NDArray[np.uint32]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which rows of u32[n, >= m] begin with a known window, ascending, and which windows: i64 each."""
        begin = tokens[:, : self._windows.shape[1]].astype(self._windows.dtype, copy=False)
        found = self._table.find(row_hashes(begin, 0), begin)
        rows = np.flatnonzero(found >= 0)
        return rows, self._order[found[rows]]
