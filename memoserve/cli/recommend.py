"""`memoserve recommend`, `memoserve scaling`: which cheap run to pay for, and the law behind its forecast."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from memoserve.cli.answer_options import write_with_sentences
from memoserve.cli.completion import stored_checkpoints
from memoserve.cli.options import StoreArgument, SuiteOption
from memoserve.run.options import Options

_Format = Literal["table", "csv", "json", "markdown"]
_Unit = Literal["sequences", "windows"]

_FormatOption = Annotated[
    _Format | None,
    typer.Option(
        "--format",
        "-f",
        help="table, csv, json or markdown. Default: as the ending of --output says, else a table.",
        metavar="FORMAT",
        show_default=False,
    ),
]
_OutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Write to this file, whole or not at all: .csv, .json or .md.",
        show_default=False,
    ),
]
_UnitOption = Annotated[_Unit, typer.Option("--unit", help="What is counted.")]


def recommend(
    directory: StoreArgument = Options.out,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="The checkpoint to predict, evaluated or not. Default: the largest evaluated model's last.",
            show_default=False,
            autocompletion=stored_checkpoints,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            help="Training compute: FLOPs (1e21), or a share of the target's (10%).",
            show_default=False,
        ),
    ] = None,
    recall: Annotated[
        float | None,
        typer.Option(
            "--recall",
            min=0.0,
            max=1.0,
            help="Also the cheapest predictor that reaches this.",
            show_default=False,
        ),
    ] = None,
    min_precision: Annotated[
        float | None,
        typer.Option(
            "--min-precision",
            min=0.0,
            max=1.0,
            help="What precision must not fall below. Default: 0.8, none with --max-flagged.",
            show_default=False,
        ),
    ] = None,
    max_flagged: Annotated[
        int | None,
        typer.Option("--max-flagged", min=1, help="Flag at most this many.", show_default=False),
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="The best for each of a grid of budgets.")] = False,
    forecast: Annotated[
        bool, typer.Option("--forecast", help="Forecast from smaller models even if the target has scores.")
    ] = False,
    suite: SuiteOption = None,
    unit: _UnitOption = "sequences",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the bootstrap.")] = 0,
    form: _FormatOption = None,
    output: _OutputOption = None,
) -> None:
    """Recommend which cheap run to pay for, to know what an expensive one will memorize.

    Of all checkpoints that cost no more than the budget, with or without a threshold, and unions of two: what
    finds most of what the target memorizes at a precision not below --min-precision. A rule is chosen on one
    half of the training order and judged on the other. For a target without scores, it is a forecast from the
    smaller models.
    """
    from memoserve.catalog import Catalog
    from memoserve.queries import Answer
    from memoserve.recommend import advise, export_hint

    with Catalog.open(directory) as catalog:
        advice = advise(
            catalog,
            suite=suite,
            target=target,
            budget=budget,
            recall=recall,
            grid=grid,
            min_precision=min_precision,
            max_flagged=max_flagged,
            unit=unit,
            forecast=forecast,
            seed=seed,
        )
    sentences = [*advice.sentences, *export_hint(advice, directory)]
    write_with_sentences(Answer(*advice.table()), form, output, advice.title, sentences)


def scaling(
    directory: StoreArgument = Options.out,
    suite: SuiteOption = None,
    step: Annotated[
        int | None,
        typer.Option(
            "--step", min=1, help="Targets are at their last evaluated step up to this.", show_default=False
        ),
    ] = None,
    unit: _UnitOption = "sequences",
    form: _FormatOption = None,
    output: _OutputOption = None,
) -> None:
    """Fit how recall and precision grow with compute and size, and show how well it would have forecast.

    logit(share) is linear in the logarithms of the predictor's compute and size, as ratios to the target's,
    and of the target's compute, over every model as target. Then each of the largest targets is held out and
    forecast from smaller models alone: the paper's rule, then thresholds and unions, and what would have been
    recommended for it. `memoserve query scaling` prints the data.
    """
    from memoserve.catalog import Catalog
    from memoserve.queries import Answer
    from memoserve.recommend.scaling import scaling as fit_scaling

    with Catalog.open(directory) as catalog:
        fitted = fit_scaling(catalog, suite=suite, step=step, unit=unit)
    title = "How predictors scale with compute and size"
    write_with_sentences(Answer(fitted.columns, fitted.rows), form, output, title, fitted.sentences)
