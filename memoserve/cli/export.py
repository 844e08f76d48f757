"""`memoserve export`: the predicted sequences, for whoever takes them out of the data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def export(
    predictor: Annotated[
        str, typer.Option("--predictor", help="The checkpoint that predicts.", show_default=False)
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A .parquet, .csv or .txt (one id a line).", show_default=False),
    ],
    directory: Annotated[
        str, typer.Argument(metavar="[DIR]", help="The store: a directory or a URL.", envvar="MEMOSERVE_OUT")
    ] = "memoserve-out",
    threshold: Annotated[
        int,
        typer.Option(
            "--threshold",
            min=0,
            max=32,
            help="Predicted from so many matching tokens of 32 on; 32: memorized.",
        ),
    ] = 32,
    target: Annotated[
        str | None,
        typer.Option("--target", help="Say of each whether this one memorized it.", show_default=False),
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", help="The suite, if the store has several.", show_default=False)
    ] = None,
) -> None:
    """Write the sequences that a checkpoint predicts to be memorized: what one takes out of the data.

    One row a sequence with the evidence: the predictor's matches, matched prefix and continuation
    log-likelihood, the window and how often it occurs among the rows. Parquet carries the store's
    fingerprint and the predictor in its metadata. The file is written whole or not at all.
    """
    from memoserve.catalog import connect
    from memoserve.memorized import choose
    from memoserve.memorized import export as write
    from memoserve.store import Store

    store = Store.open(directory)
    # Without the sandbox, which forbids to write outside the store: every statement is memoserve's own.
    with connect(directory, sandbox=False) as connection:
        pair = choose(connection, store, suite, target, predictor)
        done = write(connection, store, pair, target is not None, threshold, output)
    found = "" if target is None else f"; {target} memorized {done.hits:,} of them, {done.false_alarms:,} not"
    typer.echo(f"{output}: {done.rows:,} sequences that {predictor} predicts{found}")
