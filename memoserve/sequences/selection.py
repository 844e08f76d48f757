"""Which sequences to evaluate: a range, or a repeatable random sample of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memoserve.errors import BadInput
from memoserve.sequences.checks import short_sequences
from memoserve.sequences.source import SequenceSource

_MASK = 2**64 - 1
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Selection:
    """Sequence ids `first`..`stop`-1, or a random share of them.

    Whether an id is in the sample depends on the id, `fraction` and `seed` alone (SplitMix64, Steele,
    Lea and Flood 2014), so any part of it can be listed without the rest, and with the same seed a
    smaller fraction is a subset of a larger one. The size of the sample is therefore random: about
    `fraction` of the range. With `skip_short`, sequences shorter than a window are left out (by `ids_in`).
    Raises BadInput for a range or fraction that makes no sense.
    """

    first: int
    stop: int
    fraction: float = 1.0
    seed: int = 0
    skip_short: bool = False

    @property
    def sample(self) -> str | None:
        """What is drawn, as fingerprints say it: None for everything. `sample_in` reads it."""
        return None if self.fraction == 1.0 else f"{self.fraction} with seed {self.seed}"

    def __post_init__(self) -> None:
        """Check the fields."""
        if not 0 <= self.first < self.stop:
            raise BadInput(f"sequences {self.first}:{self.stop} is not a range: first must be below stop")
        if not 0.0 < self.fraction <= 1.0:
            raise BadInput(f"a sample of {self.fraction} makes no sense: give a fraction above 0 and up to 1")

    def ids(self, first: int, stop: int) -> NDArray[np.int64]:
        """The selected ids inside [first, stop), ascending, i64[n]."""
        first, stop = max(first, self.first), min(stop, self.stop)
        if first >= stop:
            return np.empty(0, dtype=np.int64)
        if self.fraction == 1.0:
            return np.arange(first, stop, dtype=np.int64)
        # In blocks: a sparse sample of a wide range must not cost the memory of the range.
        blocks = []
        for start in range(first, stop, _BLOCK):
            candidates = np.arange(start, min(start + _BLOCK, stop), dtype=np.int64)
            blocks.append(candidates[self._chosen(candidates)])
        return np.concatenate(blocks)

    def ids_in(self, source: SequenceSource, first: int, stop: int, length: int) -> NDArray[np.int64]:
        """The same of a source, ascending, i64[n]; with `skip_short` those with at least `length` tokens.

        Raises as short_sequences.
        """
        ids = self.ids(first, stop)
        return ids[~short_sequences(source, ids, length)] if self.skip_short and len(ids) else ids

    def _chosen(self, ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        threshold = np.uint64(min(int(self.fraction * 2.0**64), _MASK))
        key = _splitmix64(np.array([self.seed & _MASK], dtype=np.uint64))
        return _splitmix64(ids.astype(np.uint64) ^ key) < threshold


def _splitmix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def parse_range(text: str, count: int) -> tuple[int, int]:
    """`"0:1000"`, `":1000"`, `"5000:"` or `":"` as (first, stop), half-open.

    Raises BadInput if it is malformed, empty, or goes beyond `count` sequences.
    """
    match = re.fullmatch(r"([0-9]{0,18}):([0-9]{0,18})", text.strip())
    if match is None:
        raise BadInput(
            f"{text!r} is not a range of sequences: write first:stop, such as 0:1000, :1000 or 5000:"
        )
    first = int(match[1] or 0)
    stop = int(match[2]) if match[2] else count
    if stop > count or first > count:
        raise BadInput(f"{text!r} goes beyond the {count:,} sequences there are (0:{count})")
    if first >= stop:
        raise BadInput(f"{text!r} holds no sequence: first must be below stop")
    return first, stop


def sample_in(sample: object) -> tuple[float, int]:
    """(fraction, seed) of what `Selection.sample` says; (1.0, 0) of anything else, which is everything."""
    found = re.match(r"^([0-9.eE+-]+) with seed (-?[0-9]+)$", str(sample))
    return (float(found[1]), int(found[2])) if found else (1.0, 0)
