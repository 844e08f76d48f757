"""The one place where generations become matches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memoserve.domain import Matches


def matches_of(generation: NDArray[np.uint32], continuation: NDArray[np.uint32]) -> Matches:
    """Compare u32[n, 32] generations with u32[n, 32] continuations, token by token."""
    equal = generation == continuation
    mask = np.packbits(equal, axis=1, bitorder="little").view("<u4").ravel()
    return Matches(np.logical_and.accumulate(equal, axis=1).sum(axis=1, dtype=np.uint8), mask)


def concatenate(blocks: list[Matches]) -> Matches:
    """One Matches from several of one mode, in order. Raises ValueError for none."""
    if not blocks:
        raise ValueError("there are no blocks")
    given = {name: [getattr(block, name) for block in blocks] for name in Matches.names()}
    return Matches(**{name: np.concatenate(each) for name, each in given.items() if each[0] is not None})
