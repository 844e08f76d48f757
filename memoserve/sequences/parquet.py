"""Parquet files with a column of token lists; ids are row numbers, file after file."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memoserve.errors import BadInput, StorageFailed
from memoserve.files.byte_ranges import ByteRanges
from memoserve.files.place import Place
from memoserve.sequences.identity import sampled_sha256, sha256
from memoserve.sequences.order import Numbering, OrderEvidence, evidence_of
from memoserve.sequences.parquet_columns import COLUMNS, Columns, columns_in, columns_shown, same_columns
from memoserve.sequences.source import as_token_ids, check_ids, check_length, check_long_enough, check_span

if TYPE_CHECKING:
    import pyarrow

WHOLE_IDS = 1 << 20
"""Remote files of so many rows have these columns read through beforehand; local ones always."""

BATCH = 1024
"""Rows decoded at a time."""

IDLE_CURSORS = 4
"""So many positions where a read stopped are kept, for as many threads that read on from there."""


class ParquetSequences:
    """A SequenceSource over the rows of Parquet files, read in batches within row groups.

    Reading on where an earlier read stopped goes on; reading elsewhere begins at the row group that holds
    the first row, so random access costs up to a row group a read. Threads share no position: a read takes
    a cursor for itself, and lays it back where it stopped.
    """

    kind = "parquet"
    cheap_lengths = 1 << 14
    whole_length: tuple[int, int] | None = None

    def __init__(self, places: list[Place], note: str = "", column: str | None = None) -> None:
        """Open and check every file, in order; `note` says which order that is, where people may expect
        another; `column` names the token ids where COLUMNS don't. Raises BadInput, also where the files have
        other columns than the first.
        """
        self._data = ByteRanges(
            places, name=str(places[0]) if len(places) == 1 else f"{places[0]} and {len(places) - 1} more"
        )
        self._places = places
        self._groups: list[tuple[int, int]] = []  # (file, row group), in order
        rows: list[int] = []
        schema: Any = None
        for file, place in enumerate(places):
            with _reading(place):
                opened = _open(place)
                if schema is None:
                    schema = opened.schema_arrow
                    self._columns, self.token_dtype = columns_in(schema, place, column)
                    usual = [field.name for field in schema if field.name in COLUMNS]
                    self._named = column if column is not None and usual != [column] else None
                elif not same_columns(schema, opened.schema_arrow):
                    raise BadInput(
                        f"{place} has other columns than {places[0]} ({columns_shown(opened.schema_arrow)}; "
                        f"{columns_shown(schema)}): they are not of one set"
                    )
                for group in range(opened.metadata.num_row_groups):
                    self._groups.append((file, group))
                    rows.append(int(opened.metadata.row_group(group).num_rows))
        if min(rows, default=0) < 0:
            raise BadInput(f"{self._data.name} is damaged: a row group of {min(rows)} rows")
        self._first_rows = np.cumsum(np.array([0, *rows], dtype=np.int64))
        self.count = int(self._first_rows[-1])
        self.total_bytes = self._data.size
        self.description = (
            f"{self._data.name}: {self.count:,} sequences, column {self._columns.tokens[0]} of lists of "
            f"{self.token_dtype}, Parquet{', ' if note else ''}{note}"
        )
        self._idle: list[_Cursor] = []  # the one laid back last stands last
        self._idle_lock = threading.Lock()

    def order_evidence(self) -> OrderEvidence:
        """See SequenceSource.order_evidence: columns that number the rows, or may do so, and number them
        otherwise.
        """
        ids, maybe = self._columns.ids, [Numbering(name, "row") for name in self._columns.maybe]
        first = 0
        try:
            # Of what is far away and large, it is checked as it is read.
            far = self._data.remote is not None and self.count > WHOLE_IDS
            for place in self._places if (ids or maybe) and not far else ():
                with _reading(place):
                    columns = [*ids, *self._columns.maybe]
                    for batch in _open(place).iter_batches(1 << 16, columns=columns):
                        for name in ids:
                            _check_ids(batch.column(name), name, first, place)
                        rows = np.arange(first, first + batch.num_rows)
                        for one in maybe:
                            column = batch.column(one.name)
                            if not column.null_count:
                                one.look_at(rows, column.to_numpy(zero_copy_only=False), str(place))
                        first += batch.num_rows
        except BadInput as error:
            return OrderEvidence(against=(str(error),))
        return evidence_of(maybe, "row", certain=ids)

    def read(self, first: int, stop: int, length: int) -> NDArray[np.uint32]:
        """See SequenceSource.read."""
        return self._tokens(check_span(first, stop, self.count, self._data.name), length)

    def take(self, ids: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
        """See SequenceSource.take."""
        return self._tokens(check_ids(ids, self.count, self._data.name), length)

    def lengths(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """See SequenceSource.lengths."""
        ids = check_ids(ids, self.count, self._data.name)
        found = [np.diff(offsets) for _, offsets, _, _ in self._rows(ids)]
        return np.concatenate([np.empty(0, dtype=np.int64), *found])

    def identity(self) -> dict[str, str | int]:
        """See SequenceSource.identity: the index is the size and the footer of each file."""
        footers = []
        begin = 0
        for size in self._data.sizes:
            end = begin + size
            length = int.from_bytes(self._data.read(end - 8, 4), "little")
            footers.append(f"{size}:".encode() + self._data.read(end - 8 - length, length + 8))
            begin = end
        identity: dict[str, str | int] = {
            "kind": self.kind,
            "count": self.count,
            "bytes": self.total_bytes,
            "index_sha256": sha256(footers),
            "data_sha256": sampled_sha256(self._data),
        }
        if self._named is not None:
            identity["tokens_column"] = self._named
        return identity

    def _tokens(self, ids: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
        check_length(length)
        blocks = [np.empty((0, length), dtype=np.uint32)]
        for some, offsets, values, place in self._rows(ids):
            check_long_enough(np.diff(offsets), some, length, str(place))
            found = values[offsets[:-1, None] + np.arange(length)]
            blocks.append(as_token_ids(found, some, str(place)))
        return np.concatenate(blocks)

    def _rows(
        self, ids: NDArray[np.int64]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any], Place]]:
        """The lists of ascending ids, some at a time: ids, offsets i64[n + 1], their values, the file."""
        done = 0
        while done < len(ids):
            group = int(np.searchsorted(self._first_rows, ids[done], side="right")) - 1
            end = int(np.searchsorted(ids, self._first_rows[group + 1], side="left"))
            place = self._places[self._groups[group][0]]
            wanted = ids[done:end]
            with _reading(place), self._cursor(group, int(wanted[0])) as cursor:
                for some, array in cursor.rows(wanted):
                    offsets, values = _lists(array, some, place)
                    yield some, offsets, values, place
            done = end

    @contextmanager
    def _cursor(self, group: int, row: int) -> Iterator[_Cursor]:
        """A cursor that can go on to `row` of a row group, nobody else's until it is laid back.

        One whose read failed, or was given up in its midst, is dropped: its position is unknown.
        """
        with self._idle_lock:
            fits = [cursor for cursor in self._idle if cursor.reaches(group, row)]
            taken = max(fits, key=lambda cursor: cursor.first, default=None)
            if taken is not None:
                self._idle.remove(taken)
        if taken is None:
            file, number = self._groups[group]
            first, stop = (int(at) for at in self._first_rows[group : group + 2])
            self._data.check_unchanged(file)  # opened anew, by its name
            taken = _Cursor(self._places[file], self._columns, group, number, first, stop)
        yield taken
        with self._idle_lock:
            self._idle.append(taken)
            del self._idle[:-IDLE_CURSORS]


class _Cursor:
    """A position in a row group; it only moves on."""

    def __init__(
        self, place: Place, columns: Columns, group: int, number: int, first: int, stop: int
    ) -> None:
        self.group = group
        self._place = place
        self._columns = columns
        self._stop = stop
        self._batches = _open(place).iter_batches(
            BATCH, row_groups=[number], columns=[*columns.tokens, *columns.ids], use_threads=False
        )
        self.first = self._end = first  # the rows of the batch at hand
        self._batch: pyarrow.Array | None = None

    def reaches(self, group: int, row: int) -> bool:
        return self.group == group and row >= self.first

    def rows(self, wanted: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], pyarrow.Array]]:
        """The lists of the wanted rows (of this row group, ascending), batch by batch."""
        done = 0
        while done < len(wanted):
            while wanted[done] >= self._end:
                batch = next(self._batches, None)
                if batch is None or self._end + batch.num_rows > self._stop:
                    raise BadInput(
                        f"{self._place} is damaged: a row group doesn't have the rows that its footer says"
                    )
                self._batch = self._checked(batch)
                self.first, self._end = self._end, self._end + batch.num_rows
            end = int(np.searchsorted(wanted, self._end, side="left"))
            some = wanted[done:end]
            assert self._batch is not None
            yield some, self._batch.take(_arrow(some - self.first))
            done = end

    def _checked(self, batch: Any) -> pyarrow.Array:
        """The token lists of a batch. Raises BadInput where its other columns contradict them."""
        for name in self._columns.ids:
            _check_ids(batch.column(name), name, self._end, self._place)
        first, *others = self._columns.tokens
        for other in others:
            if batch.column(first).to_pylist() != batch.column(other).to_pylist():
                raise BadInput(
                    f"{self._place} has columns {first} and {other}, which differ in the sequences "
                    f"{self._end} to {self._end + batch.num_rows - 1}: name the one that holds the token ids"
                )
        return batch.column(first)


def _check_ids(column: Any, name: str, first: int, place: Place) -> None:
    """Raise BadInput unless the rows are numbered first, first + 1 …"""
    if column.null_count:
        raise BadInput(f"{place}: its column {name} has nulls: it must number the rows 0, 1, 2 …")
    found = column.to_numpy(zero_copy_only=False)
    wrong = found != first + np.arange(len(found))
    if wrong.any():
        at = int(np.argmax(wrong))
        raise BadInput(
            f"{place}: row {first + at} has {name} {int(found[at])}: rows must be sequences 0, 1, 2 … in "
            "training order; sort them, keep each once, or leave the column out if it means something else"
        )


def _arrow(values: NDArray[np.int64]) -> Any:
    import pyarrow

    return pyarrow.array(values)


def _lists(array: Any, ids: NDArray[np.int64], place: Place) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Offsets i64[n + 1] and values of a list array. Raises BadInput for a null."""
    import pyarrow

    if array.null_count:
        at = int(np.argmax(np.asarray(array.is_null())))
        raise BadInput(f"{place}: sequence {int(ids[at])} is null")
    values = array.flatten()
    if pyarrow.types.is_fixed_size_list(array.type):
        offsets = np.arange(len(array) + 1, dtype=np.int64) * array.type.list_size
    else:
        offsets = np.asarray(array.offsets).astype(np.int64)
        offsets -= offsets[0]
    if values.null_count:
        row = np.searchsorted(offsets, int(np.argmax(np.asarray(values.is_null()))), side="right") - 1
        raise BadInput(f"{place}: sequence {int(ids[row])} has a null among its tokens")
    return offsets, values.to_numpy(zero_copy_only=False)


def _open(place: Place) -> Any:
    from pyarrow import PythonFile, parquet

    file = place.path if place.remote is None else PythonFile(_RangeFile(ByteRanges([place])), mode="r")
    # A buffer makes Arrow read pages as they are needed; without, the whole column of a row group.
    return parquet.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False, memory_map=False)


class _RangeFile(io.RawIOBase):
    """A remote file as Arrow reads it, through the checked and repeated reads of all other kinds."""

    def __init__(self, data: ByteRanges) -> None:
        super().__init__()
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._data.size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        left = max(self._data.size - self._at, 0)
        content = self._data.read(self._at, left if size is None or size < 0 else min(size, left))
        self._at += len(content)
        return content


class _reading:  # noqa: N801 - reads as a statement: with _reading(place):
    """What Arrow raises, as BadInput or StorageFailed naming the file."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        import pyarrow

        if isinstance(error, pyarrow.ArrowException | ValueError | TypeError | NotImplementedError):
            raise BadInput(f"{self._place} can't be read as Parquet: {error}") from None
        if isinstance(error, OSError):
            # Arrow reports damaged pages as OSError without a number.
            wrong = StorageFailed if error.errno else BadInput
            raise wrong(f"{self._place} can't be read as Parquet: {error}") from None
