"""The few sequences that a checkpoint memorized, found once for all queries.

Most questions are about them alone, and finding them means reading a column of every score: of eight models
and 146 million sequences, most of the seconds that such a question takes. The lists are 1% as large.

They can't drift from the parts: a list's name is a digest of the names and checksums of the parts it was made
from, and the catalog takes it only if those are what is there now. Without it, or after any change, the
catalog reads the scores again: slower, and the same answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from memoserve.store import checksum
from memoserve.store.files import Files
from memoserve.store.parts import Part, digest_of, read_columns

# With fewer scores, reading them takes no longer than looking for a list.
WORTH_A_LIST = 1 << 20

_MEMORIZED = 32


def list_memorized(files: Files, folder: str, parts: Sequence[Part]) -> None:
    """Write the list of what is memorized in `parts`, all that are in `folder`; drop lists of other parts.

    Raises BadInput for a damaged part, StorageFailed if the file system refuses.
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    name = f"memorized-{_listing(files, parts)}.parquet"
    there = [other for other in files.names(folder) if other.startswith("memorized-")]
    if name not in there:
        sink = pa.BufferOutputStream()
        schema = pa.schema([("sequence_id", pa.int64())])
        with pq.ParquetWriter(
            sink,
            schema,
            compression="zstd",
            use_dictionary=False,
            column_encoding={"sequence_id": "DELTA_BINARY_PACKED"},
            store_schema=False,
        ) as writer:
            for part in parts:
                table = read_columns(files, part, ["sequence_id", "matches", "matched_prefix"])
                score = pc.coalesce(table.column("matched_prefix"), table.column("matches"))
                chosen = pc.equal(score.combine_chunks(), pa.scalar(_MEMORIZED, pa.uint8()))
                writer.write_table(table.filter(chosen).select(["sequence_id"]).cast(schema))
            writer.add_key_value_metadata({checksum.KEY: checksum.PLACEHOLDER})
        files.write(f"{folder}/{name}", checksum.seal(sink.getvalue().to_pybytes()))
    for other in there:
        if other != name:
            files.remove(f"{folder}/{other}")


def _listing(files: Files, parts: Sequence[Part]) -> str:
    """The digest of which parts there are and of every byte in them; the catalog makes the same in SQL."""
    named = sorted(f"{part.name.rpartition('/')[2]} {digest_of(files, part)}" for part in parts)
    return hashlib.md5(",".join(named).encode(), usedforsecurity=False).hexdigest()
