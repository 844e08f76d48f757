"""Looking up many 64-bit keys at once, in arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]

_BITS_A_KEY = 16


class KeyTable:
    """Distinct keys u64[n] that are spread evenly over 64 bits. A key's number is its rank.

    The highest bits of a key say where it must stand among the sorted ones. With `sieve`, a bit array of 16
    bits a key answers first for nearly all keys that are not there: 1 in 16 of them passes.
    """

    def __init__(self, keys: Keys, *, sieve: bool = False) -> None:
        self.keys = keys  # sorted
        bits = max(len(keys).bit_length() - 1, 1)
        self._shift = np.uint64(64 - bits)
        counts = np.bincount((keys >> self._shift).view(np.int64), minlength=1 << bits)
        self._starts = np.zeros((1 << bits) + 1, np.uint32)
        np.cumsum(counts, out=self._starts[1:])
        if sieve:
            wide = max((_BITS_A_KEY * len(keys) - 1).bit_length(), 3)
            self._sieve_shift = np.uint64(64 - wide)
            self._sieve = np.zeros(1 << (wide - 3), np.uint8)
            bit = keys >> self._sieve_shift
            np.bitwise_or.at(
                self._sieve,
                (bit >> np.uint64(3)).view(np.int64),
                np.uint8(1) << (bit & np.uint64(7)).astype(np.uint8),
            )

    def __len__(self) -> int:
        return len(self.keys)

    def candidates(self, keys: Keys) -> NDArray[np.int64]:
        """The places of u64[m] that may hold known keys, ascending: every one that does, and few others."""
        bit = keys >> self._sieve_shift
        byte = self._sieve.take((bit >> np.uint64(3)).view(np.int64))
        byte >>= bit.astype(np.uint8) & np.uint8(7)
        byte &= np.uint8(1)
        return np.flatnonzero(byte)

    def find(self, keys: Keys) -> NDArray[np.int64]:
        """The numbers of keys u64[m], -1 for those that are not there."""
        bucket = (keys >> self._shift).view(np.int64)
        at = self._starts.take(bucket).astype(np.int64)
        end = self._starts.take(bucket + 1)
        found = np.full(len(keys), -1, np.int64)
        open_ = np.flatnonzero(at < end)
        while len(open_):
            here = at[open_]
            equal = self.keys.take(here) == keys[open_]
            found[open_[equal]] = here[equal]
            open_ = open_[~equal]
            at[open_] += 1
            open_ = open_[at[open_] < end[open_]]
        return found


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
