"""What an engine says of a window, and the one place where generations become matches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Matches:
    """One entry per window, in the order of the windows.

    matched_prefix: u8[n], leading matches, 0 to 32. match_mask: u32[n], bit i set if generation[i] equals
    continuation[i], or None in `extract` mode. continuation_ll: f32[n], nats, or None unless asked for.
    """

    matched_prefix: NDArray[np.uint8]
    match_mask: NDArray[np.uint32] | None = None
    continuation_ll: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.matched_prefix)

    @property
    def matches(self) -> NDArray[np.uint8] | None:
        """u8[n], how many of the 32 tokens match, or None without masks."""
        return None if self.match_mask is None else np.bitwise_count(self.match_mask)

    def take(self, rows: NDArray[np.int64]) -> Matches:
        """The matches of `rows`, in that order; a row may come more than once."""
        return Matches(
            self.matched_prefix[rows],
            None if self.match_mask is None else self.match_mask[rows],
            None if self.continuation_ll is None else self.continuation_ll[rows],
        )


def matches_of(generation: NDArray[np.uint32], continuation: NDArray[np.uint32]) -> Matches:
    """Compare u32[n, 32] generations with u32[n, 32] continuations, token by token."""
    equal = generation == continuation
    mask = np.packbits(equal, axis=1, bitorder="little").view("<u4").ravel()
    return Matches(np.logical_and.accumulate(equal, axis=1).sum(axis=1, dtype=np.uint8), mask)


def concatenate(blocks: list[Matches]) -> Matches:
    """One Matches from several of one mode, in order. Raises ValueError for none."""
    masks = [block.match_mask for block in blocks if block.match_mask is not None]
    lls = [block.continuation_ll for block in blocks if block.continuation_ll is not None]
    return Matches(
        np.concatenate([block.matched_prefix for block in blocks]),
        np.concatenate(masks) if masks else None,
        np.concatenate(lls) if lls else None,
    )
