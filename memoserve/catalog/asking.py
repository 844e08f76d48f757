"""Ask a catalog one of the queries: bind its parameters, execute the file, and add nothing to the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from memoserve.catalog.connection import explained
from memoserve.catalog.sandbox import execute
from memoserve.errors import BadInput, did_you_mean
from memoserve.queries.files import Parameter, Query
from memoserve.queries.identifiers import identifier
from memoserve.queries.parameters import Value, typed_values

if TYPE_CHECKING:
    import duckdb

_LISTED = 30


def run_query(
    connection: duckdb.DuckDBPyConnection, query: Query, values: Mapping[str, object], store: str | Path
) -> duckdb.DuckDBPyConnection:
    """Execute a query on a catalog connection; the result is ready to fetch.

    `values` are the parameters, typed or as text. What comes with memoserve runs as it is; somebody's own
    file only reads (see memoserve.catalog.sandbox). Raises BadInput for an unknown parameter, a value of the
    wrong type, or a suite, model or checkpoint that was not evaluated, saying what there is.
    """
    bound = typed_values(query, values)
    _check_names(connection, query, bound)
    with explained(store):
        for parameter in query.parameters:
            if parameter.name in bound:
                connection.execute(f"SET VARIABLE {identifier(parameter.name)} = ?", [bound[parameter.name]])
            else:
                # The connection may have answered another question before.
                connection.execute(f"RESET VARIABLE {identifier(parameter.name)}")
        if not query.shipped:
            return execute(connection, query.sql, store)
        connection.execute(query.sql)
    return connection


def _check_names(connection: duckdb.DuckDBPyConnection, query: Query, values: Mapping[str, Value]) -> None:
    """Raise BadInput for a suite, model or checkpoint without scores."""
    kinds = {"model", "checkpoint", "checkpoint names"}
    named = [one for one in query.parameters if one.name in values and one.type in kinds]
    if not named and "suite" not in values:
        return
    evaluated = connection.execute(
        "SELECT suite, checkpoint FROM checkpoints WHERE evaluated > 0 ORDER BY suite, model_order, step"
    ).fetchall()
    suites = sorted({suite for suite, _ in evaluated})
    if query.name == "checks":
        # Of a suite without a score too: what failed may be why there is none.
        checked = connection.execute("SELECT DISTINCT suite FROM checks").fetchall()
        suites = sorted({*suites, *(name for (name,) in checked)})
    suite = str(values.get("suite", suites[0] if suites else ""))
    if "suite" in values and suite not in suites:
        raise BadInput(
            f"suite {suite!r} has no scores in this store{did_you_mean(suite, suites)}; it holds "
            f"{_some(suites)}"
        )
    checkpoints = [checkpoint for other, checkpoint in evaluated if other == suite]
    for parameter in named:
        value = values[parameter.name]
        if parameter.type == "model":
            _require_model(connection, suite, str(value), parameter)
            continue
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names:
            raise BadInput(
                f"--{parameter.name} takes checkpoints separated by commas, such as {_some(checkpoints)}"
            )
        for name in names:
            _require(str(name), parameter, checkpoints)


def _require(name: str, parameter: Parameter, evaluated: Sequence[str]) -> None:
    if name not in evaluated:
        raise BadInput(
            f"--{parameter.name} {name}: no such checkpoint is evaluated in this store"
            f"{did_you_mean(name, evaluated)}. Evaluated: {_some(evaluated)}"
        )


def _require_model(
    connection: duckdb.DuckDBPyConnection, suite: str, name: str, parameter: Parameter
) -> None:
    """A model of the suite, evaluated or not."""
    models = [
        model
        for (model,) in connection.execute(
            "SELECT model FROM checkpoints WHERE suite = ? GROUP BY model ORDER BY any_value(model_order)",
            [suite],
        ).fetchall()
    ]
    if name not in models:
        raise BadInput(
            f"--{parameter.name} {name}: no such model is in suite {suite!r}{did_you_mean(name, models)}. "
            f"Models: {_some(models)}"
        )


def _some(names: Sequence[str]) -> str:
    if not names:
        return "nothing yet"
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
