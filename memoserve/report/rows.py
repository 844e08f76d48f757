"""A query's answer as records that JSON can hold, and what a chart has to know about the store."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from memoserve.catalog import Catalog, explained
from memoserve.queries import Query, find_query
from memoserve.report.coverage import coverage


@dataclass(frozen=True)
class Table:
    """An answer: its query, its columns in order, its rows by column."""

    query: Query
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]


def ask(catalog: Catalog, name: str, values: Mapping[str, object]) -> Table:
    """Run the query `name`; `values` that it has no parameter for raise BadInput."""
    query = find_query(name)
    result = catalog.query(query, **values)
    with explained(catalog.store):
        columns = tuple(column[0] for column in result.description or ())
        rows = [dict(zip(columns, map(_plain, row), strict=True)) for row in result.fetchall()]
    return Table(query, columns, rows)


def models_of(catalog: Catalog, suite: str | None) -> tuple[str, ...]:
    """The evaluated models of the suite (the first evaluated one), in order of size."""
    evaluated = [one for one in coverage(catalog, suite) if one.evaluated]
    return tuple(dict.fromkeys(one.model for one in evaluated))


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
