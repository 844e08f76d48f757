"""The few sequences whose window occurs more than once, found once for all queries.

Windows are what intervals cluster by, and finding the repeated ones means comparing the windows of all
sequences with each other: of 146 million, some minutes and gigabytes for every question. The list of them
is 2% as large.

It can't drift from the parts: its name is a digest of which parts it was made from, and with how many
rows, and the catalog takes it only if that is what is there now. Without it, or after any change, the
catalog compares all windows again: slower, and the same answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memoserve.store import checksum
from memoserve.store.files import Files
from memoserve.store.parts import Part, part_metadata, read_columns

# Windows are sorted in as many shares, to need the memory of one share for that.
_SHARES = 16


def index_repeats(files: Files, folder: str, parts: Sequence[Part]) -> None:
    """Write the list of repeated sequences of `parts`, all that are in `folder`; drop lists of other parts.

    Needs 8 bytes of memory a sequence. Raises BadInput for a damaged part, StorageFailed if the file system
    refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = f"repeats-{_listing(files, parts)}.parquet"
    there = [other for other in files.names(folder) if other.startswith("repeats-")]
    if name not in there:
        repeated = _repeated_windows(files, parts)
        sink = pa.BufferOutputStream()
        schema = pa.schema([("sequence_id", pa.int64()), ("window_id", pa.int64())])
        with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=False) as writer:
            for part in parts:
                table = read_columns(files, part, ["sequence_id", "window_id"])
                chosen = _among(table.column("window_id").to_numpy(), repeated)
                writer.write_table(table.filter(pa.array(chosen)).cast(schema))
            writer.add_key_value_metadata({checksum.KEY.encode(): checksum.PLACEHOLDER.encode()})
        files.write(f"{folder}/{name}", checksum.seal(sink.getvalue().to_pybytes()))
    for other in there:
        if other != name:
            files.remove(f"{folder}/{other}")


def _listing(files: Files, parts: Sequence[Part]) -> str:
    """The digest of which parts there are and with how many rows; the catalog makes the same in SQL."""
    named = sorted(f"{part.name.rsplit('/', 1)[-1]} {part_metadata(files, part)['rows']}" for part in parts)
    return hashlib.md5(",".join(named).encode(), usedforsecurity=False).hexdigest()


def _repeated_windows(files: Files, parts: Sequence[Part]) -> NDArray[np.int64]:
    """The windows that occur more than once in all parts together, each once, ascending."""
    shares: list[list[NDArray[np.int64]]] = [[] for _ in range(_SHARES)]
    for part in parts:
        windows = read_columns(files, part, ["window_id"]).column("window_id").to_numpy()
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
