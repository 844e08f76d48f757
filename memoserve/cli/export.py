"""`memoserve export`: the predicted sequences, for whoever takes them out of the data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from memoserve.cli.completion import stored_checkpoints
from memoserve.cli.options import StoreArgument, SuiteOption
from memoserve.errors import BadInput
from memoserve.run.options import Options
from memoserve.terminal import escape_for_terminal


def export(
    predictor: Annotated[
        list[str],
        typer.Option(
            "--predictor",
            help="The checkpoint that predicts; repeated, or 'a + b', for what any of them predicts.",
            show_default=False,
            autocompletion=stored_checkpoints,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A .parquet, .csv or .txt (one id a line).", show_default=False),
    ],
    directory: StoreArgument = Options.out,
    threshold: Annotated[
        float | None,
        typer.Option(
            "--threshold",
            help="Predicted from this signal on. Default: what is memorized, all 32 tokens.",
            show_default=False,
        ),
    ] = None,
    signal: Annotated[
        Literal["matches", "matched_prefix", "continuation_ll"] | None,
        typer.Option(
            "--signal",
            help="What the threshold is of. Default: matches, or matched_prefix in extract runs.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="Say of each whether this one memorized it.",
            show_default=False,
            autocompletion=stored_checkpoints,
        ),
    ] = None,
    suite: SuiteOption = None,
) -> None:
    """Write the sequences that a checkpoint predicts to be memorized: what one takes out of the data.

    By the rule that memoserve recommend names: a checkpoint or several, memorized or a threshold. One row a
    sequence with the evidence: which predict it, matches, matched prefix and continuation log-likelihood,
    the window and how often it occurs among the rows. Parquet carries the store's fingerprint and the rule in
    its metadata. The file is written whole or not at all.
    """
    if signal is not None and threshold is None:
        raise BadInput(f"--signal {signal} needs a --threshold")
    if threshold is not None and not math.isfinite(threshold):
        raise BadInput(f"--threshold takes a number, not {threshold}")
    if threshold is not None and signal != "continuation_ll" and not 0 <= threshold <= 32:
        raise BadInput(f"--threshold {threshold:g}: it is a number of the 32 tokens, 0 to 32")
    from memoserve.catalog import Catalog
    from memoserve.memorized import choose
    from memoserve.memorized import export as write
    from memoserve.store import Store

    store = Store.open(directory)
    # Without the sandbox, which forbids to write outside the store: every statement is memoserve's own.
    with Catalog.open(directory, sandbox=False) as catalog:
        names = [name.strip() for one in predictor for name in one.split(" + ")]
        pairs = [choose(catalog, suite, target, name) for name in dict.fromkeys(names)]
        predictors = [one.predictor for one in pairs if one.predictor is not None]
        done = write(
            catalog, store, predictors, None if target is None else pairs[0].target, output,
            signal=signal, threshold=threshold,
        )  # fmt: skip
    found = "" if target is None else f"; {target} memorized {done.hits:,} of them, {done.false_alarms:,} not"
    either = " or ".join(map(str, predictors))
    verb = "predicts" if len(predictors) == 1 else "predict"
    typer.echo(escape_for_terminal(f"{output}: {done.rows:,} sequences that {either} {verb}{found}"))
