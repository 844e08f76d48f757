"""The few sequences that a checkpoint memorized, found once for all queries.

Most questions are about them alone, and finding them means reading a column of every score: of eight models
and 146 million sequences, most of the seconds that such a question takes. The lists are 1% as large.

They can't drift from the parts: a list's name is a digest of the names and checksums of the parts it was made
from, and the catalog takes it only if those are what is there now. Without it, or after any change, the
catalog reads the scores again: slower, and the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from memoserve.domain import CONTINUATION
from memoserve.files.base import Files
from memoserve.store.columns import MEMORIZED_BY, SCORES
from memoserve.store.listed import keep_list, listing
from memoserve.store.parts import Part, digest_of, read_columns

_COLUMNS = [column for column in SCORES if column.required or column.name in MEMORIZED_BY]

# With fewer scores, reading them takes no longer than looking for a list.
WORTH_A_LIST = 1 << 20


def list_memorized(files: Files, folder: str, parts: Sequence[Part]) -> None:
    """Write the list of what is memorized in `parts`, all that are in `folder`; drop lists of other parts.

    Raises BadInput for a damaged part, StorageFailed if the file system refuses.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    def memorized() -> Iterator[Any]:
        for part in parts:
            table = read_columns(files, part, _COLUMNS)
            score = pc.coalesce(table.column("matched_prefix"), table.column("matches"))
            yield table.filter(pc.equal(score.combine_chunks(), pa.scalar(CONTINUATION, pa.uint8())))

    # The catalog makes the same digest in SQL, of which parts there are and of every byte in them.
    digest = listing(f"{part.name.rpartition('/')[2]} {digest_of(files, part)}" for part in parts)
    encoding = {"sequence_id": "DELTA_BINARY_PACKED"}
    keep_list(
        files,
        folder,
        "memorized",
        digest,
        ["sequence_id"],
        memorized,
        column_encoding=encoding,
        store_schema=False,
    )
