"""What files say of the order of their sequences, beside the sequences themselves."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAYBE_NUMBERS = frozenset(
    (
        "id",
        "idx",
        "seq_id",
        "seq_idx",
        "sequence_idx",
        "sequence_index",
        "row",
        "row_id",
        "row_number",
        "order",
    )
)
"""Names under which others keep the number of a sequence, or something else: they can only raise a doubt."""


@dataclass(frozen=True)
class OrderEvidence:
    """What files say of the order of their sequences, a sentence each.

    against: that it isn't that of training, which a run refuses; doubts: what may say so; support: what says
    that it is (with none of the three, nothing in the files tells).
    """

    against: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    support: str = ""


class Numbering:
    """Numbers that may say which sequence each row is: from which one on they count, or where they first
    jump. `row`: what a row of the file is called.
    """

    def __init__(self, name: str, row: str) -> None:
        self.name = name
        self._row = row
        self._offset: Any = None
        self.doubt = ""

    def look_at(self, rows: NDArray[np.int64], numbers: NDArray[Any], file: str) -> None:
        """Go on with the numbers of more rows, i64[n] of one file, whole ones of any size."""
        if self.doubt or not len(rows):
            return
        if self._offset is None:
            self._offset = int(numbers[0]) - int(rows[0])
        jumps = np.flatnonzero(numbers != rows + self._offset)
        if len(jumps):
            at = int(jumps[0])
            self.doubt = (
                f"{file}: {self._row} {rows[at]} has {self.name} {numbers[at]}, which doesn't follow the one "
                f"before: if {self.name} says which sequence it is, sort by it; ids are places in the file"
            )

    @property
    def counts(self) -> bool:
        """Whether rows were looked at, and each is numbered one more than the one before."""
        return self._offset is not None and not self.doubt


def evidence_of(numberings: Iterable[Numbering], row: str, certain: Collection[str] = ()) -> OrderEvidence:
    """What comes of numberings; `certain`: names of others, which number the rows 0, 1, 2 ..."""
    known = list(numberings)
    agree = [*certain, *(one.name for one in known if one.counts)]
    return OrderEvidence(
        doubts=tuple(one.doubt for one in known if one.doubt),
        support=f"the {row}s are numbered one after the other by {agree[0]}" if agree else "",
    )
