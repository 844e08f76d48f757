"""SQL that users wrote: reading only.

DuckDB's own limits (see `connect`) keep a query away from every file outside the store, but a directory
that may be read may be written too: COPY, EXPORT and ATTACH work inside it, and since DuckDB 2.0 a SELECT
can carry a COPY in its WITH clause. So a statement runs only if its kind reads, and if the plan that the
engine made of it (EXPLAIN plans, and runs nothing) holds no operator that writes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memoserve.catalog.connection import explained, readable
from memoserve.errors import BadInput

if TYPE_CHECKING:
    import duckdb

_WRITES = re.compile(
    r"COPY|EXPORT|INSERT|UPDATE|DELETE|MERGE|CREATE|DROP|ALTER|ATTACH|DETACH|LOAD|VACUUM|CHECKPOINT"
)
# Table functions that run a query which the plan doesn't show, or that start writing files (2.0 refuses the
# latter by itself once its configuration is locked, 1.4 does not).
_ACTS = re.compile(r"EXECUTE_SERIALIZED|LOGGING|PROFILING|EXTERNAL_RESOURCE")

_EXPLAIN = "EXPLAIN (FORMAT json) "

_SET_LITERAL = re.compile(r"^\s*SET\s+VARIABLE\s+\w+\s*(?:=|\bTO\b)[^()]*$", re.IGNORECASE)
_LOOKS_ONLY = (
    "memoserve sql only reads: SELECT, FROM, VALUES, WITH, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN, and "
    "SET VARIABLE with a plain value"
)


def execute(connection: duckdb.DuckDBPyConnection, sql: str, store: str | Path) -> duckdb.DuckDBPyConnection:
    """Run the statements of `sql` on a sandboxed connection; the result is the last one's, ready to fetch.

    Raises BadInput, before anything runs, for a statement that doesn't only read, and with DuckDB's
    message for one that is wrong.
    """
    import duckdb

    try:
        statements = duckdb.extract_statements(sql)
    except duckdb.Error as error:
        raise BadInput(readable(error)) from None
    if not statements:
        raise BadInput('there is no statement to run: give one, such as "SELECT * FROM checkpoints"')
    for statement in statements:
        _check_kind(statement)
    with explained(store):
        for statement in statements:
            if statement.type == duckdb.StatementType.SELECT:
                _check_plan(connection, statement.query)
            connection.execute(statement)
    return connection


def _check_kind(statement: duckdb.Statement) -> None:
    import duckdb

    kinds = duckdb.StatementType
    if statement.type == kinds.SELECT:
        return
    if statement.type == kinds.EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains.
        if re.search(r"\banaly[sz]e\b", statement.query, re.IGNORECASE):
            raise BadInput(f"EXPLAIN ANALYZE runs its statement and is refused here. {_LOOKS_ONLY}.")
        return
    if statement.type == kinds.SET and _SET_LITERAL.match(statement.query.strip().rstrip(";")):
        return
    if statement.type == kinds.MULTI:
        raise BadInput(
            "this PIVOT needs a table of its own: list the values (ON column IN (...)), or use GROUP BY "
            "with FILTER"
        )
    raise BadInput(f"{statement.type.name} is refused. {_LOOKS_ONLY}.")


def _check_plan(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    import duckdb

    try:
        rows = connection.execute(f"{_EXPLAIN}{query}").fetchall()
    except duckdb.Error as error:
        raise type(error)(_about_query(str(error))) from None
    for _, plan in rows:
        for operator in _operators(json.loads(plan)):
            if _WRITES.search(operator):
                raise BadInput(f"the statement would write ({operator}). {_LOOKS_ONLY}.")
            if _ACTS.search(operator):
                raise BadInput(f"{operator.lower()} is refused. {_LOOKS_ONLY}.")


def _about_query(message: str) -> str:
    """DuckDB's message about an explained query as it would be about the query itself."""
    lines = message.splitlines()
    for place, line in enumerate(lines):
        if _EXPLAIN in line:
            lines[place] = line.replace(_EXPLAIN, "", 1)
            if place + 1 < len(lines) and lines[place + 1].strip().strip("^") == "":
                lines[place + 1] = lines[place + 1][len(_EXPLAIN) :]
    return "\n".join(lines)


def _operators(plan: Any) -> Iterator[str]:
    """The names of all operators and table functions in a plan, whatever its nesting."""
    if isinstance(plan, list):
        for part in plan:
            yield from _operators(part)
    elif isinstance(plan, dict):
        extra = plan.get("extra_info")
        function = extra.get("Function") if isinstance(extra, dict) else None
        for name in (plan.get("name"), function):
            if isinstance(name, str):
                yield name.strip().upper()
        yield from _operators(plan.get("children"))
