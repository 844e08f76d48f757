"""An answer as a table on a terminal, which never breaks a number or a name.

Columns that don't fit are left out, counts before shares, the rightmost first, and named below; what can't
do with that stands one value a line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO

from rich.console import Console
from rich.text import Text

from memoserve.queries.answer import Answer
from memoserve.queries.numbers import human, numeric_columns, whole_columns
from memoserve.terminal import escape_for_terminal

_PROSE = 30
"""Characters from which on text with spaces may go on in a next line, between its words."""


@dataclass(frozen=True)
class _Column:
    """A column as it is shown: each cell's lines. `least` and `most`: what width it needs, and can use."""

    name: str
    heading: str
    cells: list[list[str]]
    right: bool
    measure: bool
    prose: bool
    least: int
    most: int


def table_text(answer: Answer, title: str | None, elsewhere: str) -> str:
    """What print_table prints, as text as wide as the terminal, or 80 columns."""
    text = StringIO()
    # In a notebook a console would show what it prints, whatever its file is.
    console = Console(file=text, highlight=False, force_terminal=False, force_jupyter=False)
    print_table(answer, title, console, elsewhere)
    return text.getvalue()


def print_table(
    answer: Answer,
    title: str | None,
    console: Console | None = None,
    elsewhere: str = "--format json has them",
) -> None:
    """Print an answer for people: a table a unit, intervals below values, what never changes printed once.

    `elsewhere`: where the columns are that don't fit.
    """
    console = console or Console(highlight=False)
    if title is not None:
        console.print(Text(title, style="bold"))
    if not answer.rows:
        console.print("no rows", style="dim")
        return
    shown, constant, same = _compact(answer)
    index_of = {name: index for index, name in enumerate(answer.columns)}
    whole = dict(zip(answer.columns, whole_columns(answer), strict=True))
    for name in constant:
        value = human(name, answer.rows[0][index_of[name]], whole=whole[name])
        console.print(Text(f"{escape_for_terminal(name).replace('_', ' ')}: {value}"), soft_wrap=True)
    for name, other in same.items():
        note = f"{name.replace('_', ' ')}: here the same as {other.replace('_', ' ')}"
        console.print(Text(escape_for_terminal(note)))
    lists = {
        name for name in shown if any(isinstance(row[index_of[name]], list | dict) for row in answer.rows)
    }
    left_out = [name for name in shown if name in lists]
    shown = [name for name in shown if name not in lists]
    parts: dict[str | None, list[int]] = {None: list(range(len(answer.rows)))}
    if "unit" in shown:
        # Sequences and windows are never compared with each other.
        parts = {}
        for index, row in enumerate(answer.rows):
            parts.setdefault(str(row[index_of["unit"]]), []).append(index)
        shown.remove("unit")
    columns = [_column(answer, name, whole[name]) for name in shown]
    fitting = _fitting(columns, console.width)
    left_out += [one.name for one in columns if one not in fitting] if fitting else []
    for unit, rows in parts.items():
        if unit is not None:
            console.print(Text(f"\nin {escape_for_terminal(unit)}"))
        if fitting:
            _print_aligned(console, fitting, rows)
        else:
            _print_stacked(console, columns, rows)
    if left_out:
        names = ", ".join(escape_for_terminal(name) for name in left_out)
        console.print(Text(f"not shown here: {names} ({elsewhere})"))


def _column(answer: Answer, name: str, whole: bool) -> _Column:
    index_of = {other: index for index, other in enumerate(answer.columns)}
    ends = [index_of[end] for end in (f"{name}_low", f"{name}_high") if end in index_of]
    cells = []
    for row in answer.rows:
        lines = [human(name, row[index_of[name]], whole=whole)]
        if len(ends) == 2 and all(row[end] is not None for end in ends):
            lines.append("-".join(_end(row[end]) for end in ends))
        cells.append(lines)
    heading = escape_for_terminal(name).replace("_", " ").replace("parameters", "params")
    most = max(len(line) for lines in cells for line in lines)
    prose = most > _PROSE and any(" " in line for lines in cells for line in lines)
    least = max((len(word) for lines in cells for line in lines for word in line.split()), default=0)
    values = [row[index_of[name]] for row in answer.rows]
    headed = max(map(len, heading.split()), default=0)
    return _Column(
        name,
        heading,
        cells,
        right=numeric_columns(answer)[index_of[name]],
        measure=len(ends) == 2 or any(isinstance(value, float) for value in values),
        prose=prose,
        least=max(headed, min(most, max(least, _PROSE)) if prose else most),
        most=max(headed, most),
    )


def _fitting(columns: Sequence[_Column], width: int) -> list[_Column]:
    """The columns that fit beside each other, in their order; none if fewer than half of them do."""
    named = 0
    while named < len(columns) and not columns[named].right and not columns[named].measure:
        named += 1
    # The last to go first: counts, then other names, then shares; what the rows are called stays.
    going = sorted(range(max(named, 1), len(columns)), key=lambda index: (_worth(columns[index]), -index))
    kept = list(range(len(columns)))
    while _width([columns[index] for index in kept]) > width and going:
        kept.remove(going.pop(0))
    chosen = [columns[index] for index in kept]
    # Where most would be missing, a line a value says more.
    if _width(chosen) > width or 2 * len(kept) < len(columns):
        return []
    return chosen


def _worth(column: _Column) -> int:
    return 2 if column.measure else 1 if not column.right else 0


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.least for column in columns) + 2 * (len(columns) - 1)


def _print_aligned(console: Console, columns: Sequence[_Column], rows: Sequence[int]) -> None:
    spare = console.width - _width(columns)
    widths = []
    for column in columns:
        more = min(spare, column.most - column.least) if column.prose else 0
        spare -= more
        widths.append(column.least + more)
    headings = [_wrapped(column.heading, width) for column, width in zip(columns, widths, strict=True)]
    tallest = max(map(len, headings))
    # At the foot of the heading, as the numbers below are read from there.
    _print_lines(console, columns, widths, [[""] * (tallest - len(one)) + one for one in headings], "bold")
    console.print(Text("  ".join("-" * width for width in widths), style="dim"), no_wrap=True, crop=False)
    for row in rows:
        cells = []
        for column, width in zip(columns, widths, strict=True):
            lines = column.cells[row]
            cells.append(
                [part for line in lines for part in _wrapped(line, width)] if column.prose else lines
            )
        _print_lines(console, columns, widths, cells, "")


def _print_lines(
    console: Console, columns: Sequence[_Column], widths: Sequence[int], cells: list[list[str]], style: str
) -> None:
    for index in range(max(map(len, cells))):
        line = Text()
        for column, width, lines in zip(columns, widths, cells, strict=True):
            text = lines[index] if index < len(lines) else ""
            dim = not style and index > 0 and not column.prose
            line.append(text.rjust(width) if column.right else text.ljust(width), "dim" if dim else style)
            line.append("  ")
        line.rstrip()
        console.print(line, no_wrap=True, crop=False, soft_wrap=True)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines of at most that width, broken between words only."""
    import textwrap

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]


def _print_stacked(console: Console, columns: Sequence[_Column], rows: Sequence[int]) -> None:
    """A line a value: what the terminal breaks then is only what is longer than it is wide."""
    margin = max(len(column.heading) for column in columns)
    for row in rows:
        console.print()
        for column in columns:
            text = Text(f"{column.heading:{margin}}  ", style="bold")
            text.append("  ".join(column.cells[row]), "")
            console.print(text, soft_wrap=True)


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
    if len(answer.rows) == 1:  # which says nothing about what changes, or changes together
        return shown, [], {}
    values = {
        name: [row[index] for row in answer.rows]
        for index, name in enumerate(answer.columns)
        if name in shown
    }
    constant = [
        name
        for name in shown
        # Not by a set: a list has no hash.
        if name != "unit" and all(value == values[name][0] for value in values[name])
    ]
    shown = [name for name in shown if name not in constant]
    same = {
        name: later
        for index, name in enumerate(shown)
        for later in shown[index + 1 :]
        if values[name] == values[later]
    }
    rest = [name for name in shown if name not in same]
    if rest in ([], ["unit"]):
        return (
            [name for name in answer.columns if name not in ends],
            [],
            {},
        )  # there is nothing to tell rows by
    return rest, constant, same
