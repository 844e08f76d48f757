"""Parts: Parquet files that each cover one range of sequence ids."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memoserve.errors import BadInput, StoreConflict
from memoserve.files.base import Files
from memoserve.store import checksum
from memoserve.store.columns import Column, with_all
from memoserve.store.fingerprint import differences

if TYPE_CHECKING:
    import pyarrow as pa

METADATA_KEY = b"memoserve"

# Chosen by measurement (scripts/bench_store.py layouts, docs/scale.md). A whole part of `memoserve run` is
# one row group: one request a column on remote storage, and a training run of 146M sequences still has 140
# to spread over cores. Pages of 128 Ki rows end where blocks of 128 KiB do.
ROW_GROUP_ROWS = 1 << 20
PAGE_ROWS = 1 << 17

# Bytes from the end of a part that are read at once: most footers are smaller.
_TAIL = 64 << 10

_NAME = re.compile(r"^part-(\d{12,})-(\d{12,})\.parquet$")


@dataclass(frozen=True)
class Part:
    """One part file. It covers the ids first..last, both included, sampled or not.

    `name` is relative to the store, `path` the full path or URL, `size` in bytes.
    """

    first: int
    last: int
    name: str
    path: str
    size: int

    @property
    def stop(self) -> int:
        """One past the last id."""
        return self.last + 1


def part_name(first: int, stop: int) -> str:
    """The file name of the part that covers [first, stop)."""
    return f"part-{first:012d}-{stop - 1:012d}.parquet"


def parts_in(files: Files, folder: str) -> list[Part]:
    """The parts in a folder, in order of ids. Other files are none of the store's business."""
    named = (
        part_named(files, f"{folder}/{bare}", entry.size) for bare, entry in files.entries(folder).items()
    )
    return sorted((part for part in named if part is not None), key=lambda part: (part.first, part.last))


def part_named(files: Files, name: str, size: int) -> Part | None:
    """The part that a file of this name in the store is, None if it isn't the name of a part."""
    match = _NAME.match(name.rpartition("/")[2])
    if match is None or int(match[1]) > int(match[2]):
        return None
    return Part(int(match[1]), int(match[2]), name, files.location(name), size)


def missing_ranges(
    ranges: Iterable[tuple[int, int]], covered: Iterable[tuple[int, int]], part_size: int
) -> list[tuple[int, int]]:
    """The half-open `ranges` minus the half-open `covered` ones, cut at every multiple of `part_size`."""
    if part_size < 1:
        raise BadInput(f"the part size must be at least 1, not {part_size}")
    holes = _merged(ranges)
    for first, stop in _merged(covered):
        holes = [
            piece
            for a, b in holes
            for piece in ((a, min(b, first)), (max(a, stop), b))
            if piece[0] < piece[1]
        ]
    cut = []
    for first, stop in holes:
        while first < stop:
            end = min(stop, (first // part_size + 1) * part_size)
            cut.append((first, end))
            first = end
    return cut


def _merged(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    merged: list[tuple[int, int]] = []
    for first, stop in sorted(r for r in ranges if r[0] < r[1]):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((first, stop))
    return merged


def write_part(
    files: Files,
    folder: str,
    first: int,
    stop: int,
    columns: Mapping[str, pa.Array],
    metadata: Mapping[str, Any],
    kinds: Sequence[Column],
) -> Part:
    """Write the part [first, stop) whole or not at all, with a checksum (see checksum.py).

    Raises StoreConflict if a part in the folder covers any of these ids: no id may be in two parts. On a
    store without a lock that can be relied on, another writer may come between looking and writing, so this
    looks once more afterwards and takes its own part back: of two that overlap, at most one stays.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _refuse_overlap(files, folder, first, stop)
    name = f"{folder}/{part_name(first, stop)}"
    table = pa.table(dict(columns))
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        version="2.6",
        data_page_version="2.0",
        compression={kind.leaf: kind.compression for kind in kinds},
        compression_level={kind.leaf: kind.level for kind in kinds},
        data_page_size=4 * PAGE_ROWS,
        max_rows_per_page=PAGE_ROWS,
        write_statistics=True,
        use_dictionary=[kind.leaf for kind in kinds if kind.dictionary],
        column_encoding={kind.leaf: kind.encoding for kind in kinds if kind.encoding is not None},
        store_schema=False,
    ) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        about = json.dumps({**metadata, "name": name}, sort_keys=True)
        writer.add_key_value_metadata({METADATA_KEY: about.encode(), checksum.KEY: checksum.PLACEHOLDER})
    content = checksum.seal(sink.getvalue().to_pybytes())
    try:
        files.create(name, content)
    except FileExistsError:
        raise StoreConflict(
            f"{files.location(name)} was written by another run at the same time: one run for one store; "
            "run again for what is missing"
        ) from None
    try:
        _refuse_overlap(files, folder, first, stop, but=name)
    except StoreConflict:
        files.remove(name)
        raise
    return Part(first, stop - 1, name, files.location(name), len(content))


def _refuse_overlap(files: Files, folder: str, first: int, stop: int, but: str | None = None) -> None:
    for part in parts_in(files, folder):
        if part.first < stop and first < part.stop and part.name != but:
            raise StoreConflict(
                f"{files.location(folder)} already has sequences {part.first}..{part.last} "
                f"({part.name.rsplit('/', 1)[-1]}); a part for {first}..{stop - 1} would hold some of them "
                "twice. Move that part away to evaluate them again."
            )


def part_metadata(files: Files, part: Part) -> dict[str, Any]:
    """The `memoserve` metadata of a part. Raises BadInput for a footer that isn't as it was written."""
    import pyarrow as pa

    try:
        return metadata_in(read_footer(files, part))
    except (pa.ArrowException, ValueError) as error:
        raise damaged(part.path, error) from None


def sealed_table(table: pa.Table, name: str) -> bytes:
    """A small table as the file of that name: its metadata says name and rows, its footer has a checksum."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink, table.schema, version="2.6", compression="zstd", store_schema=False
    ) as writer:
        writer.write_table(table)
        about = json.dumps({"name": name, "rows": len(table)}, sort_keys=True)
        writer.add_key_value_metadata({METADATA_KEY: about.encode(), checksum.KEY: checksum.PLACEHOLDER})
    return checksum.seal(sink.getvalue().to_pybytes())


def foreign_parts(files: Files, parts: Iterable[Part], fingerprint: Mapping[str, Any]) -> list[Part]:
    """Those of the parts that name another run than this fingerprint. Raises BadInput for a damaged one."""
    return [
        part
        for part in parts
        if differences(fingerprint, part_metadata(files, part).get("fingerprint") or {})
    ]


def read_footer(files: Files, part: Part) -> pa.FileMetaData:
    """The Parquet metadata of a part, checksum checked. Raises ValueError or ArrowException if damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pq.read_metadata(pa.BufferReader(_footer(files, part)[0]))


def digest_of(files: Files, part: Part) -> str:
    """The digest of a part's data, as its footer says it. Raises BadInput for a damaged footer."""
    try:
        return _footer(files, part)[1]
    except ValueError as error:
        raise damaged(part.path, error) from None


def _footer(files: Files, part: Part) -> tuple[bytes, str]:
    """The checked footer of a part, and the digest of what stands before it. Raises ValueError."""
    tail = files.read_range(part.name, max(0, part.size - _TAIL), part.size)
    length = checksum.footer_length(tail, part.size)
    if length > len(tail):
        tail = files.read_range(part.name, part.size - length, part.size)
    footer = tail[-length:]
    try:
        return footer, checksum.check_footer(footer, part.size)
    except checksum.NoChecksum:
        if _is_from_before(footer):
            raise ValueError(checksum.FROM_BEFORE) from None
        raise


def _is_from_before(footer: bytes) -> bool:
    """Whether a footer without a checksum is one of a part from before there were any: it has no name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return "name" not in metadata_in(pq.read_metadata(pa.BufferReader(footer)))
    except (pa.ArrowException, ValueError, OSError):
        return False


def metadata_in(footer: pa.FileMetaData) -> dict[str, Any]:
    """The `memoserve` metadata in Parquet's. Raises ValueError if there is none."""
    try:
        found = json.loads((footer.metadata or {})[METADATA_KEY])
    except KeyError:
        raise ValueError("it lacks the metadata of a part") from None
    except RecursionError:
        raise ValueError("its metadata is nested too deeply") from None
    if not isinstance(found, dict) or not isinstance(found.get("fingerprint") or {}, dict):
        raise ValueError("its metadata is not an object")
    return found


def read_part(
    files: Files, part: Part, fingerprint: Mapping[str, Any], columns: Sequence[Column]
) -> pa.Table:
    """Those of these columns that a part has, every byte checked.

    Raises BadInput for damage, StoreConflict for another run's.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = files.read(part.name)
    try:
        checksum.check(content)
        file = pq.ParquetFile(pa.BufferReader(content))
        about = metadata_in(file.metadata)
        if about.get("name") != part.name:
            raise ValueError(f"its metadata names a different part: {about.get('name')}")
        differing = differences(fingerprint, about.get("fingerprint") or {})
        there = [column for column in columns if column.name in file.schema_arrow.names]
        table = with_all(file.read(columns=[column.name for column in there], use_threads=False), there)
    except (pa.ArrowException, ValueError) as error:
        raise damaged(part.path, error) from None
    if differing:
        raise StoreConflict(
            f"{part.path} was made by another run than the rest of this store (store vs part):\n"
            + "\n".join(differing)
            + "\n`memoserve verify --repair` moves it away; `memoserve run` then makes it again."
        )
    return table


def read_columns(files: Files, part: Part, columns: Sequence[Column]) -> pa.Table:
    """Some columns of a part, those that it lacks as NULL, every byte checked. Raises BadInput for damage."""
    import pyarrow as pa

    try:
        content = files.read(part.name)
        checksum.check(content)
        return with_all(rows_of(content, [column.name for column in columns]), columns)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged(part.path, error) from None


def rows_of(content: bytes, names: list[str] | None = None) -> pa.Table:
    """All columns of a Parquet file in memory, or those of `names` that it has.

    Raises ArrowException, OSError or ValueError.

    In this thread alone: one of Arrow's own may hold on to `content` a moment longer, and kills the process
    if that ends just then, because it can't have Python's lock any more to let go of it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(pa.BufferReader(content), pre_buffer=False) as file:
        there = names and [name for name in names if name in file.schema_arrow.names]
        return file.read(columns=there, use_threads=False)


def damaged(path: str, error: BaseException) -> BadInput:
    """The error for a part that can't be read."""
    cause = str(error).splitlines()[0] if str(error) else repr(error)
    maker = "features" if "/features/suite=" in path else "run"
    return BadInput(
        f"{path} is damaged or not a part of a store ({cause}).\n`memoserve verify --repair` moves it away, "
        f"`memoserve {maker}` makes it again."
    )
