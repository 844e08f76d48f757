"""`memoserve show`: what memorized sequences say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from memoserve.cli.completion import stored_checkpoints
from memoserve.cli.options import StoreArgument, SuiteOrFileOption, TextDataOption, TokenizerOption
from memoserve.run.options import Options
from memoserve.terminal import escape_for_terminal, escape_lines_for_terminal

if TYPE_CHECKING:
    from memoserve.memorized import Pair, Piece, Shown


def show(
    directory: StoreArgument = Options.out,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            help="A checkpoint. Default: the largest model's last.",
            show_default=False,
            autocompletion=stored_checkpoints,
        ),
    ] = None,
    predictor: Annotated[
        str | None,
        typer.Option(
            "--predictor",
            help="A checkpoint to compare it with.",
            show_default=False,
            autocompletion=stored_checkpoints,
        ),
    ] = None,
    cell: Annotated[
        Literal["memorized", "hit", "miss", "false-alarm", "emergent"],
        typer.Option(
            "--cell",
            metavar="CELL",
            help="memorized (by the target), hit (by both), miss (by the target alone), false-alarm (by the "
            "predictor alone), emergent (by the target though every smaller model scores below --below).",
        ),
    ] = "memorized",
    below: Annotated[
        float, typer.Option("--below", help="Of --cell emergent: the score, of 32, that none reaches.")
    ] = 16,
    search: Annotated[
        str | None,
        typer.Option("--search", help="Only windows with this text, in any case.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many windows.")] = 20,
    redact: Annotated[
        bool,
        typer.Option(
            "--redact",
            help="Mask what looks like e-mail or IP addresses, phone and other long numbers, credentials.",
        ),
    ] = False,
    suite: SuiteOrFileOption = None,
    data: TextDataOption = None,
    tokenizer: TokenizerOption = None,
    form: Annotated[
        Literal["table", "json", "csv"], typer.Option("--format", "-f", help="How to print it.")
    ] = "table",
) -> None:
    """Show memorized sequences: the context and, set apart, the continuation.

    Each window once, with the number of its occurrences, in order of training. Tokens that the predictor
    (or, of a false alarm, the target) did not generate are marked: [-so-], on a terminal in colour.
    Characters that a terminal would obey are escaped. --redact finds patterns, and misses free-form text
    such as names.
    """
    from memoserve.catalog import Catalog
    from memoserve.memorized import find_texts
    from memoserve.store import Store

    store = Store.open(directory)
    with Catalog.open(directory) as catalog:
        texts = find_texts(
            catalog,
            store,
            target=target,
            predictor=predictor,
            cell=cell,
            below=below,
            search=search,
            limit=limit,
            redact=redact,
            suite=suite,
            data=data,
            tokenizer=tokenizer,
            warn=warn,
        )
        if form == "table":
            _print_all(texts.shown, _heading(texts.pair, cell, below))
        else:
            _write(texts.shown, form)


def warn(message: str) -> None:
    """A warning on standard error."""
    typer.echo(escape_for_terminal(f"warning: {message}"), err=True)


def _heading(pair: Pair, cell: str, below: float) -> str:
    t, p = pair.target, pair.predictor
    return {
        "memorized": f"memorized by {t}",
        "hit": f"memorized by {t}, and by {p}",
        "miss": f"memorized by {t}, not by {p}",
        "false-alarm": f"memorized by {p}, not by {t}",
        "emergent": f"memorized by {t}, though every smaller model scores below {below:g} of 32",
    }[cell]


def _print_all(shown: Iterator[Shown], heading: str) -> None:
    from rich.console import Console
    from rich.text import Text

    from memoserve.sequences import printable

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    coloured = console.is_terminal and console.color_system is not None
    encoding = sys.stdout.encoding or "ascii"

    def line(label: str, pieces: list[Piece], style: str) -> None:
        text = Text(f"  {label:<14}")
        for piece in pieces:
            safe = printable(piece.text, encoding)
            if piece.mismatch and not coloured:
                safe = f"[-{safe}-]"
            text.append(safe, style="reverse red" if piece.mismatch else style)
        console.print(text)

    console.print(escape_for_terminal(heading))
    count = 0
    for one in shown:
        count += 1
        times = one.row.occurrences
        console.print(
            f"\nsequence {one.row.sequence_id}" + (f", occurs {times:,} times" if times > 1 else "")
        )
        line("context", one.context, "dim")
        line("continuation", one.continuation, "bold")
        if one.compared is not None:
            console.print(f"  {escape_for_terminal(one.compared):<14}{_agreement(one)}")
    if not count:
        console.print("none")


def _agreement(one: Shown) -> str:
    first = "" if one.matched_prefix is None else f"the first {one.matched_prefix} of 32 tokens match"
    if one.matches is None:
        return first or "not memorized"
    return f"{one.matches} of 32 tokens match" + (f", the first {one.matched_prefix}" if first else "")


def _write(shown: Iterator[Shown], form: Literal["json", "csv"]) -> None:
    import csv
    import io
    import json

    from memoserve.memorized import TEXT_COLUMNS, text_row

    records = [text_row(one) for one in shown]
    if form == "json":
        # JSON escapes control characters itself, and with ensure_ascii all that could turn text around.
        typer.echo(json.dumps([dict(zip(TEXT_COLUMNS, row, strict=True)) for row in records], indent=2))
        return
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(TEXT_COLUMNS)
    for *values, missing in records:
        positions = None if missing is None else " ".join(map(str, missing))
        rows.writerow(["" if value is None else value for value in (*values, positions)])
    # As it is, for programs; a terminal gets what it could obey escaped.
    content = text.getvalue()
    if sys.stdout.isatty():
        sys.stdout.write(escape_lines_for_terminal(content))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(content.encode("utf-8", "backslashreplace"))
