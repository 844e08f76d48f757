"""`memoserve plot` and `memoserve report`: pictures of the answers, one by one or on a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memoserve.cli.options import (
    StoreArgument,
    SuiteOption,
    SuiteOrFileOption,
    TargetOption,
    TextDataOption,
    TokenizerOption,
)
from memoserve.errors import BadInput
from memoserve.run.options import Options

if TYPE_CHECKING:
    from memoserve.catalog import Catalog
    from memoserve.report.sections import ReportTexts
    from memoserve.store import Store


def _plots() -> list[str]:
    from memoserve.report import CHARTS

    return [chart.name for chart in CHARTS]


def plot(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="The plot; --list says which there are.",
            show_default=False,
            autocompletion=_plots,
        ),
    ] = None,
    directory: StoreArgument = Options.out,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A .png, .svg, .pdf, .html or .json (Vega-Lite) file. Default: NAME.png.",
            show_default=False,
        ),
    ] = None,
    target: TargetOption = None,
    suite: SuiteOption = None,
    listing: Annotated[bool, typer.Option("--list", "-l", help="List the plots.")] = False,
) -> None:
    """Draw a query's answer: intervals shown, log axes where due, colour-blind safe.

    Pictures need pip install 'memoserve[report]'; Vega-Lite doesn't.
    """
    from memoserve.report import CHARTS, draw, find_chart

    if listing or name is None:
        for chart in CHARTS:
            typer.echo(f"{chart.name} (query {chart.query})\n  {chart.title}. {chart.reading}")
        return
    chart = find_chart(name)
    from memoserve.catalog import Catalog
    from memoserve.queries import find_query
    from memoserve.report.rows import parameters_for

    file = output or Path(f"{name}.png")
    with Catalog.open(directory) as catalog:
        draw(catalog, name, parameters_for(find_query(chart.query), suite, target)).save(file)
    typer.echo(f"{file} ({file.stat().st_size:,} bytes)")


def report(
    directory: StoreArgument = Options.out,
    output: Annotated[Path, typer.Option("--output", "-o", help="The page.")] = Path("report.html"),
    target: TargetOption = None,
    suite: SuiteOrFileOption = None,
    only: Annotated[
        str | None,
        typer.Option("--only", help="These plots, with commas. Default: all.", show_default=False),
    ] = None,
    texts: Annotated[int, typer.Option("--texts", min=0, help="Memorized texts to show; 0: none.")] = 5,
    redact: Annotated[
        bool, typer.Option("--redact/--no-redact", help="Mask what looks private in these texts.")
    ] = True,
    data: TextDataOption = None,
    tokenizer: TokenizerOption = None,
) -> None:
    """Write the report: one HTML page that needs nothing else, to read, to print and to hand on.

    What was run, how well cheaper runs predict the target, every plot with its table and its SQL, the
    limits, and a few memorized texts with what looks private masked. Needs pip install 'memoserve[report]'.
    """
    from memoserve.catalog import Catalog
    from memoserve.files.whole import writing
    from memoserve.memorized import suite_name
    from memoserve.report import find_chart
    from memoserve.report.contents import report as write
    from memoserve.store import Store

    wanted = None if only is None else [find_chart(name.strip()).name for name in only.split(",")]
    store = Store.open(directory)
    with Catalog.open(directory) as catalog:
        shown = None
        if texts:
            shown = _texts(catalog, store, suite, target, data, tokenizer, texts, redact)
        text = write(
            catalog,
            store,
            suite=suite_name(suite),
            target=target,
            texts=shown,
            only=wanted,
            progress=lambda what: typer.echo(f"drawing {what}", err=True),
        )
    with writing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    typer.echo(f"{output} ({output.stat().st_size:,} bytes)")


def _texts(
    catalog: Catalog, store: Store, suite: str | None, target: str | None,
    data: str | None, tokenizer: str | None, limit: int, redact: bool,
) -> ReportTexts:  # fmt: skip
    """Memorized texts as memoserve show finds them. Without the sequences or a tokenizer, says so."""
    from memoserve.cli.show import warn
    from memoserve.memorized import choose, open_texts, rows_of, suite_name
    from memoserve.report.sections import ReportText, ReportTexts

    named = data is not None or tokenizer is not None
    pair = choose(catalog, suite_name(suite), target, None)
    try:
        reader = open_texts(catalog, store, pair, suite=suite, data=data, tokenizer=tokenizer, warn=warn)
    except BadInput as error:
        if named:
            raise
        return ReportTexts((), redact, str(error))
    if reader.decoder is None:
        return ReportTexts(
            (), redact, "without a tokenizer, the sequences are numbers; name one with --tokenizer"
        )
    rows = list(rows_of(catalog, pair, "memorized", limit))
    shown = [
        ReportText(one.row.sequence_id, one.row.occurrences, one.context, one.continuation)
        for one in reader.shown("memorized", rows, redact)
    ]
    return ReportTexts(shown, redact)
