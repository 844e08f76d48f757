"""Answers as text: a table for people, plain text for pipes, CSV, JSON, Markdown and Parquet for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
import warnings
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memoserve.errors import BadInput
from memoserve.files.whole import writing
from memoserve.queries.answer import Answer
from memoserve.queries.numbers import cells_of, numeric_columns
from memoserve.terminal import escape_for_terminal, escape_lines_for_terminal

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

Format = Literal["table", "csv", "json", "parquet", "markdown"]
ENDINGS: dict[str, Format] = {".csv": "csv", ".json": "json", ".parquet": "parquet", ".md": "markdown"}
"""What the end of a file's name says."""


def write_answer(
    result: duckdb.DuckDBPyConnection,
    form: Format,
    output: Path | None,
    title: str | None = None,
) -> None:
    """Write a pending result to a file, whole or not at all, or to standard output.

    Raises BadInput for Parquet onto a terminal, StorageFailed if the file system refuses.
    """
    if form == "parquet":
        _write_parquet(result, output)
        return
    answer = fetch(result)
    if form == "table" and output is None and sys.stdout.isatty():
        from memoserve.queries.table import print_table

        print_table(answer, title)
        return
    write_text(
        {"table": plain, "csv": as_csv, "json": as_json, "markdown": as_markdown}[form](answer), output
    )


def write_text(text: str, output: Path | None) -> None:
    """Write lines to a file, whole or not at all, or to standard output; escaped where that is a terminal.

    Raises StorageFailed if the file system refuses.
    """
    if output is None:
        sys.stdout.write(escape_lines_for_terminal(text) if sys.stdout.isatty() else text)
        return
    with writing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def fetch(result: duckdb.DuckDBPyConnection) -> Answer:
    """All rows of a pending result."""
    return Answer(tuple(column[0] for column in result.description or ()), result.fetchall())


def arrow_table(result: duckdb.DuckDBPyConnection) -> pa.Table:
    """A pending result as an Arrow table, column by column."""
    # 1.x has only the older name.
    to_arrow: Any = getattr(result, "to_arrow_table", None) or getattr(result, "fetch_arrow_table", None)
    with warnings.catch_warnings():
        # DuckDB 2 warns that this copies the rows once more.
        warnings.simplefilter("ignore", UserWarning)
        return to_arrow()


def as_csv(answer: Answer) -> str:
    """RFC 4180, with a header; NULL is an empty field."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(answer.columns)
    rows.writerows([["" if value is None else exact(value) for value in row] for row in answer.rows])
    return text.getvalue()


def as_json(answer: Answer) -> str:
    """A list of objects, one a row; NULL, NaN and infinity are null."""
    rows = [
        {name: jsonable(value) for name, value in zip(answer.columns, row, strict=True)}
        for row in answer.rows
    ]
    lines = ",\n".join("  " + _json_line(row) for row in rows)
    return f"[\n{lines}\n]\n" if rows else "[]\n"


def _json_line(row: dict[str, Any]) -> str:
    """Text that people can read stays as it is, what a terminal could obey is escaped as JSON does that."""
    text = json.dumps(row, ensure_ascii=False)
    return (
        text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)
    )


def as_markdown(answer: Answer) -> str:
    """A pipe table with numbers for people."""
    cells = cells_of(answer)
    align = ["---:" if numeric else "---" for numeric in numeric_columns(answer)]
    rows = [[escape_for_terminal(name) for name in answer.columns], align, *cells]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def plain(answer: Answer) -> str:
    """Columns aligned with spaces, every column, no colours, no wrapping: the same wherever it goes."""
    table = [[escape_for_terminal(name) for name in answer.columns], *cells_of(answer)]
    widths = [max(len(row[i]) for row in table) for i in range(len(answer.columns))]
    numeric = numeric_columns(answer)
    lines = []
    for row in table:
        cells = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines) + "\n"


def _write_parquet(result: duckdb.DuckDBPyConnection, output: Path | None) -> None:
    import pyarrow.parquet as pq

    if output is None and sys.stdout.isatty():
        raise BadInput("Parquet is no text for a terminal: name a file with -o, or pipe it")
    table = arrow_table(result)
    if output is None:
        content = io.BytesIO()
        pq.write_table(table, content, compression="zstd")
        sys.stdout.buffer.write(content.getvalue())
        return
    with writing(output) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def exact(value: Any) -> Any:
    """A value as CSV has it, with all its digits."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict | tuple):
        return json.dumps(jsonable(value), ensure_ascii=False)
    return value


def jsonable(value: Any) -> Any:
    """A value as JSON has it: NaN and infinity are null, dates and the like are text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    if isinstance(value, dict):
        return {str(key): jsonable(part) for key, part in value.items()}
    return value.hex() if isinstance(value, bytes) else str(value)
