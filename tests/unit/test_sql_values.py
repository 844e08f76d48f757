"""No value gets into SQL as text: all that memoserve asks a database is constant, or bound."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "memoserve"

ASKS = {"execute", "executemany", "sql", "query", "rows", "from_query"}
"""Methods of connections and of the catalog that take SQL first."""

SQL = re.compile(
    r"\b(SELECT|FROM|WHERE|JOIN|UNION|HAVING|(GROUP|ORDER) BY|LIMIT|VALUES|COPY|ATTACH|DETACH|INSERT|UPDATE"
    r"|DELETE|CREATE|DROP|ALTER|PRAGMA|EXPLAIN|DESCRIBE|(RE)?SET|CALL|PREPARE|WITH)\b"
)

# What is allowed though it doesn't look constant: by file and function, how many times, and why.
ALLOWED = {
    ("api.py", "Store.query"): (1, "the query's name or file goes to Catalog.query, which finds it"),
    ("api.py", "Store.sql"): (1, "somebody's own SQL, which the sandbox looks through"),
    ("catalog/asking.py", "run_query"): (1, "the SQL of a query file, which is read and not made"),
    ("catalog/catalog.py", "Catalog.rows"): (1, "its callers' SQL, which this test looks at there"),
    ("catalog/catalog.py", "Catalog.records"): (1, "a query by name or as read from its file"),
    ("catalog/connection.py", "create_views"): (
        3,
        "DuckDB binds nothing in CREATE VIEW: the store's path stands in it as a literal, and columns and "
        "tables added to features by their names, which are letters of identifiers",
    ),
    ("catalog/sandbox.py", "execute"): (1, "a statement of somebody's own, after it was looked through"),
    ("catalog/sandbox.py", "_check_plan"): (1, "EXPLAIN in front of somebody's own statement"),
    ("catalog/sandbox.py", "_check_shown"): (1, "words to people"),
    ("catalog/sandbox.py", "_check_table"): (1, "words to people"),
    ("cli/query.py", "sql"): (1, "somebody's own SQL, which the sandbox looks through"),
    ("cli/query_commands.py", "_ask"): (1, "a query as read from its file"),
    ("forecast/table.py", "Table._ranges"): (
        1,
        "the SQL of _rows_sql: of columns only, through identifier()",
    ),
    ("imports/csv_parts.py", "_one"): (1, "its callers' SQL, which are constants"),
    ("queries/result.py", "Result._asked"): (1, "names of columns, through identifier()"),
    ("queries/result.py", "Result._pending"): (1, "the SQL of _asked"),
    ("queries/result.py", "Result.df"): (1, "the SQL of _asked"),
    ("queries/result.py", "Result.pl"): (1, "the SQL of _asked"),
    ("report/rows.py", "ask"): (1, "a query by name"),
    ("sequences/parquet.py", "ParquetSequences._rows"): (1, "rows of a file, no SQL"),
    ("serve/answers/questions.py", "checkpoints"): (1, "one of memoserve's own files"),
    ("serve/answers/questions.py", "query"): (1, "a query as found by its name"),
    ("serve/answers/questions.py", "sql"): (1, "somebody's own SQL, which the sandbox looks through"),
}


def functions(tree: ast.AST, inside: str = "") -> Iterator[tuple[str, ast.AST]]:
    """Every node with the name of the function or class that it stands in."""
    for child in ast.iter_child_nodes(tree):
        name = inside
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{inside}.{child.name}" if inside else child.name
        yield name, child
        yield from functions(child, name)


def constant(node: ast.AST) -> bool:
    """Whether it is text of the program's own: a literal, a constant, a file of SQL, a quoted name."""
    match node:
        case ast.Constant():
            return True
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.isupper()
        case ast.Subscript(value=of):
            return constant(of)
        case ast.Call(func=ast.Name(id="statement" | "identifier")):
            return True
        case ast.Call(func=ast.Name(id="map"), args=[ast.Name(id="identifier"), _]):
            return True
        case ast.Call(func=ast.Attribute(value=of, attr="join"), args=[parts]):
            return constant(of) and constant(parts)
        case ast.JoinedStr(values=parts):
            return all(constant(part) for part in parts)
        case ast.FormattedValue(value=value):
            return constant(value)
        case ast.BinOp(left=left, op=ast.Add() | ast.Mod(), right=right):
            return constant(left) and constant(right)
        case ast.IfExp(body=one, orelse=other):
            return constant(one) and constant(other)
    return False


def text_of(node: ast.AST) -> str:
    return " ".join(
        one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and isinstance(one.value, str)
    )


def made_up(node: ast.AST) -> str | None:
    """What is put together at run time, with the text that it is put together from."""
    match node:
        case ast.JoinedStr():
            return None if constant(node) else text_of(node)
        case ast.BinOp(left=left, op=ast.Add() | ast.Mod(), right=right):
            return None if constant(node) else text_of(left) + text_of(right)
        case ast.AugAssign(op=ast.Add(), value=value):
            return text_of(value)
        case ast.Call(func=ast.Attribute(value=of, attr="format" | "join" | "replace" | "substitute")):
            return None if constant(node) else text_of(of)
    return None


def values_in_sql(source: str) -> list[tuple[str, int]]:
    """(function, line) of everything that may put a value into SQL."""
    found = []
    for function, node in functions(ast.parse(source)):
        text = made_up(node)
        if text is not None and SQL.search(text):
            found.append((function, node.lineno))  # type: ignore[attr-defined]
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ASKS
            and node.args
            and not constant(node.args[0])
        ):
            found.append((function, node.lineno))
    return found


def test_no_value_stands_in_sql() -> None:
    found = Counter(
        (str(file.relative_to(PACKAGE)), function)
        for file in sorted(PACKAGE.rglob("*.py"))
        for function, _ in values_in_sql(file.read_text())
    )
    assert found == {place: times for place, (times, _) in ALLOWED.items()}


@pytest.mark.parametrize(
    "source",
    [
        'c.execute(f"SELECT {x}")',
        'c.execute("SELECT " + x)',
        'c.execute("SELECT %s" % x)',
        'c.execute("SELECT {}".format(x))',
        'sql = f"SELECT 1 FROM t WHERE a = {x}"\nc.execute(sql)',
        'sql = "SELECT 1"\nsql += f" LIMIT {x}"',
        'sql = " ".join(["SELECT", x])\nc.sql(sql)',
        "c.execute(anything)",
        'catalog.rows(f"COPY t TO {quoted(path)}")',
        'S = "SELECT @X@".replace("@X@", x)',
    ],
)
def test_what_would_put_one_there_is_found(source: str) -> None:
    assert values_in_sql(source)


@pytest.mark.parametrize(
    "source",
    [
        'c.execute("SELECT ?", [x])',
        'c.execute(statement(__file__, "cell"), {"x": x})',
        'c.execute(f"SELECT * FROM {identifier(x)}")',
        'c.execute(f"SELECT {_GOOD} FROM t")',
    ],
)
def test_what_is_bound_or_constant_is_not(source: str) -> None:
    assert values_in_sql(source) == []
