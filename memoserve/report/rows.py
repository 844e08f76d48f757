"""A query's answer as records that JSON can hold, and what a chart has to know about the store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memoserve.catalog import explained, run_query
from memoserve.queries import Query, find_query

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Table:
    """An answer: its query, its columns in order, its rows by column."""

    query: Query
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]


def ask(
    connection: duckdb.DuckDBPyConnection, name: str, values: Mapping[str, object], store: str | Path
) -> Table:
    """Run the query `name`; `values` that it has no parameter for raise BadInput."""
    query = find_query(name)
    result = run_query(connection, query, values, store)
    with explained(store):
        columns = tuple(column[0] for column in result.description or ())
        rows = [dict(zip(columns, map(_plain, row), strict=True)) for row in result.fetchall()]
    return Table(query, columns, rows)


def models_of(connection: duckdb.DuckDBPyConnection, suite: str | None, store: str | Path) -> tuple[str, ...]:
    """The evaluated models of the suite (the first evaluated one), in order of size."""
    with explained(store):
        rows = connection.execute(
            "SELECT model FROM checkpoints WHERE evaluated > 0 AND suite = "
            "coalesce(?, (SELECT min(suite) FROM checkpoints WHERE evaluated > 0)) "
            "GROUP BY model ORDER BY any_value(model_order)",
            [suite],
        ).fetchall()
    return tuple(row[0] for row in rows)


def parameters_for(query: Query, suite: str | None, target: str | None) -> dict[str, str]:
    """A report's suite and target as this query's parameters: as target, checkpoint, or its model."""
    names = {parameter.name for parameter in query.parameters}
    values = {}
    if suite is not None and "suite" in names:
        values["suite"] = suite
    if target is not None:
        if "target" in names:
            values["target"] = target
        elif "checkpoint" in names:
            values["checkpoint"] = target
        elif "model" in names:
            values["model"] = target.partition("@")[0]
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
