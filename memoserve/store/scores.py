"""Scores on their way into parts and out of them, by the one list of columns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memoserve.domain import CONTINUATION, Matches
from memoserve.errors import BadInput
from memoserve.files.base import Files
from memoserve.store.columns import MEMORIZED_BY, SCORES, Column, schema_of, with_all
from memoserve.store.parts import Part, read_part

if TYPE_CHECKING:
    import pyarrow as pa

_ALL_MATCH = np.uint32(0xFFFFFFFF)


@dataclass(frozen=True)
class Scores:
    """Scores of one checkpoint, rows in order of `sequence_id`, int64[n].

    columns: each of the other columns of a score by name, [n] in its own type; one that the store lacks is
    None. In one of floats NaN is what was not measured.
    """

    sequence_id: NDArray[np.int64]
    columns: Mapping[str, NDArray[Any] | None]

    @property
    def matches(self) -> NDArray[np.uint8] | None:
        """uint8[n], how many tokens match."""
        return self.columns["matches"]

    @property
    def matched_prefix(self) -> NDArray[np.uint8] | None:
        """uint8[n], how many tokens match before the first that doesn't."""
        return self.columns["matched_prefix"]

    @property
    def match_mask(self) -> NDArray[np.uint32] | None:
        """uint32[n], bit i set: token i of the generation equals the continuation's."""
        return self.columns["match_mask"]

    @property
    def continuation_ll(self) -> NDArray[np.float32] | None:
        """float32[n], in nats."""
        return self.columns["continuation_ll"]

    def as_matches(self) -> Matches:
        """What an engine gave. Only of scores with a matched prefix."""
        return Matches(**{name: self.columns[name] for name in Matches.names()})  # type: ignore[arg-type]


def columns_of(ids: NDArray[np.int64], matches: object) -> dict[str, NDArray[Any] | None]:
    """The columns of scores by name, from an object that has those it gives as attributes, of ids int64[n].

    Raises ValueError for arrays that contradict each other or can't be.
    """
    given = [column.name for column in SCORES if not column.required]
    # Of an engine's answer every column is asked for: a misspelt one must not become NULL without a word.
    found: dict[str, Any] = {
        name: getattr(matches, name) if isinstance(matches, Matches) else getattr(matches, name, None)
        for name in given
    }
    for name, array in found.items():
        if array is not None and np.shape(array) != ids.shape:
            raise ValueError(f"{name} has shape {np.shape(array)}, the ids {ids.shape}")
    mask, count, prefix = found["match_mask"], found["matches"], found["matched_prefix"]
    if mask is not None:
        mask = np.asarray(mask, dtype=np.uint32)
        counted = np.bitwise_count(mask).astype(np.uint8)
        if count is not None and not np.array_equal(count, counted):
            raise ValueError("matches is not the number of bits set in match_mask")
        found |= {"match_mask": mask, "matches": counted}
        if prefix is not None and not np.array_equal(prefix == CONTINUATION, mask == _ALL_MATCH):
            raise ValueError("matched_prefix and match_mask disagree on what is memorized")
    if all(found[name] is None for name in MEMORIZED_BY):
        raise ValueError("neither matched_prefix nor matches: nothing says what is memorized")
    for column in SCORES:
        if (array := found.get(column.name)) is not None:
            _refuse_impossible(column, ids, array)
    return {"sequence_id": ids, **found}


def _refuse_impossible(column: Column, ids: NDArray[np.int64], array: NDArray[Any]) -> None:
    """Raises ValueError for a value above its bound, or one of floats that is NaN or infinitely large."""
    if column.highest is not None and np.ma.any((array < 0) | (array > column.highest)):
        raise ValueError(f"{column.name} must lie in 0..{column.highest}")
    if column.arrow == "float32":
        impossible = np.isnan(array) | np.isposinf(array)
        if np.any(impossible):
            at = int(np.argmax(impossible))
            raise ValueError(
                f"{column.name} of sequence {ids[at]} is {array[at]}: no weights that can be used give that"
            )


def arrow_of(
    values: Mapping[str, NDArray[Any] | None], columns: Iterable[Column], n: int
) -> dict[str, pa.Array]:
    """Arrow arrays of n values for these columns; one without values is NULL, as what a mask hides is."""
    return {column.name: _array(values[column.name], column, n) for column in columns}


def _array(values: NDArray[Any] | None, column: Column, n: int) -> pa.Array:
    import pyarrow as pa

    kind = pa.type_for_alias(column.arrow)
    if values is None:
        return pa.nulls(n, kind)
    # `mask` may be one False for the whole array.
    mask = np.broadcast_to(values.mask, n) if isinstance(values, np.ma.MaskedArray) else None
    return pa.array(np.asarray(values, dtype=column.arrow), kind, mask=mask)


def checked_ids(ids: NDArray[np.int64], first: int, stop: int) -> NDArray[np.int64]:
    """The ids of the part [first, stop), int64[n]. Raises ValueError unless they ascend inside it."""
    ids = np.asarray(ids, dtype=np.int64)
    if not 0 <= first < stop:
        raise ValueError(f"[{first}, {stop}) is not a range of sequence ids")
    if ids.ndim != 1 or (len(ids) and (ids[0] < first or ids[-1] >= stop or np.any(np.diff(ids) <= 0))):
        raise ValueError(f"the ids of a part must ascend inside [{first}, {stop})")
    return ids


def scores_of(table: pa.Table, where: str) -> Scores:
    """The columns of scores as arrays; one that has no value is None.

    Raises BadInput, beginning with `where`, for a column without NaN that only some rows have.
    """
    found: dict[str, Any] = {}
    for wanted in SCORES:
        column = table.column(wanted.name)
        if not wanted.required and column.null_count == len(column):
            found[wanted.name] = None
            continue
        if column.null_count and wanted.arrow != "float32":
            raise BadInput(f"{where.format(wanted.name)}: ask for a range that one kind of run covers")
        found[wanted.name] = column.to_numpy().astype(wanted.arrow, copy=False)
    return Scores(found.pop("sequence_id"), found)


def rows_between(
    files: Files,
    fingerprint: Mapping[str, Any],
    parts: Sequence[Part],
    first: int,
    stop: int,
    columns: tuple[Column, ...],
) -> pa.Table:
    """These columns of the rows of parts with first <= sequence_id < stop; one that a part lacks is NULL.

    Raises BadInput for a damaged part, StoreConflict for a part of an unlike run.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    tables = [
        read_part(files, part, fingerprint, columns)
        for part in parts
        if part.first < stop and first < part.stop
    ]
    if not tables:
        return schema_of(columns).empty_table()
    # A column that a part lacks is not known of the range.
    common = [column for column in columns if all(column.name in table.column_names for table in tables)]
    table = with_all(pa.concat_tables(with_all(table, common) for table in tables), columns)
    ids = table.column("sequence_id")
    return table.filter(pc.and_(pc.greater_equal(ids, first), pc.less(ids, stop)))
