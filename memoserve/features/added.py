"""Tables that somebody else made, keyed by sequence id, as further columns of features."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from memoserve.errors import BadInput, StoreConflict
from memoserve.store import Store
from memoserve.store.features import ADDED, FEATURES, added_name
from memoserve.store.parts import sealed_table

if TYPE_CHECKING:
    import pyarrow as pa

_NAME = re.compile(r"^[a-z][a-z0-9_]{0,62}$")


def add_table(
    store: Store, suite: str, path: Path, name: str, *, id_column: str = "sequence_id", replace: bool = False
) -> tuple[list[str], int]:
    """Put a Parquet file into a store as features of a suite's sequences; the caller holds the lock.

    Its one column of values is called `name`, several are name_column. Returns their names, and how many rows
    there are. Raises BadInput for a table that can't be read, repeats an id, or holds something but numbers;
    StoreConflict for a name that is taken.
    """
    if _NAME.match(name) is None:
        raise BadInput(
            f"--name {name!r}: write small letters, digits and _, a letter first, such as perplexity"
        )
    table = _checked(_read(path), path, name, id_column)
    columns = table.column_names[1:]
    for other in _added(store, suite):
        if other == added_name(suite, name) and replace:
            continue
        taken = set(columns) & set(_columns(store, other))
        if taken or other == added_name(suite, name):
            raise StoreConflict(
                f"{store.files.location(other)} is there already"
                + (f" and has {', '.join(sorted(taken))}" if taken else "")
                + ": give another --name, or replace it with --replace under its own name"
            )
    store.files.write(added_name(suite, name), sealed_table(table, added_name(suite, name)))
    return columns, len(table)


def _read(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} can't be read as Parquet: {(str(error).splitlines() or [''])[0]}") from None


def _checked(table: pa.Table, path: Path, name: str, id_column: str) -> pa.Table:
    """sequence_id and the columns of values under their new names, by ascending id. Raises BadInput."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if id_column not in table.column_names:
        raise BadInput(
            f"{path} has no column {id_column}: it has {', '.join(table.column_names)}; --id names it"
        )
    ids = table.column(id_column)
    if not pa.types.is_integer(ids.type) or ids.null_count:
        raise BadInput(f"{path}: {id_column} must hold whole numbers, one a row; it is {ids.type}, "
                       f"{ids.null_count:,} of them NULL")  # fmt: skip
    table = table.take(pc.sort_indices(ids))
    sorted_ids = table.column(id_column).cast(pa.int64()).to_numpy()
    if len(sorted_ids) and sorted_ids[0] < 0:
        raise BadInput(f"{path}: {id_column} {sorted_ids[0]} is below 0: sequences are numbered from 0")
    again = np.flatnonzero(np.diff(sorted_ids) == 0)
    if len(again):
        raise BadInput(
            f"{path}: {id_column} {sorted_ids[again[0]]} stands there more than once ({len(again):,} rows "
            "too many): one row a sequence"
        )
    values = [column for column in table.column_names if column != id_column]
    if not values:
        raise BadInput(f"{path} has no column beside {id_column}: nothing to add")
    columns = {"sequence_id": pa.array(sorted_ids)}
    for column in values:
        new = name if len(values) == 1 else f"{name}_{column}"
        if new in columns or new == "suite" or new in {feature.name for feature in FEATURES}:
            raise BadInput(f"{new} is a column of features already: give another --name")
        columns[new] = _numbers(table.column(column), path, column)
    return pa.table(columns)


def _numbers(column: pa.ChunkedArray, path: Path, name: str) -> pa.ChunkedArray:
    """A column as int64 or float64, NaN as NULL. Raises BadInput for what are no numbers."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    try:
        if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
            return column.cast(pa.int64())
        if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            numbers = column.cast(pa.float64())
            return pc.if_else(pc.is_nan(numbers), pa.scalar(None, pa.float64()), numbers)
    except pa.ArrowInvalid as error:
        raise BadInput(f"{path}: {name} doesn't fit 64 bits ({error})") from None
    raise BadInput(f"{path}: {name} holds {kind}, and features are numbers")


def _added(store: Store, suite: str) -> list[str]:
    """The names in the store of tables that were added to a suite's features."""
    return [name for name in store.files.below("features") if (m := ADDED.match(name)) and m[1] == suite]


def _columns(store: Store, name: str) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names: list[str] = pq.read_schema(pa.BufferReader(store.files.read(name))).names
    return names[1:]
