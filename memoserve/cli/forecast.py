"""`memoserve forecast`: each sequence's probability that a model will memorize it."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Literal

import typer

from memoserve.cli.answer_options import write_with_sentences
from memoserve.cli.options import StoreArgument, SuiteOption
from memoserve.run.options import Options

_Format = Literal["table", "csv", "json", "markdown"]


def forecast(
    directory: StoreArgument = Options.out,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="The checkpoint to forecast, evaluated or not. Default: the largest evaluated model's last.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="Training compute: FLOPs (1e21), or a share of the target's (10%). Default: all of it.",
            show_default=False,
        ),
    ] = None,
    precision: Annotated[
        float, typer.Option("--precision", help="The precision to promise, by the forecast's probabilities.")
    ] = 0.8,
    basis: Annotated[
        Literal["features", "signals", "both"] | None,
        typer.Option(
            "--basis", help="Which forecast to write. Default: the one that knows most.", show_default=False
        ),
    ] = None,
    learner: Annotated[
        Literal["logistic", "boosting"], typer.Option("--learner", help="What learns: see docs/forecast.md.")
    ] = "logistic",
    fit_on: Annotated[
        str | None,
        typer.Option(
            "--fit-on",
            metavar="STORE",
            help="Learn on the models of another store, which are paid for.",
            show_default=False,
        ),
    ] = None,
    part: Annotated[
        Literal["forecasts", "differences", "reliability", "weights"],
        typer.Option("--part", help="Which table to print."),
    ] = "forecasts",
    suite: SuiteOption = None,
    unit: Annotated[
        Literal["sequences", "windows"], typer.Option("--unit", help="What is counted.")
    ] = "windows",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")] = 0,
    form: Annotated[_Format, typer.Option("--format", "-f", help="How to print the table.")] = "table",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Write each sequence's probability to this .parquet file, whole or not at all.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Forecast which sequences a model will memorize, before it is trained: a probability for each.

    From features alone, from the signals of cheaper runs, and from both, side by side. Learned on smaller
    models that take the target's role, never on its own labels: those only judge, beside the paper's rule,
    the best line and the best free feature. The compute is that of every run whose scores or labels were
    used.
    """
    from memoserve.catalog import Catalog
    from memoserve.forecast import make_forecast, sentences, table, write_forecast
    from memoserve.forecast.writing import check_name
    from memoserve.queries import Answer

    if output is not None:
        check_name(output)
    with ExitStack() as opened:
        catalog = opened.enter_context(Catalog.open(directory))
        other = None if fit_on is None else opened.enter_context(Catalog.open(fit_on))
        made = make_forecast(
            catalog, suite=suite, target=target, budget=budget, promised=precision, learner=learner,
            unit=unit, fit_on=other, seed=seed,
        )  # fmt: skip
        lines = sentences(made)
        if output is not None:
            one = made.of(basis)
            rows = write_forecast(catalog, made, one, output)
            lines.append(f"{output}: the probabilities of {rows:,} sequences, from {one.basis}.")
    title = f"What {made.target.name} will memorize"
    write_with_sentences(Answer(*table(made, part)), form, None, title, lines)
