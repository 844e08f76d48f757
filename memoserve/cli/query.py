"""`memoserve query`, `memoserve sql`, `memoserve catalog`: ask a store."""

from __future__ import annotations

import shutil
import sys
import textwrap
from pathlib import Path
from typing import Annotated

import typer

from memoserve.cli.answer_options import FormatOption, OutputOption, chosen_format
from memoserve.cli.options import StoreArgument
from memoserve.cli.query_commands import QueryGroup
from memoserve.run.options import Options
from memoserve.terminal import escape_for_terminal

app = typer.Typer(cls=QueryGroup)


@app.callback(invoke_without_command=True)
def query(
    context: typer.Context,
    listing: Annotated[
        bool, typer.Option("--list", "-l", help="List the queries, each with its parameters and an example.")
    ] = False,
    queries: Annotated[
        Path | None,
        typer.Option("--queries", help="A folder with .sql files of your own, beside memoserve's."),
    ] = None,
) -> None:
    """Answer a question with one of the SQL files that come with memoserve, or with your own.

    What it prints is what the file gives in plain DuckDB. `memoserve query --list` says what there is:
    predictors answers which smaller model says best what a large one memorized, equicompute which one to
    run for a given budget. `memoserve query NAME --help` explains one, its parameters and its columns.
    `memoserve query FILE.sql` asks your own, with the parameters that its header declares.
    """
    if listing or context.invoked_subcommand is None:
        _print_list(queries)
        raise typer.Exit


def sql(
    statement: Annotated[str, typer.Argument(help="Statements that read; the last one's answer is printed.")],
    directory: StoreArgument = Options.out,
    form: FormatOption = None,
    output: OutputOption = None,
    memory: Annotated[
        str | None,
        typer.Option(
            "--memory",
            help="Memory it may use, such as 8GB. Default: 4 GiB, or half of what there is.",
            show_default=False,
        ),
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="How long it may take.")] = 600.0,
) -> None:
    """Ask a store your own question in SQL (DuckDB's), without a way to write or to read files.

    The views are checkpoints, scores, memorized, sequences, checks and features.
    """
    from memoserve.catalog import Catalog, default_memory, explained, limited
    from memoserve.queries.output import write_answer

    form = chosen_format(form, output)
    with (
        Catalog.open(directory, memory_limit=memory or default_memory()) as catalog,
        limited(catalog.connection, seconds),
        explained(directory),
    ):
        write_answer(catalog.sql(statement), form, output)


def catalog(
    directory: StoreArgument = Options.out,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The file. Default: DIR/catalog.duckdb.", show_default=False),
    ] = None,
    embed: Annotated[
        bool, typer.Option("--embed", help="Copy the data in, so that the file alone can be handed on.")
    ] = False,
) -> None:
    """Write the catalog as one file for the DuckDB shell and everything else that reads DuckDB.

    It opens from any folder: duckdb FILE, then .read queries/predictors.sql. Without --embed it refers to
    the store where it is now; `checkpoints` is a table as of now, so write it again after a run.
    """
    from memoserve.catalog import write_catalog

    file = write_catalog(directory, output, embed=embed)
    typer.echo(f"{file} ({file.stat().st_size:,} bytes)")


def _print_list(own: Path | None) -> None:
    from memoserve.queries import list_queries

    queries = list_queries(own)
    # In the order of use: what is measured first, then what follows from it.
    groups = dict.fromkeys((*_GROUPS, *(one.group for one in queries)))
    for group in groups:
        members = [one for one in queries if one.group == group]
        if members:
            typer.echo(escape_for_terminal(group))
            typer.echo()
        for one in members:
            typer.echo(escape_for_terminal(f"  {one.name}"))
            _print_filled(one.question)
            for parameter in one.parameters:
                _print_filled(
                    f"--{parameter.name} ({parameter.type}, {parameter.default}): {parameter.meaning}"
                )
            typer.echo(escape_for_terminal(f"    {one.example}"))
            typer.echo()


def _print_filled(text: str) -> None:
    """A line of its own; on a terminal, broken between words."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else len(text) + 8
    for line in textwrap.wrap(
        escape_for_terminal(text), width - 4, subsequent_indent="  ", break_on_hyphens=False
    ):
        typer.echo(f"    {line}")


_GROUPS = (
    "How much is memorized",
    "What predicts it",
    "Which predictor to choose",
    "Over training",
    "Order of training",
    "Agreement",
    "What was verified",
)
