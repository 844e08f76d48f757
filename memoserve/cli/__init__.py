"""The command line. Exit codes: 0 done, 1 a defect of memoserve, 2 usage, and those of memoserve.errors.

A command's function is as long as its list of options, which Typer reads from the signature: what it does
is a few lines of it, and options of several commands are in memoserve.cli.options.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated

import typer
from typer.models import CommandInfo, TyperInfo

from memoserve.cli.completion import mending_bash
from memoserve.cli.doctor import doctor
from memoserve.cli.export import export
from memoserve.cli.features import app as features
from memoserve.cli.forecast import forecast
from memoserve.cli.imports import app as imports
from memoserve.cli.query import app as query
from memoserve.cli.query import catalog, sql
from memoserve.cli.recommend import recommend, scaling
from memoserve.cli.report import plot, report
from memoserve.cli.run import run
from memoserve.cli.sequences import app as sequences
from memoserve.cli.serve import serve
from memoserve.cli.show import show
from memoserve.cli.status import status
from memoserve.cli.suite import app as suite
from memoserve.cli.verify import verify
from memoserve.errors import MemoserveError, as_user_error
from memoserve.terminal import escape_lines_for_terminal, without_markup

app = typer.Typer(
    name="memoserve",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        from memoserve import __version__

        typer.echo(f"memoserve {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    traceback: Annotated[
        bool, typer.Option("--traceback", help="Show Python's traceback of an error.")
    ] = False,
) -> None:
    """Measure memorization in language models, and forecast it from cheaper runs.

    Exit codes: 0 done, 1 unexpected error, 2 wrong usage, 3 bad input, 4 not a store or an unlike run,
    5 no engine or it failed, 6 some checkpoints failed, 7 disk or file system, 130 interrupted.
    """
    if traceback:
        os.environ["MEMOSERVE_TRACEBACK"] = "1"


def _add(*functions: Callable[..., None]) -> None:
    for function in functions:
        app.command()(function)


def _explain(group: typer.Typer) -> None:
    """Help of docstrings: its paragraphs are filled to the width of a terminal, and what stands in brackets,
    as memoserve[report], is no style.
    """
    callback = group.registered_callback
    explained: list[CommandInfo | TyperInfo] = [*group.registered_commands, *([callback] if callback else [])]
    for one in explained:
        paragraphs = (inspect.getdoc(one.callback) or "").split("\n\n")
        one.help = without_markup("\n\n".join(" ".join(each.split()) for each in paragraphs))
    for each in group.registered_groups:
        if each.typer_instance is not None:
            _explain(each.typer_instance)


_add(run, status, verify)
app.add_typer(query, name="query")
_add(sql, catalog, recommend, scaling, forecast, show, plot, report, export, serve)
app.add_typer(features, name="features")
app.add_typer(imports, name="import")
app.add_typer(suite, name="suite")
app.add_typer(sequences, name="sequences")
_add(doctor)
_explain(app)


def main() -> None:
    """Run the command line, with errors in words instead of tracebacks."""
    try:
        mending_bash(app)
    except Exception as raised:
        if os.environ.get("MEMOSERVE_TRACEBACK"):
            raise
        error = as_user_error(raised)
        if isinstance(error, MemoserveError):
            message, code = escape_lines_for_terminal(f"error: {error}"), error.exit_code
        else:
            message = escape_lines_for_terminal(f"error: unexpected {type(error).__name__}: {error}\n")
            message += "This is a defect of memoserve; memoserve --traceback ... shows where."
            code = 1
        with suppress(OSError):  # it may go to the disk that is full
            print(message, file=sys.stderr)
        if error is not raised:
            # What could not be written to the standard output would be tried again at the very end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(code)
