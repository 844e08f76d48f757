"""`memoserve sequences`: look at training sequences, and pack them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memoserve.cli.completion import suites
from memoserve.cli.options import TokenizerOption
from memoserve.errors import BadInput

if TYPE_CHECKING:
    from memoserve.sequences import SequenceSource
    from memoserve.suites import Suite

app = typer.Typer(
    no_args_is_help=True, help="Training sequences: what a file holds, what they say, and packing them."
)

PathOrUrl = Annotated[
    str | None,
    typer.Argument(
        help="Megatron .idx/.bin (or prefix, or shard), .npy, .parquet (or a folder or pattern), .jsonl, "
        "or a pack; local, or a URL.",
        show_default=False,
    ),
]
SuiteName = Annotated[
    str | None,
    typer.Option(
        "--suite",
        help="Take the sequences (and tokenizer) of this suite.",
        show_default=False,
        autocompletion=suites,
    ),
]
TokensColumn = Annotated[
    str | None,
    typer.Option(
        "--tokens-column",
        help="The Parquet column (or JSONL key) that holds the token ids, if not tokens or input_ids.",
        show_default=False,
    ),
]


@app.command()
def info(
    path: PathOrUrl = None,
    suite: SuiteName = None,
    tokenizer: TokenizerOption = None,
    column: TokensColumn = None,
    context: Annotated[int, typer.Option("--context", min=1, help="Tokens of context of a run.")] = 32,
) -> None:
    """Say what the sequences are: kind, count, lengths, size, their identity in fingerprints, and whether
    `memoserve run` would accept them: with --suite, all that it asks of them, without, what can be told.
    """
    from memoserve.domain import CONTINUATION
    from memoserve.sequences import length_range
    from memoserve.sequences.source import PLACES

    held_against = suite
    path, tokenizer = _which(path, suite if path is None else None, tokenizer)
    source = _open(path, tokenizer, column)
    sizes = length_range(source)
    scope = (
        "all sequences"
        if sizes.sampled == source.count
        else f"of {sizes.sampled:,} sequences in {PLACES} places"
    )
    rows: list[tuple[str, Any]] = [
        ("path", path),
        ("kind", source.kind),
        ("sequences", f"{source.count:,}"),
        ("token type", source.token_dtype),
        ("tokens each", f"{sizes.fewest} to {sizes.most} ({scope})" if source.count else "no sequences"),
        ("bytes", f"{source.total_bytes:,}"),
        *(("identity " + key, value) for key, value in source.identity().items()),
        *_verdict(source, held_against, context + CONTINUATION),
    ]
    for name, value in rows:
        _print(f"{name:<25} ", (str(value), ""))


@app.command()
def show(
    path: PathOrUrl = None,
    ids: Annotated[
        str | None, typer.Option("--ids", help="Sequence ids, such as 5,17.", show_default=False)
    ] = None,
    sequences: Annotated[
        str | None, typer.Option("--sequences", help="A range such as 0:5 (the default).", show_default=False)
    ] = None,
    context: Annotated[int, typer.Option("--context", min=1, help="Tokens of context.")] = 32,
    suite: SuiteName = None,
    tokenizer: TokenizerOption = None,
    column: TokensColumn = None,
) -> None:
    """Print sequences: the context and, set apart, the continuation; as text if there is a tokenizer."""
    from memoserve.domain import CONTINUATION
    from memoserve.sequences import load_tokenizer

    path, tokenizer = _which(path, suite, tokenizer)
    source = _open(path, tokenizer, column)
    decoder = load_tokenizer(tokenizer) if tokenizer is not None else None
    for sequence, tokens in _wanted(source, ids, sequences, context + CONTINUATION):
        _print(f"sequence {sequence}")
        _print("  context       ", (_words(tokens[:context], decoder), "dim"))
        _print("  continuation  ", (_words(tokens[context:], decoder), "bold"))


@app.command()
def pack(
    output: Annotated[Path, typer.Option("--out", "-o", help="The folder to make.", show_default=False)],
    path: PathOrUrl = None,
    context: Annotated[int, typer.Option("--context", min=1, help="Tokens of context.")] = 32,
    suite: SuiteName = None,
    tokenizer: TokenizerOption = None,
    column: TokensColumn = None,
) -> None:
    """Write just the context and continuation of every sequence, once, with checksums.

    `memoserve run --data` takes the folder like the original, and both give one store. Stop it whenever you
    like, the same command goes on. The folder is there when all of it is.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from memoserve.domain import CONTINUATION
    from memoserve.sequences import write_pack

    path, tokenizer = _which(path, suite, tokenizer)
    columns = (TextColumn("sequences"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None)
        manifest = write_pack(
            lambda: _open(path, tokenizer, column),
            output,
            context + CONTINUATION,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    size = sum(file.stat().st_size for file in output.iterdir())
    typer.echo(
        f"{output}: {manifest.count:,} sequences of {manifest.length} tokens ({manifest.dtype}), "
        f"{size:,} bytes"
    )


def _which(path: str | None, suite: str | None, tokenizer: str | None) -> tuple[str, str | None]:
    """Path and tokenizer, from the arguments or the suite."""
    if (path is None) == (suite is None):
        raise BadInput("say which sequences: either a PATH or --suite")
    if suite is None:
        assert path is not None
        return path, tokenizer
    from memoserve.suites import load_suite

    sequences = load_suite(suite).sequences
    if sequences.path is None:
        raise BadInput(f"suite {suite} doesn't say where its sequences are: give their PATH instead")
    return sequences.path, tokenizer or sequences.tokenizer


def _open(path: str, tokenizer: str | None, column: str | None) -> SequenceSource:
    from memoserve.sequences import open_sequences

    return open_sequences(path, tokenizer, column)


def _verdict(source: SequenceSource, suite: str | None, length: int) -> Iterator[tuple[str, str]]:
    """Whether a run would take the sequences, and what speaks against it, line by line."""
    from memoserve.sequences import check_sequences
    from memoserve.suites import load_suite

    loaded = load_suite(suite) if suite is not None else None
    checks = check_sequences(
        source,
        trained=loaded.sequences.trained if loaded is not None else None,
        control=loaded.sequences.control if loaded is not None else None,
        sequence_length=loaded.sequence_length if loaded is not None else None,
        vocabulary_size=_vocabulary(loaded) if loaded is not None else None,
        length=length,
    )
    unchecked = [check.name for check in checks if check.result == "not checked"]
    limits = f", as far as can be told; not checked: {', '.join(unchecked)}" if unchecked else ""
    refused = any(check.result == "failed" for check in checks)
    held = f" for suite {loaded.name}" if loaded is not None else ""
    yield "accepted by run", f"no{held}: it would refuse them" if refused else f"yes{held}{limits}"
    for check in checks:
        if check.result in ("failed", "warning"):
            yield f"  {check.name}", check.detail


def _vocabulary(suite: Suite) -> int | None:
    """The vocabulary of the first weights of a suite that lie here and can be read; nothing is downloaded."""
    from memoserve.engines import fetch_weights
    from memoserve.errors import EngineFailed

    for checkpoint in suite.all_checkpoints():
        folder = checkpoint.weights.folder
        if folder is not None and folder.is_dir():
            try:
                return fetch_weights(checkpoint).vocabulary_size
            except EngineFailed:
                return None
    return None


def _wanted(
    source: SequenceSource, ids: str | None, sequences: str | None, length: int
) -> Iterator[tuple[int, list[int]]]:
    """Id and tokens of each sequence that was asked for."""
    from memoserve.sequences import parse_range

    if ids is not None and sequences is not None:
        raise BadInput("give either --ids or --sequences")
    if ids is not None:
        blocks = [(i, i + 1) for i in _parse_ids(ids)]
    else:
        first, stop = parse_range(sequences or f"0:{min(5, source.count)}", source.count)
        blocks = [(start, min(start + 256, stop)) for start in range(first, stop, 256)]
    for begin, end in blocks:
        for offset, tokens in enumerate(source.read(begin, end, length)):
            yield begin + offset, tokens.tolist()


def _parse_ids(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) <= 18 for part in parts):
        raise BadInput(f"--ids {text!r}: write sequence ids with commas between them, such as 5,17")
    return [int(part) for part in parts]


def _words(tokens: list[int], decoder: Any) -> str:
    if decoder is None:
        return " ".join(map(str, tokens))
    return str(decoder.decode(tokens, skip_special_tokens=False))


def _print(label: str, styled: tuple[str, str] | None = None) -> None:
    """One line: a label, then text that is data, so never obeyed: not by rich, not by the terminal."""
    from rich.console import Console
    from rich.text import Text

    from memoserve.sequences import printable

    line = Text(label)
    if styled is not None:
        line.append(printable(styled[0], sys.stdout.encoding or "ascii"), style=styled[1])
    Console(highlight=False, markup=False, emoji=False, soft_wrap=True).print(line)
