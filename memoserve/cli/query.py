"""`memoserve query`, `memoserve sql`, `memoserve catalog`: ask a store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from memoserve.errors import BadInput

_Format = Literal["table", "csv", "json", "parquet", "markdown"]

_FormatOption = Annotated[_Format, typer.Option("--format", "-f", help="How to print the answer.")]
_OutputOption = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Write to this file, whole or not at all.", show_default=False),
]
_MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory", help="Memory that DuckDB may use, such as 4GB. Default: 80% of it.", show_default=False
    ),
]

# `memoserve query` takes any --parameter that the header of a query file declares.
QUERY_CONTEXT = {"ignore_unknown_options": True}


def query(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME] [DIR] [--PARAMETER VALUE]...",
            help="The query, the store (default memoserve-out), and the parameters that the query declares.",
            show_default=False,
        ),
    ] = None,
    form: _FormatOption = "table",
    output: _OutputOption = None,
    listing: Annotated[
        bool, typer.Option("--list", "-l", help="List the queries and their parameters.")
    ] = False,
    show_sql: Annotated[
        bool, typer.Option("--sql", help="Print the query file instead of running it.")
    ] = False,
    memory: _MemoryOption = None,
) -> None:
    """Answer a question with one of the SQL files that come with memoserve.

    What it prints is what the file gives in plain DuckDB. `memoserve query --list` says what there is:
    predictors answers which smaller model says best what a large one memorized, equicompute which one to
    run for a given budget.
    """
    from memoserve.catalog import connect, explained, run_query
    from memoserve.queries import find_query
    from memoserve.queries.output import write_answer
    from memoserve.store import DEFAULT_STORE

    words, values = _split(arguments or [])
    if listing or not words:
        _print_list()
        return
    # Beside the paper's own figures there is a query of its own, where the paper has figures.
    compared = values.pop("compare", None)
    if compared is not None and (compared, words[0]) != ("paper", "predictors"):
        raise BadInput(
            "--compare sets predictors beside the paper: memoserve query predictors --compare paper"
        )
    chosen = find_query(words[0] if compared is None else f"{words[0]}_vs_{compared}")
    if show_sql:
        typer.echo(chosen.sql, nl=False)
        return
    if len(words) > 2:
        raise BadInput(f"one query and one store at a time, not {' '.join(words)}")
    store = words[1] if len(words) == 2 else os.environ.get("MEMOSERVE_OUT") or DEFAULT_STORE
    with connect(store, memory_limit=memory) as connection, explained(store):
        result = run_query(connection, chosen, values, store)
        write_answer(result, form, output, chosen.question)


def sql(
    statement: Annotated[str, typer.Argument(help="Statements that read; the last one's answer is printed.")],
    directory: Annotated[
        str, typer.Argument(metavar="[DIR]", help="The store: a directory or a URL.", envvar="MEMOSERVE_OUT")
    ] = "memoserve-out",
    form: _FormatOption = "table",
    output: _OutputOption = None,
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

    The views are checkpoints, scores, memorized, sequences and checks.
    """
    from memoserve.catalog import connect, default_memory, execute, explained, limited
    from memoserve.queries.output import write_answer

    with (
        connect(directory, memory_limit=memory or default_memory()) as connection,
        limited(connection, seconds),
        explained(directory),
    ):
        write_answer(execute(connection, statement, directory), form, output)


def catalog(
    directory: Annotated[
        str, typer.Argument(metavar="[DIR]", help="The store: a directory or a URL.", envvar="MEMOSERVE_OUT")
    ] = "memoserve-out",
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


def _split(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Plain words, and --name value or --name=value pairs."""
    words: list[str] = []
    values: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        if not argument.startswith("-"):
            words.append(argument)
            continue
        name, equals, value = argument.lstrip("-").partition("=")
        if not argument.startswith("--") or not name:
            raise BadInput(
                f"{argument!r} is no option of memoserve query; a parameter is given as --name value"
            )
        if not equals:
            following = next(rest, None)
            if following is None:
                raise BadInput(f"--{name} lacks its value")
            value = following
        if name in values:
            raise BadInput(f"--{name} is given twice")
        values[name] = value
    return words, values


def _print_list() -> None:
    from memoserve.queries import list_queries

    for one in list_queries():
        typer.echo(f"{one.name}\n  {one.question}")
        for parameter in one.parameters:
            typer.echo(f"  --{parameter.name} ({parameter.type}, {parameter.default}): {parameter.meaning}")
