"""Run a query file: set its variables, execute it, and add nothing to the answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memoserve.catalog import explained
from memoserve.catalog.connection import quoted
from memoserve.errors import BadInput
from memoserve.queries.files import Parameter, Query

if TYPE_CHECKING:
    import duckdb

_LISTED = 30


@dataclass(frozen=True)
class Answer:
    """A result as it came out of DuckDB."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]


def run_query(
    connection: duckdb.DuckDBPyConnection, query: Query, values: Mapping[str, str], store: str | Path
) -> duckdb.DuckDBPyConnection:
    """Execute a query on a catalog connection; the result is ready to fetch.

    `values` are parameters as text: a name, several separated by commas, a number, or several likewise.
    Raises BadInput for an unknown parameter, a value of the wrong type, or a suite or checkpoint that was
    not evaluated, saying what there is.
    """
    literals = check_parameters(connection, query, values)
    with explained(store):
        for parameter in query.parameters:
            if parameter.name in literals:
                connection.execute(f"SET VARIABLE {parameter.name} = {literals[parameter.name]}")
            else:
                # The connection may have answered another question before.
                connection.execute(f"RESET VARIABLE {parameter.name}")
        connection.execute(query.sql)
    return connection


def check_parameters(
    connection: duckdb.DuckDBPyConnection, query: Query, values: Mapping[str, str]
) -> dict[str, str]:
    """The values as SQL literals, by name. Raises BadInput as run_query says."""
    declared = {parameter.name: parameter for parameter in query.parameters}
    for name in values:
        if name not in declared:
            raise BadInput(
                f"query {query.name} has no parameter {name!r}; its parameters are "
                + ", ".join(f"--{parameter}" for parameter in declared)
            )
    evaluated = connection.execute(
        "SELECT suite, checkpoint FROM checkpoints WHERE evaluated > 0 ORDER BY suite, model_order, step"
    ).fetchall()
    suites = sorted({suite for suite, _ in evaluated})
    if query.name == "checks":
        # Of a suite without a score too: what failed may be why there is none.
        checked = connection.execute("SELECT DISTINCT suite FROM checks").fetchall()
        suites = sorted({*suites, *(name for (name,) in checked)})
    suite = values.get("suite", suites[0] if suites else None)
    if "suite" in values and suite not in suites:
        raise BadInput(f"suite {suite!r} has no scores in this store; it holds {_some(suites)}")
    names = [checkpoint for its_suite, checkpoint in evaluated if its_suite == suite]
    return {name: _literal(declared[name], value, names) for name, value in values.items()}


def _literal(parameter: Parameter, value: str, evaluated: Sequence[str]) -> str:
    if parameter.type == "numbers":
        numbers = [_number(text) for text in _listed(value)]
        if not numbers or None in numbers:
            raise BadInput(f"--{parameter.name} takes numbers separated by commas, not {value!r}")
        return f"[{', '.join(map(repr, numbers))}]"
    if parameter.type == "number":
        number = _number(value)
        if number is None:
            raise BadInput(f"--{parameter.name} takes a number, not {value!r}")
        return repr(number)
    if parameter.type == "whole number":
        if not re.fullmatch(r"0*[1-9][0-9]{0,15}", value):
            raise BadInput(f"--{parameter.name} takes a whole number from 1 on, not {value!r}")
        return str(int(value))
    if "|" in parameter.type:
        choices = parameter.type.split("|")
        if value not in choices:
            raise BadInput(f"--{parameter.name} is {' or '.join(choices)}, not {value!r}")
        return quoted(value)
    if parameter.type == "checkpoint names":
        names = _listed(value)
        if not names:
            raise BadInput(
                f"--{parameter.name} takes checkpoints separated by commas, such as {_some(evaluated)}"
            )
        for name in names:
            _require(name, parameter, evaluated)
        return f"[{', '.join(map(quoted, names))}]"
    if parameter.type == "checkpoint":
        _require(value, parameter, evaluated)
    return quoted(value)


def _require(name: str, parameter: Parameter, evaluated: Sequence[str]) -> None:
    if name not in evaluated:
        raise BadInput(
            f"--{parameter.name} {name}: no such checkpoint is evaluated in this store. "
            f"Evaluated: {_some(evaluated)}"
        )


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _listed(value: str) -> list[str]:
    return [text for text in re.split(r"[,\s]+", value.strip().removeprefix("[").removesuffix("]")) if text]


def _some(names: Sequence[str]) -> str:
    if not names:
        return "nothing yet"
    rest = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")
