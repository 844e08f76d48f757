"""Looking up many rows of integers at once, in arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_BITS_A_ROW = 16
_FEW_COLUMNS = 4


class KeyTable:
    """Distinct rows [n, w], found by themselves: a row's number is its rank by its hash. Exact.

    hashes: u64[n], ascending, spread evenly over 64 bits: the highest bits of one say where its row must
    stand. With `sieve`, a bit array of 16 bits a row answers first for nearly all that are not there: 1 in 16
    of them passes.
    """

    def __init__(self, hashes: Keys, rows: NDArray[np.unsignedinteger], *, sieve: bool = False) -> None:
        self._rows = rows
        bits = max(len(hashes).bit_length() - 1, 1)
        self._shift = np.uint64(64 - bits)
        counts = np.bincount((hashes >> self._shift).view(np.int64), minlength=1 << bits)
        self._starts = np.zeros((1 << bits) + 1, np.uint32)
        np.cumsum(counts, out=self._starts[1:])
        if sieve:
            wide = max((_BITS_A_ROW * len(hashes) - 1).bit_length(), 3)
            self._sieve_shift = np.uint64(64 - wide)
            self._sieve = np.zeros(1 << (wide - 3), np.uint8)
            bit = hashes >> self._sieve_shift
            mask = np.uint8(1) << (bit & np.uint64(7)).astype(np.uint8)
            np.bitwise_or.at(self._sieve, (bit >> np.uint64(3)).view(np.int64), mask)

    def __len__(self) -> int:
        return len(self._rows)

    def candidates(self, hashes: Keys) -> NDArray[np.int64]:
        """The places of u64[m] that may be known ones, ascending: every one that is, and few others."""
        bit = hashes >> self._sieve_shift
        byte = self._sieve.take((bit >> np.uint64(3)).view(np.int64))
        byte >>= bit.astype(np.uint8) & np.uint8(7)
        byte &= np.uint8(1)
        return np.flatnonzero(byte)

    def find(self, hashes: Keys, rows: NDArray[np.unsignedinteger]) -> NDArray[np.int64]:
        """The numbers of rows [m, w] with hashes u64[m], -1 for those that are not there."""
        bucket = (hashes >> self._shift).view(np.int64)
        at = self._starts.take(bucket).astype(np.int64)
        end = self._starts.take(bucket + 1)
        found = np.full(len(hashes), -1, np.int64)
        left = np.flatnonzero(at < end)
        while len(left):
            here = at[left]
            equal = _equal(self._rows.take(here, axis=0), rows.take(left, axis=0))
            found[left[equal]] = here[equal]
            left = left[~equal]
            at[left] += 1
            left = left[at[left] < end[left]]
        return found


def _equal(one: NDArray[np.unsignedinteger], other: NDArray[np.unsignedinteger]) -> NDArray[np.bool_]:
    """Which rows of [n, w] are equal. Column by column, where that is faster than row by row."""
    if one.shape[1] > _FEW_COLUMNS:
        return np.asarray((one == other).all(axis=1))
    equal = one[:, 0] == other[:, 0]
    for column in range(1, one.shape[1]):
        equal &= one[:, column] == other[:, column]
    return np.asarray(equal)


def spread(keys: Keys) -> Keys:
    """The keys with their bits spread evenly, one to one, in a new array (the finalizer of SplitMix64)."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys ^= keys >> np.uint64(27)
    keys *= np.uint64(0x94D049BB133111EB)
    keys ^= keys >> np.uint64(31)
    return keys


def odd_numbers(seed: int, n: int) -> Keys:
    """Random odd multipliers, u64[n]."""
    return np.random.default_rng(seed).integers(0, 1 << 63, n, np.uint64) * np.uint64(2) + np.uint64(1)
