"""Answers as text: a table for people, plain text for pipes, CSV, JSON, Markdown and Parquet for programs."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
import warnings
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memoserve.errors import BadInput
from memoserve.files.whole import writing
from memoserve.queries.answer import Answer
from memoserve.terminal import harmless, harmless_lines

if TYPE_CHECKING:
    import duckdb
    from rich.table import Table

Format = Literal["table", "csv", "json", "parquet", "markdown"]

# Numbers that name something rather than count it.
_NAMES = {"step", "score", "suite", "first", "last"}


def write_answer(
    result: duckdb.DuckDBPyConnection, form: Format, output: Path | None, title: str | None = None
) -> None:
    """Write a pending result to a file, whole or not at all, or to standard output.

    Raises BadInput for Parquet onto a terminal, StorageFailed if the file system refuses.
    """
    if form == "parquet":
        _write_parquet(result, output)
        return
    answer = fetch(result)
    if form == "table" and output is None and sys.stdout.isatty():
        print_table(answer, title)
        return
    write_text(
        {"table": plain, "csv": as_csv, "json": as_json, "markdown": as_markdown}[form](answer), output
    )


def write_text(text: str, output: Path | None) -> None:
    """Write lines to a file, whole or not at all, or to standard output; harmless where that is a terminal.

    Raises StorageFailed if the file system refuses.
    """
    if output is None:
        sys.stdout.write(harmless_lines(text) if sys.stdout.isatty() else text)
        return
    with writing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")


def fetch(result: duckdb.DuckDBPyConnection) -> Answer:
    """All rows of a pending result."""
    return Answer(tuple(column[0] for column in result.description or ()), result.fetchall())


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
    cells = _cells(answer)
    align = ["---:" if numeric else "---" for numeric in _numeric(answer)]
    rows = [[harmless(name) for name in answer.columns], align, *cells]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def plain(answer: Answer) -> str:
    """Columns aligned with spaces, every column, no colours, no wrapping: the same wherever it goes."""
    table = [[harmless(name) for name in answer.columns], *_cells(answer)]
    widths = [max(len(row[i]) for row in table) for i in range(len(answer.columns))]
    numeric = _numeric(answer)
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
    # 1.x has only the older name.
    to_arrow: Any = getattr(result, "to_arrow_table", None) or getattr(result, "fetch_arrow_table", None)
    with warnings.catch_warnings():
        # DuckDB 2 warns that this copies the rows once more.
        warnings.simplefilter("ignore", UserWarning)
        table = to_arrow()
    if output is None:
        content = io.BytesIO()
        pq.write_table(table, content, compression="zstd")
        sys.stdout.buffer.write(content.getvalue())
        return
    with writing(output) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def print_table(answer: Answer, title: str | None) -> None:
    """Print an answer for people: a table a unit, intervals below values, what never changes said once."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    if title is not None:
        console.print(Text(title, style="bold"))
    if not answer.rows:
        console.print("no rows", style="dim")
        return
    shown, constant, same = _compact(answer)
    places = {name: place for place, name in enumerate(answer.columns)}
    for name in constant:
        value = human(name, answer.rows[0][places[name]])
        console.print(Text(f"{harmless(name).replace('_', ' ')}: {value}"))
    for name, other in same.items():
        said = f"{name.replace('_', ' ')}: here the same as {other.replace('_', ' ')}"
        console.print(Text(harmless(said)))
    if "unit" not in shown:
        console.print(_table(answer, answer.rows, shown))
        return
    # Sequences and windows are never compared with each other.
    for unit in dict.fromkeys(row[places["unit"]] for row in answer.rows):
        console.print(Text(f"\nin {harmless(str(unit))}"))
        rows = [row for row in answer.rows if row[places["unit"]] == unit]
        console.print(_table(answer, rows, [name for name in shown if name != "unit"]))


def _table(answer: Answer, rows: list[tuple[Any, ...]], shown: list[str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    numeric = dict(zip(answer.columns, _numeric(answer), strict=True))
    places = {name: place for place, name in enumerate(answer.columns)}
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    for name in shown:
        table.add_column(
            Text(harmless(name).replace("_", " ").replace("parameters", "params")),
            justify="right" if numeric[name] else "left",
            overflow="fold",
        )
    for row in rows:
        cells = []
        for name in shown:
            cell = Text(human(name, row[places[name]]))
            low, high = (
                row[places[end]] if end in places else None for end in (f"{name}_low", f"{name}_high")
            )
            if low is not None and high is not None:
                cell.append(f"\n{_end(low)}-{_end(high)}", style="dim")
            cells.append(cell)
        table.add_row(*cells)
    return table


def _end(share: float) -> str:
    """An end of an interval: .168, .0021."""
    return (f"{share:.4f}" if 0 < share < 0.01 else f"{share:.3f}").removeprefix("0")


def _compact(answer: Answer) -> tuple[list[str], list[str], dict[str, str]]:
    """What a table of many columns shows: (columns, those with one value, those equal to a later column).

    Steps and FLOPs are left out where a checkpoint's name and a share of FLOPs say them.
    """
    ends = {f"{name}{end}" for name in answer.columns for end in ("_low", "_high")}
    shown = [name for name in answer.columns if name not in ends]
    if len(shown) <= 8:
        return shown, [], {}
    if "flops_share" in shown:
        ends.add("training_flops")
    if "checkpoint" in shown or "predictor" in shown:
        ends.add("step")
    shown = [name for name in shown if name not in ends]
    values = {
        name: [row[place] for row in answer.rows]
        for place, name in enumerate(answer.columns)
        if name in shown
    }
    constant = [
        name for name in shown if len(answer.rows) > 1 and name != "unit" and len(set(values[name])) == 1
    ]
    shown = [name for name in shown if name not in constant]
    same = {
        name: later
        for place, name in enumerate(shown)
        for later in shown[place + 1 :]
        if values[name] == values[later]
    }
    return [name for name in shown if name not in same], constant, same


def human(name: str, value: Any) -> str:
    """A value for people: 1,234,567 counts, 70.4M parameters, 0.956 shares, 1.32e+20 FLOPs, text on one line
    that no terminal obeys.
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        if name in _NAMES or name.endswith("_id"):
            return str(value)
        if name.startswith("parameters"):
            return _short(value)
        return f"{value:,}"
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        size = abs(value)
        if not math.isfinite(value):
            return str(value)
        if value == 0:
            return "0"
        if size >= 1e6 or size < 1e-4:
            return f"{value:.2e}"
        return f"{value:.4f}" if size < 0.1 else f"{value:.3f}" if size < 10 else f"{value:,.1f}"
    return harmless(str(value))


def _short(value: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)


def _cells(answer: Answer) -> list[list[str]]:
    return [
        [human(name, value) for name, value in zip(answer.columns, row, strict=True)] for row in answer.rows
    ]


def _numeric(answer: Answer) -> list[bool]:
    def of(place: int) -> bool:
        values: Sequence[Any] = [row[place] for row in answer.rows if row[place] is not None]
        return bool(values) and all(
            isinstance(value, int | float | Decimal) and not isinstance(value, bool) for value in values
        )

    return [of(place) for place in range(len(answer.columns))]


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
