"""`memoserve show`: what memorized sequences say."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from memoserve.errors import BadInput, StoreConflict

if TYPE_CHECKING:
    import duckdb
    from tokenizers import Tokenizer

    from memoserve.memorized import Cell, Pair, Piece, Row, Words
    from memoserve.sequences import SequenceSource
    from memoserve.store import Store

_SEARCHED = 1024
"""Windows that a search reads at once."""


@dataclass(frozen=True)
class _Shown:
    """A window ready to print. `compared`: the checkpoint whose matches these are, None: nothing to say."""

    row: Row
    context: list[Piece]
    continuation: list[Piece]
    compared: str | None
    matches: int | None
    matched_prefix: int | None
    mismatches: list[int] | None


def show(
    directory: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The store.", envvar="MEMOSERVE_OUT")
    ] = Path("memoserve-out"),
    target: Annotated[
        str | None,
        typer.Option("--target", help="A checkpoint. Default: the largest model's last.", show_default=False),
    ] = None,
    predictor: Annotated[
        str | None,
        typer.Option("--predictor", help="A checkpoint to compare it with.", show_default=False),
    ] = None,
    cell: Annotated[
        Literal["memorized", "hit", "miss", "false-alarm"],
        typer.Option(
            "--cell",
            help="Memorized by the target; by both (hit); by the target alone (miss); by the predictor alone "
            "(false-alarm).",
        ),
    ] = "memorized",
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
    suite: Annotated[
        str | None, typer.Option("--suite", help="The suite, by name or file.", show_default=False)
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="The training sequences.", show_default=False)
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option("--tokenizer", help="tokenizer.json, or the folder that holds it.", show_default=False),
    ] = None,
    form: Annotated[
        Literal["table", "json", "csv"], typer.Option("--format", "-f", help="How to print it.")
    ] = "table",
) -> None:
    """Show memorized sequences: the context and, set apart, the continuation.

    Each window once, with the number of its occurrences, in order of training. Tokens that the predictor
    (or, of a false alarm, the target) did not generate are marked: [-so-], on a terminal in colour.
    Characters that a terminal would obey are escaped. --redact goes by shapes: it misses what has none,
    such as names.
    """
    from memoserve.catalog import connect
    from memoserve.memorized import choose
    from memoserve.store import Store

    store = Store.open(directory)
    with connect(directory) as connection:
        pair = choose(connection, store, suite_name(suite), target, predictor)
        source, decoder = open_text_of(store, pair.target.suite, suite, data, tokenizer)
        if decoder is None and (search is not None or redact):
            raise BadInput(f"--{'search' if search is not None else 'redact'} needs text: name a --tokenizer")
        context = int(store.fingerprint(pair.target.suite).get("context") or 32)
        shown = shown_texts(connection, store, pair, cell, source, decoder, context, search, limit, redact)
        if form == "table":
            _print_all(shown, pair, cell)
        else:
            _write(shown, form)


def suite_name(suite: str | None) -> str | None:
    """The name in the store: that of the suite file, or the word itself."""
    if suite is None or not Path(suite).exists():
        return suite
    from memoserve.suites import load_suite

    return load_suite(suite).name


def open_text_of(
    store: Store, name: str, suite: str | None, data: str | None, tokenizer: str | None
) -> tuple[SequenceSource, Tokenizer | None]:
    """The sequences, checked to be the ones that were evaluated, and the tokenizer if there is one."""
    from memoserve.sequences import load_tokenizer, open_sequences
    from memoserve.suites import load_suite

    if data is None or tokenizer is None:
        try:
            its = load_suite(suite or name).sequences
        except BadInput:
            if data is None:
                raise BadInput(
                    f"suite {name} is not one that comes with memoserve: name its file with --suite, or the "
                    "sequences with --data (and --tokenizer)"
                ) from None
        else:
            if data is None and its.path is None:
                raise BadInput(f"suite {name} doesn't say where its sequences are: name them with --data")
            tokenizer = tokenizer or its.tokenizer
            data = data or its.path
    assert data is not None
    source = open_sequences(data, tokenizer)
    said = store.fingerprint(name)
    stored = {key: value for key, value in said.items() if key.startswith("sequences_")}
    if not stored:
        typer.echo(
            f"warning: the store doesn't say which sequences its scores are about ({said.get('engine')}), so "
            f"that they are those of {data} can't be checked",
            err=True,
        )
        return source, None if tokenizer is None else load_tokenizer(tokenizer)
    found = {f"sequences_{key}": value for key, value in source.identity().items()}
    differing = [key for key in sorted({*stored, *found}) if stored.get(key) != found.get(key)]
    if differing:
        raise StoreConflict(
            f"{data} is not what was evaluated (stored vs given):\n"
            + "\n".join(f"  {key}: {stored.get(key)} vs {found.get(key)}" for key in differing)
            + "\nName the sequences that this store was made with."
        )
    return source, None if tokenizer is None else load_tokenizer(tokenizer)


def shown_texts(
    connection: duckdb.DuckDBPyConnection, store: Store, pair: Pair, cell: Cell, source: SequenceSource,
    decoder: Tokenizer | None, context: int, search: str | None, limit: int, redact: bool,
) -> Iterator[_Shown]:  # fmt: skip
    import numpy as np

    from memoserve.memorized import matches_of, mismatches, pieces, rows_of, words
    from memoserve.sequences import CONTINUATION

    length = context + CONTINUATION
    if search is None:
        rows = list(rows_of(connection, store, pair, cell, limit))
    else:
        assert decoder is not None
        found = _matching(rows_of(connection, store, pair, cell, None), source, decoder, length, search)
        rows = list(islice(found, limit))
    ids = [row.sequence_id for row in rows]
    # A hit matches for both; the target's own memorized ones only against a predictor.
    compared = pair.target if cell == "false-alarm" else None if cell == "hit" else pair.predictor
    known = matches_of(connection, store, compared, ids) if compared is not None else {}
    for first in range(0, len(rows), _SEARCHED):
        block = rows[first : first + _SEARCHED]
        windows = source.take(np.array([row.sequence_id for row in block], dtype=np.int64), length)
        for row, tokens in zip(block, windows.tolist(), strict=True):
            said: Words = words(tokens, context, decoder)
            matches, prefix, mask = known.get(row.sequence_id, (None, None, None))
            marked = mismatches(said, context, mask)
            yield _Shown(
                row,
                pieces(said, 0, said.border, marked, redact),
                pieces(said, said.border, len(said.text), marked, redact),
                str(compared) if row.sequence_id in known else None,
                matches,
                prefix,
                None if mask is None else [bit for bit in range(CONTINUATION) if not mask >> bit & 1],
            )


def _matching(
    rows: Iterator[Row], source: SequenceSource, decoder: Tokenizer, length: int, search: str
) -> Iterator[Row]:
    import numpy as np

    wanted = search.casefold()
    while block := list(islice(rows, _SEARCHED)):
        windows = source.take(np.array([row.sequence_id for row in block], dtype=np.int64), length)
        texts = decoder.decode_batch(windows.tolist(), skip_special_tokens=False)
        yield from (row for row, text in zip(block, texts, strict=True) if wanted in text.casefold())


def _print_all(shown: Iterator[_Shown], pair: Pair, cell: Cell) -> None:
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

    t, p = pair.target, pair.predictor
    console.print(
        {
            "memorized": f"memorized by {t}",
            "hit": f"memorized by {t}, and by {p}",
            "miss": f"memorized by {t}, not by {p}",
            "false-alarm": f"memorized by {p}, not by {t}",
        }[cell]
    )
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
            console.print(f"  {one.compared:<14}{_agreement(one)}")
    if not count:
        console.print("none")


def _agreement(one: _Shown) -> str:
    first = "" if one.matched_prefix is None else f"the first {one.matched_prefix} of 32 tokens match"
    if one.matches is None:
        return first or "not memorized"
    return f"{one.matches} of 32 tokens match" + (f", the first {one.matched_prefix}" if first else "")


def _write(shown: Iterator[_Shown], form: Literal["json", "csv"]) -> None:
    import csv
    import json

    from memoserve.sequences import printable

    def records(escape: Any) -> Iterator[dict[str, Any]]:
        for one in shown:
            yield {
                "sequence_id": one.row.sequence_id,
                "window_id": one.row.window_id,
                "occurrences": one.row.occurrences,
                "context": escape("".join(piece.text for piece in one.context)),
                "continuation": escape("".join(piece.text for piece in one.continuation)),
                "compared": one.compared,
                "matches": one.matches,
                "matched_prefix": one.matched_prefix,
                "mismatches": one.mismatches,
            }

    if form == "json":
        # JSON escapes control characters itself, and with ensure_ascii all that could turn text around.
        typer.echo(json.dumps(list(records(str)), indent=2))
        return
    rows = csv.writer(sys.stdout, lineterminator="\n")
    names = ("sequence_id", "window_id", "occurrences", "context", "continuation", "compared", "matches",
             "matched_prefix", "mismatches")  # fmt: skip
    rows.writerow(names)
    for record in records(lambda text: printable(text, sys.stdout.encoding or "ascii")):
        missing = record["mismatches"]
        record["mismatches"] = None if missing is None else " ".join(map(str, missing))
        rows.writerow(["" if record[name] is None else record[name] for name in names])
