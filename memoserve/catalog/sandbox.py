"""SQL that users wrote: reading the catalog, and nothing else.

DuckDB's own limits (see `connect`) keep a query away from every file outside the store, but a directory
that may be read may be written too: COPY, EXPORT and ATTACH work inside it, and since DuckDB 2.0 a SELECT
can carry a COPY in its WITH clause. So a statement runs only if its kind reads, if what it names is the
catalog's (no file, not even one of the store: the views have what is in them; no table or function that tells
paths or settings), and if the plan that the engine made of it (EXPLAIN plans, and runs nothing) holds no
operator that writes.

What a statement may use up is limited by memoserve.catalog.limits.
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
    # Not the join that DuckDB names PIECEWISE_MERGE_JOIN.
    r"COPY|EXPORT|INSERT|UPDATE|DELETE|(?<!PIECEWISE_)MERGE|CREATE|DROP|ALTER|ATTACH|DETACH|LOAD|VACUUM"
    r"|CHECKPOINT"
)
# Table functions that run a query which the plan doesn't show, or that start writing files (2.0 refuses the
# latter by itself once its configuration is locked, 1.4 does not).
_ACTS = re.compile(r"EXECUTE_SERIALIZED|LOGGING|PROFILING|EXTERNAL_RESOURCE")

_EXPLAIN = "EXPLAIN (FORMAT json) "

LONGEST, MOST_BRACKETS, MOST_DOTS = 50_000, 1_000, 1_000
"""Characters of SQL, and of those that nest. DuckDB's parser takes a time that grows with the square of what
is opened and not closed, and nothing interrupts it."""

_MADE_UP = frozenset({"range", "generate_series", "unnest", "repeat", "repeat_row"})
"""Table functions whose rows come from their arguments."""

# Settings hold paths, logs hold other people's questions. `getenv` is the shell's, but who knows. The plan of
# another statement (json_serialize_plan) has in it what that statement would be refused for.
_TELLTALE = frozenset(
    {
        "current_setting", "getenv", "write_log", "parse_duckdb_log_message", "query", "query_table",
        "which_secret", "json_serialize_plan",
    }
)  # fmt: skip
# DuckDB's tables and functions about itself: the SQL of the views has the store's path in it.
_ABOUT_ITSELF = re.compile(r"(duckdb|pragma|sqlite|pg)_", re.IGNORECASE)
_ABOUT_VALUES = frozenset({"pg_typeof", "pg_size_pretty"})
# As the parser has SHOW TABLES FROM x, TABLES, DATABASES, SCHEMAS, VARIABLES and ALL TABLES.
_SHOWN = frozenset({"", '"tables"', '"databases"', '"schemas"', '"variables"', "__show_tables_expanded"})
_ALLOWED_SCHEMA_VIEWS = frozenset({"tables", "columns"})

_SET_VARIABLE = re.compile(r"\s*SET\s+VARIABLE\s+\w+\s*(?:=|\bTO\b)", re.IGNORECASE)
_PLAIN_EXPLAIN = re.compile(r"\s*EXPLAIN\s+(?:\(\s*FORMAT\s+\w+\s*\)\s*)?(?!\()", re.IGNORECASE)
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

    if len(sql) > LONGEST or sql.count("(") > MOST_BRACKETS or sql.count(".") > MOST_DOTS:
        raise BadInput(
            f"the SQL is too long: {LONGEST:,} characters, {MOST_BRACKETS:,} brackets and {MOST_DOTS:,} dots "
            "are the most"
        )
    statements = _statements(sql)
    if not statements:
        raise BadInput('there is no statement to run: give one, such as "SELECT * FROM checkpoints"')
    for statement in statements:
        _check_kind(statement)
    with explained(store):
        for statement in statements:
            if _kind(statement) == duckdb.StatementType.SELECT:
                _check_names(connection, statement.query)
            if _kind(statement) == duckdb.StatementType.EXPLAIN:
                _check_names(connection, _explained(statement.query))
        for statement in statements:
            if _kind(statement) == duckdb.StatementType.SELECT:
                _check_plan(connection, statement.query)
            connection.execute(statement)
    return connection


def _statements(sql: str) -> list[duckdb.Statement]:
    import duckdb

    try:
        return list(duckdb.extract_statements(sql))
    except duckdb.Error as error:
        raise BadInput(readable(error)) from None
    except (TypeError, ValueError) as error:  # half of a surrogate pair
        raise BadInput(f"this is no text that can be SQL: {error}") from None


def _explained(query: str) -> str:
    """What an EXPLAIN explains: planning evaluates what is constant, so it is looked at as if it ran."""
    import duckdb

    match = _PLAIN_EXPLAIN.match(query)
    inner = _statements(query[match.end() :]) if match is not None else []
    if len(inner) != 1 or _kind(inner[0]) != duckdb.StatementType.SELECT:
        raise BadInput(f"only EXPLAIN SELECT ... (or FROM, VALUES, WITH) is explained here. {_LOOKS_ONLY}.")
    return inner[0].query


def _check_names(connection: duckdb.DuckDBPyConnection, query: str) -> None:
    """Look at every table and function that a statement names, as the parser understood it."""
    (serialized,) = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [query]).fetchone() or ("",)
    try:
        tree = json.loads(serialized)
    except RecursionError:
        raise BadInput("the statement is nested too deeply") from None
    if tree.get("error"):
        raise BadInput(f"the statement can't be looked through ({tree.get('error_message')}). {_LOOKS_ONLY}.")
    macros: set[str] | None = None
    nodes = [tree]
    while nodes:
        node = nodes.pop()
        if isinstance(node, list):
            nodes.extend(node)
            continue
        if not isinstance(node, dict):
            continue
        nodes.extend(node.values())
        kind = node.get("type")
        if kind == "TABLE_FUNCTION":
            function = node.get("function") or {}
            name = str(function.get("function_name")).lower()
            if name not in _MADE_UP:
                # Looking them all up takes longer than many a statement that names none.
                macros = _macros(connection) if macros is None else macros
                if name not in macros:
                    raise BadInput(
                        f"{name}() is refused: SQL here reads the views of the catalog. {_LOOKS_ONLY}."
                    )
        elif kind == "BASE_TABLE":
            _check_table(str(node.get("schema_name") or ""), str(node.get("table_name")))
        elif kind == "SHOW_REF" and node.get("query") is None:
            _check_shown(str(node.get("table_name") or ""))
        name = str(node.get("function_name", "")).lower()
        if name in _TELLTALE or (_ABOUT_ITSELF.match(name) and name not in _ABOUT_VALUES):
            raise BadInput(f"{name}() is refused. {_LOOKS_ONLY}.")


def _macros(connection: duckdb.DuckDBPyConnection) -> set[str]:
    """The table macros of the catalog."""
    rows = connection.execute(
        "SELECT function_name FROM duckdb_functions() WHERE function_type = 'table_macro' AND NOT internal"
    ).fetchall()
    return {name for (name,) in rows}


def _check_table(schema: str, name: str) -> None:
    """Refuse files (DuckDB reads `FROM 'x.parquet'`) and DuckDB's tables about itself."""
    if re.search(r"[./\\:*?\[]", name):
        raise BadInput(f"{name!r} would be a file: SQL here reads the views of the catalog. {_LOOKS_ONLY}.")
    if schema.lower() == "information_schema":
        if name.lower() in _ALLOWED_SCHEMA_VIEWS:
            return
    elif schema.lower() != "pg_catalog" and not _ABOUT_ITSELF.match(name):
        return
    raise BadInput(
        f"{name} is refused: it tells settings or paths. SHOW TABLES, DESCRIBE and "
        "information_schema.columns say what there is."
    )


def _check_shown(name: str) -> None:
    """Refuse `SHOW name`: since DuckDB 2.0 that is a setting, if no table is called so."""
    if name not in _SHOWN:
        raise BadInput(f"SHOW {name} is refused: it may tell a setting. DESCRIBE {name} tells of a table.")


def _check_kind(statement: duckdb.Statement) -> None:
    import duckdb

    kinds, kind = duckdb.StatementType, _kind(statement)
    if kind == kinds.SELECT:
        return
    if kind == kinds.EXPLAIN:
        # EXPLAIN ANALYZE runs what it explains.
        if re.search(r"\banaly[sz]e\b", statement.query, re.IGNORECASE):
            raise BadInput(f"EXPLAIN ANALYZE runs its statement and is refused here. {_LOOKS_ONLY}.")
        return
    if kind == kinds.SET and _sets_a_literal(statement.query):
        return
    if kind == kinds.MULTI:
        raise BadInput(
            "this PIVOT needs a table of its own: list the values (ON column IN (...)), or use GROUP BY "
            "with FILTER"
        )
    raise BadInput(f"{kind.name if kind is not None else 'this statement'} is refused. {_LOOKS_ONLY}.")


def _sets_a_literal(query: str) -> bool:
    """Whether a SET sets a variable to what needs no computing: it has no brackets, except in strings and in
    the comments that follow it (the head of a named query). DuckDB's own lexer tells.
    """
    import duckdb

    if not _SET_VARIABLE.match(query):
        return False
    if not query.isascii():  # the lexer counts bytes
        return "(" not in query and ")" not in query
    return all(query[offset] not in "()" for offset, _ in duckdb.tokenize(query) if offset < len(query))


def _kind(statement: duckdb.Statement) -> duckdb.StatementType | None:
    """None for a kind that DuckDB has and its Python package doesn't name (UPDATE EXTENSIONS in 2.0)."""
    try:
        return statement.type
    except ValueError:
        return None


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
    for number, line in enumerate(lines):
        if _EXPLAIN in line:
            lines[number] = line.replace(_EXPLAIN, "", 1)
            if number + 1 < len(lines) and lines[number + 1].strip().strip("^") == "":
                lines[number + 1] = lines[number + 1][len(_EXPLAIN) :]
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
