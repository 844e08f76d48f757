"""Repetition inside windows: what can be continued without ever having been seen."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

LONGEST_PERIOD = 32

_NUMBER = re.compile(rb"[0-9]{1,15}")
_STRIDES = (1, 2, 3)
"""A table's number may come once a row, with one or two others between."""


def distinct_tokens(continuations: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    """How many distinct tokens each row of [n, m] has."""
    ordered = np.sort(continuations, axis=1)
    found: NDArray[np.uint8] = ((ordered[:, 1:] != ordered[:, :-1]).sum(axis=1) + 1).astype(np.uint8)
    return found


def repetition(
    windows: NDArray[np.unsignedinteger], context: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Of windows [n, m]: the greatest share of the continuation's tokens that equal the one p before, and p.

    p is the least that gives it, from 1 to 32 and at most the context's length; 0 where no token repeats.
    """
    continuation = windows[:, context:]
    most = np.zeros(len(windows), np.int64)
    period = np.zeros(len(windows), np.uint8)
    for p in range(1, min(LONGEST_PERIOD, context) + 1):
        equal = (continuation == windows[:, context - p : windows.shape[1] - p]).sum(axis=1)
        period[equal > most] = p
        most = np.maximum(most, equal)
    return (most / continuation.shape[1]).astype(np.float32), period


def incrementing_numbers(text: bytes) -> int:
    """Most numbers in a text, each, each second or each third, that go on by one difference other than 0.

    >>> incrementing_numbers(b"a[1] = 9; a[2] = 9; a[3] = 9; a[4] = 7")
    4
    >>> incrementing_numbers(b"no 5, 5, 5")
    0
    """
    numbers = [int(found) for found in _NUMBER.findall(text)]
    most = 0
    for stride in _STRIDES:
        for offset in range(stride):
            length, before = 1, 0
            for one, other in pairwise(numbers[offset::stride]):
                difference = other - one
                length = length + 1 if difference == before and difference else 2 if difference else 1
                before = difference
                most = max(most, length if length > 2 else 0)
    return min(most, 255)
