"""The options of whatever prints an answer: in which form, and where to."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memoserve.errors import BadInput
from memoserve.queries.output import ENDINGS, Format

if TYPE_CHECKING:
    from memoserve.queries import Answer

FormatOption = Annotated[
    Format | None,
    typer.Option(
        "--format",
        "-f",
        help="table, csv, json, parquet or markdown. Default: as the ending of --output says, else a table.",
        metavar="FORMAT",  # the five of them are broken in the middle of a word
        show_default=False,
    ),
]
OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Write to this file, whole or not at all: .csv, .json, .parquet or .md.",
        show_default=False,
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory", help="Memory that DuckDB may use, such as 4GB. Default: 80% of it.", show_default=False
    ),
]


def chosen_format(form: Format | None, output: Path | None) -> Format:
    """The form that was asked for, or the one of the file's ending. Raises BadInput for an unknown ending."""
    if form is not None:
        return form
    if output is None:
        return "table"
    if output.suffix.lower() not in ENDINGS:
        raise BadInput(
            f"--output {output}: what to write is known by the ending, {', '.join(ENDINGS)}; "
            "for another one say which --format"
        )
    return ENDINGS[output.suffix.lower()]


def write_with_sentences(
    answer: Answer, form: Format | None, output: Path | None, title: str, sentences: list[str]
) -> None:
    """Print the answer; for people with the sentences, for programs without."""
    from memoserve.queries.output import as_csv, as_json, as_markdown, plain, write_text
    from memoserve.queries.table import print_table
    from memoserve.terminal import escape_lines_for_terminal

    below = "".join(f"{line}\n" for line in sentences)
    chosen = chosen_format(form, output)
    if chosen == "parquet":
        raise BadInput(f"--output {output}: this answer is no table of one type a column: take .csv or .json")
    if chosen == "table" and output is None and sys.stdout.isatty():
        print_table(answer, title)
        typer.echo(escape_lines_for_terminal(below), nl=False)
        return
    text = {"table": plain, "csv": as_csv, "json": as_json, "markdown": as_markdown}[chosen](answer)
    if chosen in ("table", "markdown"):
        text = f"{text}\n" + (below if chosen == "table" else below.replace("\n", "\n\n").rstrip() + "\n")
    write_text(text, output)
