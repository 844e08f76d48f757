"""Clusters of windows that are nearly the same.

Two windows are near-duplicates if at least 0.6 of their runs of 5 tokens (of those that either has) are in
both. Candidates come from MinHash: 64 hashes, of which 4 at a time must agree (a pair at .6 is found with a
probability of .89, at .7 of .99). Each is then compared exactly with neighbours in its bucket. A cluster is
all that such pairs connect.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from memoserve.features.keys import Keys, odd_numbers, spread

SHINGLE = 5
NEAR = 0.6
_BANDS, _ROWS = 16, 4
_BLOCK = 1 << 12

Numbers = NDArray[np.int64]


def clusters(
    windows: NDArray[np.unsignedinteger], progress: Callable[[int, int], None] = lambda *_: None
) -> Numbers:
    """For each of the distinct windows [d, m] the lowest row in its cluster, i64[d]."""
    label = np.arange(len(windows))
    for band in range(_BANDS):
        keys = _band(windows, band)
        order = np.argsort(keys, kind="stable")
        equal = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        first = _first_of_bucket(keys[order])
        pairs = np.concatenate(
            [
                np.stack([order[equal], order[equal + 1]], 1),
                np.stack([order[first[equal + 1]], order[equal + 1]], 1),
            ]
        )
        for at in range(0, len(pairs), _BLOCK):
            some = pairs[at : at + _BLOCK]
            some = some[label[some[:, 0]] != label[some[:, 1]]]
            _join(label, some[similarity(windows[some[:, 0]], windows[some[:, 1]]) >= NEAR])
        progress(band + 1, _BANDS)
    return label


def similarity(one: NDArray[np.unsignedinteger], other: NDArray[np.unsignedinteger]) -> NDArray[np.float64]:
    """Of each pair of rows [n, m] the share of runs of 5 tokens, of those that either has, that both have."""
    # Lower bit 0 for what is compared; what comes twice in a row takes an odd number that is nowhere else.
    sides = []
    for side, rows in enumerate((one, other)):
        shingles = np.sort(_shingles(rows) << np.uint64(1), axis=1)
        again = np.zeros(shingles.shape, np.bool_)
        again[:, 1:] = shingles[:, 1:] == shingles[:, :-1]
        marks = np.arange(shingles.shape[1], dtype=np.uint64) * np.uint64(4) + np.uint64(2 * side + 1)
        sides.append((np.where(again, marks, shingles), (~again).sum(axis=1)))
    together = np.sort(np.concatenate([side[0] for side in sides], axis=1), axis=1)
    both = (together[:, 1:] == together[:, :-1]).sum(axis=1)
    return np.asarray(both / np.maximum(sides[0][1] + sides[1][1] - both, 1))


def _shingles(rows: NDArray[np.unsignedinteger]) -> Keys:
    """A hash of each run of 5 tokens of [n, m], u64[n, m - 4]."""
    factors = odd_numbers(5, SHINGLE)
    wide = rows.astype(np.uint64)
    count = max(rows.shape[1] - SHINGLE + 1, 1)
    total = np.zeros((len(rows), count), np.uint64)
    for step in range(min(SHINGLE, rows.shape[1])):
        total += wide[:, step : step + count] * factors[step]
    return spread(total)


def _band(windows: NDArray[np.unsignedinteger], band: int) -> Keys:
    """One key of a few minima for each window, u64[d]."""
    factors = odd_numbers(1000 + band, _ROWS)
    keys = np.zeros(len(windows), np.uint64)
    for at in range(0, len(windows), _BLOCK):
        shingles = _shingles(windows[at : at + _BLOCK])
        for factor in factors:
            least = (shingles * factor).min(axis=1)
            keys[at : at + _BLOCK] = spread(keys[at : at + _BLOCK] + least)
    return keys


def _first_of_bucket(keys: Keys) -> Numbers:
    """Of sorted keys: where the run of equal ones begins in which each stands, i64[n]."""
    begins = np.ones(len(keys), np.bool_)
    begins[1:] = keys[1:] != keys[:-1]
    return np.maximum.accumulate(np.where(begins, np.arange(len(keys)), 0))


def _join(label: Numbers, pairs: Numbers) -> None:
    """Let what pairs [p, 2] connect have one label, the lowest."""
    while len(pairs):
        one, other = label[pairs[:, 0]], label[pairs[:, 1]]
        lowest = np.minimum(one, other)
        np.minimum.at(label, one, lowest)
        np.minimum.at(label, other, lowest)
        while True:
            further = label[label]
            if np.array_equal(further, label):
                break
            label[:] = further
        pairs = pairs[label[pairs[:, 0]] != label[pairs[:, 1]]]
