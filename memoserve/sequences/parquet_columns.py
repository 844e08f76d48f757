"""Which columns of a Parquet file hold token ids, and which number the rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from memoserve.errors import BadInput
from memoserve.files.place import Place
from memoserve.sequences.order import MAYBE_NUMBERS

COLUMNS = ("tokens", "input_ids")
"""Columns of token ids. Any other list may be a mask, labels or positions: it must be named."""

PANDAS_INDEX = "__index_level_0__"
"""What pandas writes of a table that was shuffled or filtered: which row each one was."""

ID_COLUMNS = ("sequence_id", "index", PANDAS_INDEX)
"""Columns that number the rows, if they are there: ids are row numbers, so they must be 0, 1, 2 …"""


@dataclass(frozen=True)
class Columns:
    """Which columns hold the token ids (more than one: they must agree), which number the rows, which may."""

    tokens: tuple[str, ...]
    ids: tuple[str, ...]
    maybe: tuple[str, ...]


def columns_shown(schema: Any) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def same_columns(one: Any, other: Any) -> bool:
    """Whether two files have the same columns; a file without rows may not know the type of one (null)."""
    return bool(
        one.names == other.names
        and all(
            first == second or "null" in (str(first), str(second))
            for first, second in zip(one.types, other.types, strict=True)
        )
    )


def columns_in(schema: Any, place: Place, column: str | None) -> tuple[Columns, str]:
    """The columns to read, and the integer type of the token ids. Raises BadInput."""
    import pyarrow

    types = pyarrow.types
    names = schema.names
    fields = {field.name: field for field in schema}

    def is_list(type_: Any) -> bool:
        return bool(types.is_list(type_) or types.is_large_list(type_) or types.is_fixed_size_list(type_))

    wanted = COLUMNS if column is None else (column,)
    there = [fields[name] for name in wanted if name in fields and is_list(fields[name].type)]
    if not there:
        what = " or ".join(f"`{name}`" for name in wanted)
        advice = (
            "; if another column holds the token ids, name it (--tokens-column)" if column is None else ""
        )
        raise BadInput(
            f"{place}: a column {what} of integer lists is needed{advice}; found: {columns_shown(schema)}"
        )
    tokens = [field for field in there if types.is_integer(field.type.value_type)]
    if not tokens:
        raise BadInput(
            f"{place}: column {there[0].name} holds lists of {there[0].type.value_type}, not of integers"
        )
    ids = [fields[name] for name in ID_COLUMNS if name in fields and name != column]
    ids = [f for f in ids if f.name != PANDAS_INDEX or types.is_integer(f.type)]  # pandas takes names, too
    for field in ids:
        if not types.is_integer(field.type):
            raise BadInput(
                f"{place}: its column {field.name} is {field.type}: it must number the rows 0, 1, 2 …, or be "
                "left out"
            )
    used = [field.name for field in (*tokens, *ids)]
    twice = [name for name in used if names.count(name) > 1]
    if twice:
        raise BadInput(f"{place} has more than one column {twice[0]}")
    kinds = "/".join(sorted({str(field.type.value_type) for field in tokens}))
    maybe = [f.name for f in schema if f.name.lower() in MAYBE_NUMBERS and types.is_integer(f.type)]
    maybe = [name for name in maybe if names.count(name) == 1]
    return Columns(tuple(f.name for f in tokens), tuple(f.name for f in ids), tuple(maybe)), kinds
