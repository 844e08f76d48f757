"""A list drawn from all parts of a folder, in one file beside them.

Its name has a digest of the parts it was made from, so that a list of other parts is never taken for theirs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any

from memoserve.files.base import Files
from memoserve.store import checksum
from memoserve.store.parts import damaged

_NAME = re.compile(
    r"^(?:scores/suite=[^/]*/[^/]*/[^/]*/memorized|sequences/suite=[^/]*/repeats)-[^/]*\.parquet$"
)


def listing(named: Iterable[str]) -> str:
    """The digest of parts, each named with what tells it from another of that name."""
    return hashlib.md5(",".join(sorted(named)).encode(), usedforsecurity=False).hexdigest()


def is_list(name: str) -> bool:
    """Whether a file of a store is a list beside parts."""
    return _NAME.match(name) is not None


def check_list(files: Files, name: str) -> None:
    """Check every byte of a list. Raises BadInput if it is damaged."""
    try:
        checksum.check(files.read(name))
    except ValueError as error:
        raise damaged(files.location(name), error) from None


def keep_list(
    files: Files,
    folder: str,
    kind: str,
    digest: str,
    columns: list[str],
    tables: Callable[[], Iterable[Any]],
    **encoding: Any,
) -> None:
    """Write `kind`-`digest`.parquet into `folder` if it isn't there, and drop other lists of its kind.

    `tables`: makes what goes in, whole numbers in `columns`; called only if the list isn't there. `encoding`:
    for pyarrow's writer. Raises what `tables` raises, StorageFailed if the file system refuses.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = f"{kind}-{digest}.parquet"
    there = [other for other in files.names(folder) if other.startswith(f"{kind}-")]
    if name not in there:
        sink = pa.BufferOutputStream()
        schema = pa.schema([(column, pa.int64()) for column in columns])
        with pq.ParquetWriter(sink, schema, compression="zstd", use_dictionary=False, **encoding) as writer:
            for table in tables():
                writer.write_table(table.select(columns).cast(schema))
            writer.add_key_value_metadata({checksum.KEY: checksum.PLACEHOLDER})
        files.write(f"{folder}/{name}", checksum.seal(sink.getvalue().to_pybytes()))
    for other in there:
        if other != name:
            files.remove(f"{folder}/{other}")
