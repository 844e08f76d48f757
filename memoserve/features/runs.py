"""How often the training data hold the token runs of windows, at any offset of a sequence. Exact.

A run of 8 tokens is looked up where a 64-bit hash of it says, and compared token by token. A run of
16 is two runs of 8 that are known by number, so that the pair of their numbers is its key, and one of 32 is
two of 16 likewise: no hash of these can be wrong. Most positions of the training data fall out at the first,
by a bit array. Memory follows the windows, not the training data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memoserve.features.keys import Keys, KeyTable, odd_numbers, spread
from memoserve.store.features import RUN_LENGTHS

SHORTEST = RUN_LENGTHS[0]

_BLOCK = 1 << 15
"""Tokens that are looked at at a time: what belongs to them stays in a core's own cache."""

Numbers = NDArray[np.int64]


def _hashes(tokens: NDArray[np.unsignedinteger], factors: Keys) -> Keys:
    """A hash of each run of 8 in u32[n], u64[n - 7]: pairs of tokens, of those, and of these."""
    one = tokens.astype(np.uint64)
    for width, factor in zip((1, 2, 4), factors, strict=False):
        two = one[:-width] * factor
        two += one[width:]
        one = two
    one ^= one >> np.uint64(32)
    one *= factors[3]
    return one


def _words(tokens: NDArray[np.unsignedinteger], positions: Numbers) -> Keys:
    """The runs of 8 at positions i64[n] of tokens, u64[n, words]: as they are, in the fewest words."""
    return np.lib.stride_tricks.sliding_window_view(tokens, SHORTEST)[positions].view(np.uint64)


def _pairs(first: Numbers, second: Numbers) -> Keys:
    """One key for each pair of numbers below 2^32."""
    return spread((first.view(np.uint64) << np.uint64(32)) | second.view(np.uint64))


@dataclass(frozen=True)
class Tallies:
    """How often each known run of each length was found, i64[n] by number."""

    counts: tuple[Numbers, ...]

    def add(self, found: tuple[Numbers, ...]) -> None:
        """Count what was found once more."""
        for counts, numbers in zip(self.counts, found, strict=True):
            np.add.at(counts, numbers, 1)


class RunIndex:
    """The runs inside contexts and inside continuations of windows [d, m] of which `context` are context.

    Sequences that are looked through hold no token that the type of the windows can't.
    """

    def __init__(self, windows: NDArray[np.unsignedinteger], context: int) -> None:
        self._width = windows.shape[1]
        self._context = context
        self._type = windows.dtype
        tokens = np.append(windows.ravel(), np.zeros(SHORTEST, windows.dtype))
        positions = self._positions(SHORTEST, len(windows))
        for seed in range(64):
            self._factors = odd_numbers(seed, 4)
            hashes = _hashes(tokens, self._factors)[positions]
            keys, first, numbers = np.unique(hashes, return_index=True, return_inverse=True)
            known = _words(tokens, positions[first])
            if np.array_equal(known[numbers], _words(tokens, positions)):
                break
        else:
            raise ArithmeticError("no hash of 64 tells these runs apart")
        self._tables = [KeyTable(keys, known, sieve=True)]
        number_at = np.full(len(tokens), -1, np.int64)
        number_at[positions] = numbers
        for length in RUN_LENGTHS[1:]:
            positions = self._positions(length, len(windows))
            keys, numbers = np.unique(
                _pairs(number_at[positions], number_at[positions + length // 2]), return_inverse=True
            )
            self._tables.append(KeyTable(keys, keys[:, None]))
            number_at[:] = -1
            number_at[positions] = numbers

    def tallies(self) -> Tallies:
        """Nothing counted yet."""
        return Tallies(tuple(np.zeros(len(table), np.int64) for table in self._tables))

    def find(self, tokens: NDArray[np.uint32]) -> tuple[Numbers, ...]:
        """The number of each known run in sequences u32[n, w], by length: one a place where it stands."""
        width = tokens.shape[1]
        if tokens.size and tokens.max() > np.iinfo(self._type).max:
            raise ValueError(f"a token above {np.iinfo(self._type).max} among sequences of {self._type}")
        tokens = tokens.astype(self._type, copy=False)
        found = [numbers for _, numbers in self._find(np.ascontiguousarray(tokens).ravel(), width)]
        return tuple(found) or (np.empty(0, np.int64),) * len(RUN_LENGTHS)

    def summary(
        self, windows: NDArray[np.unsignedinteger], tallies: Tallies
    ) -> Iterator[tuple[str, int, Numbers | None, NDArray[np.float32] | None]]:
        """Of windows [n, m], half and length by length: the least count, and the mean of ln(1 + count).

        [n] each, None where the half is shorter than the run.
        """
        number_at = [np.full(windows.size, -1, np.int64) for _ in RUN_LENGTHS]
        for length, (positions, numbers) in enumerate(self._find(windows.ravel(), self._width)):
            number_at[length][positions] = numbers
        halves = {"context": (0, self._context), "continuation": (self._context, self._width)}
        for half, (begin, end) in halves.items():
            for length, numbers, counts in zip(RUN_LENGTHS, number_at, tallies.counts, strict=True):
                if end - begin < length:
                    yield half, length, None, None
                    continue
                found = numbers.reshape(windows.shape)[:, begin : end - length + 1]
                assert (found >= 0).all(), "a run of a window is not known"
                times = counts[found]
                yield half, length, times.min(axis=1), np.log1p(times).mean(axis=1).astype(np.float32)

    def _find(self, tokens: NDArray[np.unsignedinteger], width: int) -> Iterator[tuple[Numbers, Numbers]]:
        """By length: the positions in rows of `width` tokens where known runs are, and their numbers."""
        if width < SHORTEST or not len(tokens):
            return
        positions, hashes = self._candidates(tokens)
        inside = positions % width <= width - SHORTEST
        positions, hashes = positions[inside], hashes[inside]
        numbers = self._tables[0].find(hashes, _words(tokens, positions))
        positions, numbers = positions[numbers >= 0], numbers[numbers >= 0]
        yield positions, numbers
        for length, table in zip(RUN_LENGTHS[1:], self._tables[1:], strict=True):
            number_at = np.full(len(tokens), -1, np.int64)
            number_at[positions] = numbers
            inside = positions % width <= width - length
            positions, numbers = positions[inside], numbers[inside]
            second = number_at[positions + length // 2]
            positions, numbers, second = positions[second >= 0], numbers[second >= 0], second[second >= 0]
            keys = _pairs(numbers, second)
            numbers = table.find(keys, keys[:, None])
            positions, numbers = positions[numbers >= 0], numbers[numbers >= 0]
            yield positions, numbers

    def _candidates(self, tokens: NDArray[np.unsignedinteger]) -> tuple[Numbers, Keys]:
        """Where a known run of 8 may stand in tokens, i64[m] ascending, and the hashes there, u64[m]."""
        positions, hashes = [], []
        for begin in range(0, len(tokens), _BLOCK):
            block = _hashes(tokens[begin : begin + _BLOCK + SHORTEST - 1], self._factors)
            found = self._tables[0].candidates(block)
            positions.append(found + begin)
            hashes.append(block[found])
        return np.concatenate(positions), np.concatenate(hashes)

    def _positions(self, length: int, windows: int) -> Numbers:
        """Where runs of a length begin in all windows, one after the other: inside one half, not across."""
        columns = np.r_[
            np.arange(max(self._context - length + 1, 0)),
            np.arange(self._context, max(self._width - length + 1, self._context)),
        ]
        positions: Numbers = (np.arange(windows)[:, None] * self._width + columns).ravel()
        return positions
