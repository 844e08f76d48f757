"""The few sequences whose window occurs more than once, found once for all queries.

Windows are what intervals cluster by, and finding the repeated ones means comparing the windows of all
sequences with each other: of 146 million, some minutes and gigabytes for every question. The list of them
is 2% as large.

It can't drift from the parts: its name is a digest of which parts it was made from, and with how many
rows, and the catalog takes it only if that is what is there now. Without it, or after any change, the
catalog compares all windows again: slower, and the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.files.base import Files
from memoserve.store.columns import SEQUENCES
from memoserve.store.listed import keep_list, listing
from memoserve.store.parts import Part, part_metadata, read_columns

# Windows are sorted in as many shares, to need the memory of one share for that.
_SHARES = 16


def index_repeats(files: Files, folder: str, parts: Sequence[Part]) -> None:
    """Write the list of repeated sequences of `parts`, all that are in `folder`; drop lists of other parts.

    Needs 8 bytes of memory a sequence. Raises BadInput for a damaged part, StorageFailed if the file system
    refuses.
    """
    import pyarrow as pa

    def repeated() -> Iterator[Any]:
        windows = _repeated_windows(files, parts)
        for part in parts:
            table = read_columns(files, part, SEQUENCES)
            yield table.filter(pa.array(_among(table.column("window_id").to_numpy(), windows)))

    # The catalog makes the same digest in SQL, of which parts there are and with how many rows.
    digest = listing(f"{part.name.rpartition('/')[2]} {part_metadata(files, part)['rows']}" for part in parts)
    keep_list(files, folder, "repeats", digest, ["sequence_id", "window_id"], repeated)


def _repeated_windows(files: Files, parts: Sequence[Part]) -> NDArray[np.int64]:
    """The windows that occur more than once in all parts together, each once, ascending."""
    shares: list[list[NDArray[np.int64]]] = [[] for _ in range(_SHARES)]
    for part in parts:
        windows = read_columns(files, part, SEQUENCES[1:]).column("window_id").to_numpy()
        share_of = windows % _SHARES
        for share in range(_SHARES):
            shares[share].append(windows[share_of == share])
    return np.sort(np.concatenate([_repeated(np.concatenate(share)) for share in shares]))


def _repeated(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """The values that occur more than once, each once."""
    values = np.sort(values)
    return np.unique(values[1:][values[1:] == values[:-1]])


def _among(values: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of the values are among the sorted `known`."""
    if not len(known):
        return np.zeros(len(values), dtype=np.bool_)
    at = np.searchsorted(known, values)
    return np.asarray(known[np.minimum(at, len(known) - 1)] == values)
