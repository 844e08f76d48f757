"""The options of whatever prints an answer: in which form, and where to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memoserve.errors import BadInput
from memoserve.queries.output import ENDINGS, Format

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
