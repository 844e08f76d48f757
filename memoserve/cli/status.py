"""`memoserve status`: what a store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from memoserve.cli.options import StoreArgument
from memoserve.run.options import Options
from memoserve.terminal import escape_for_terminal

if TYPE_CHECKING:
    pass


def status(
    directory: StoreArgument = Options.out,
    form: Annotated[
        Literal["table", "json"], typer.Option("--format", "-f", help="How to print it.")
    ] = "table",
    checks: Annotated[
        bool, typer.Option("--checks", help="List what was verified instead, what failed first.")
    ] = False,
) -> None:
    """Say what a store holds: for each checkpoint its scores, what it has seen, and what it memorized."""
    import json
    import sys

    from memoserve.report.coverage import store_status

    if checks:
        _say_checks(directory, form, sys.stdout.isatty())
        return
    found = store_status(directory)
    if form == "json":
        typer.echo(json.dumps(found, indent=2))
        return
    if not found["suites"]:
        typer.echo(f"{directory}: a store with nothing in it yet (memoserve run fills it)")
    for suite in found["suites"]:
        fingerprint = suite["fingerprint"]
        made = ", ".join(
            f"{key} {fingerprint[key]}"
            for key in ("mode", "engine", "engine_version", "dtype")
            if key in fingerprint
        )
        typer.echo(escape_for_terminal(f"suite {suite['suite']}: {made or 'imported'}"))
        typer.echo(f"{len(suite['checkpoints'])} of {suite['checkpoints_in_suite']} checkpoints have scores")
        for path in suite["foreign_parts"]:
            told = f"warning: {path} is of another run than the rest: move it away"
            typer.echo(escape_for_terminal(told), err=True)
        for twin in suite["same_weights"]:
            typer.echo(
                escape_for_terminal(
                    f"{twin['checkpoint']} has the weights of {twin['same_weights_as']}: skipped"
                )
            )
        if suite["checkpoints"]:
            _print(_marked(suite["checkpoints"]), sys.stdout.isatty())
        if suite["checks"]:
            counted = ", ".join(f"{n:,} {result}" for result, n in suite["checks"].items())
            typer.echo(f"checks: {counted} (memoserve status --checks lists them)")
        for failed in suite["failed_checks"]:
            typer.echo(
                escape_for_terminal(f"failed: {failed['name']} of {failed['subject']}: {failed['detail']}")
            )


def _marked(checkpoints: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With a column for those that have another's weights, if any has."""
    mark = "same_weights_as"
    if not any(mark in one for one in checkpoints):
        return checkpoints
    return [{**one, mark: one.get(mark)} for one in checkpoints]


def _say_checks(directory: str, form: str, terminal: bool) -> None:
    import json

    from memoserve.report.coverage import store_checks

    found = store_checks(directory)
    if form == "json":
        typer.echo(json.dumps({"store": directory, "checks": found}, indent=2))
    elif found:
        _print(found, terminal)
    else:
        typer.echo(f"{directory}: nothing was verified, or by a memoserve that kept no checks")


def _print(rows: list[dict[str, Any]], terminal: bool) -> None:
    from memoserve.queries import Answer
    from memoserve.queries.output import plain
    from memoserve.queries.table import print_table

    answer = Answer(tuple(rows[0]), [tuple(row.values()) for row in rows])
    if terminal:
        print_table(answer, None)
    else:
        typer.echo(plain(answer), nl=False)
