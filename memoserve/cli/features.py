"""`memoserve features`: what is known of sequences without any model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from memoserve.errors import BadInput
from memoserve.terminal import escape_for_terminal, without_markup

if TYPE_CHECKING:
    from memoserve.features.job import FeaturesJob
    from memoserve.features.options import Estimate, Outcome

_HELP = """Compute what is known of each evaluated window without any model.

How often it occurs in the training data and how long ago, how often its runs of 8, 16 and 32 tokens stand
there at any offset, near-duplicates, token frequencies, compressed length, repetition, token classes, where
documents end: one row a sequence, read in SQL as the view features. One pass over the training data, which
must be whole. What is there is kept, what is missing is made: start it again after an interruption."""

app = typer.Typer(invoke_without_command=True, help=without_markup(_HELP))

_Out = Annotated[
    str,
    typer.Option(
        "--out", "-o", envvar="MEMOSERVE_OUT", help="The store, a directory or a URL; made if it isn't there."
    ),
]
_INTERRUPTED = 130
_GIB = 1 << 30


@app.callback()
def compute(
    context: typer.Context,
    suite: Annotated[
        str, typer.Option(envvar="MEMOSERVE_SUITE", help="A shipped suite or a suite file.")
    ] = "mini",
    out: _Out = "memoserve-out",
    data: Annotated[
        str | None,
        typer.Option(
            help="Training sequences in training order, if not where the suite says.", show_default=False
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="tokenizer.json, for what is said of text. Default: the suite's.", show_default=False
        ),
    ] = None,
    tokens_column: Annotated[
        str | None,
        typer.Option(help="The Parquet column of token ids, if not tokens or input_ids.", show_default=False),
    ] = None,
    sequences: Annotated[
        str | None, typer.Option(help="Range of sequence ids, such as 0:1000000.", show_default=False)
    ] = None,
    sample: Annotated[
        float | None,
        typer.Option(
            help="Random fraction of sequences. Default: that of the store's runs.", show_default=False
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Seed of --sample. Default: that of the runs, or 0.", show_default=False),
    ] = None,
    skip_short: Annotated[
        bool | None,
        typer.Option("--skip-short", help="Leave out sequences shorter than a window.", show_default=False),
    ] = None,
    window_context: Annotated[
        int | None,
        typer.Option(
            "--context",
            min=1,
            help="Tokens of context. Default: that of the runs, or 32.",
            show_default=False,
        ),
    ] = None,
    part_size: Annotated[
        int | None, typer.Option(min=1, help="Sequence ids in a part.", show_default=False)
    ] = None,
    memory: Annotated[
        float | None,
        typer.Option(
            min=0.001,
            help="GiB that a pass over the training data counts in; with less, more passes. Default: half of "
            "what is free.",
            show_default=False,
        ),
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make features anew that were made otherwise.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what is missing and what it costs; write nothing.")
    ] = False,
) -> None:
    if context.invoked_subcommand is not None:
        return
    from memoserve.features.job import FeaturesJob
    from memoserve.features.options import Options

    job = FeaturesJob(
        Options(
            suite=suite,
            out=out,
            data=data,
            tokenizer=tokenizer,
            tokens_column=tokens_column,
            sequences=sequences,
            sample=sample,
            seed=seed,
            skip_short=skip_short,
            context=window_context,
            part_size=part_size,
            memory=None if memory is None else int(memory * _GIB),
            replace=replace,
        )
    )
    if dry_run:
        _print_estimate(job.estimate())
    else:
        _print_outcome(_run(job), out)


@app.command()
def add(
    table: Annotated[Path, typer.Argument(help="A Parquet file, one row a sequence.", show_default=False)],
    name: Annotated[
        str,
        typer.Option(
            "--name", help="What it is: the column's name, or the beginning of several.", show_default=False
        ),
    ],
    out: _Out = "memoserve-out",
    suite: Annotated[
        str | None,
        typer.Option("--suite", help="Whose sequences. Default: the store's only suite.", show_default=False),
    ] = None,
    id_column: Annotated[str, typer.Option("--id", help="The column of sequence ids.")] = "sequence_id",
    replace: Annotated[bool, typer.Option("--replace", help="Replace the table of this name.")] = False,
) -> None:
    """Add a table keyed by sequence id: further columns of the view features, numbers of any kind.

    Perplexities, counts of an outside index, semantic duplicates. Ids must be unique; NaN counts as unknown.
    """
    from memoserve.features.added import add_table
    from memoserve.store import Store

    store = Store.open(out)
    with store.lock():
        of_suite = suite or _only_suite(
            store.suites(), [n.removeprefix("suite=") for n in store.files.names("features")]
        )
        columns, rows = add_table(store, of_suite, table, name, id_column=id_column, replace=replace)
    typer.echo(f"{out}: {rows:,} rows of {', '.join(columns)} for suite {escape_for_terminal(of_suite)}")


def _only_suite(*names: list[str]) -> str:
    known = sorted({name for some in names for name in some})
    if len(known) != 1:
        raise BadInput(f"the store has suites {', '.join(known) or '(none)'}: say which with --suite")
    return known[0]


def _run(job: FeaturesJob) -> Outcome:
    """Run it and show how far it is."""
    import signal

    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        tasks: dict[str, TaskID] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        try:
            return job.run(show)
        except KeyboardInterrupt:
            bar.console.print("interrupted: whole parts are kept, the same command goes on from here")
            raise typer.Exit(_INTERRUPTED) from None


def _print_estimate(cost: Estimate) -> None:
    from rich.filesize import decimal

    if not cost.parts:
        typer.echo("nothing to do: all features exist")
        return
    seconds = cost.passes * cost.tokens / cost.rate
    typer.echo(
        f"{cost.sequences:,} sequences in {cost.parts:,} parts, about {decimal(int(cost.bytes))} to write\n"
        f"{cost.passes:,} passes over {cost.tokens:,} tokens of training data, memory at most "
        f"{decimal(cost.memory)}\n"
        f"counting takes {seconds / 3600:,.2g} core hours at {cost.rate / 1e6:,.1f} million tokens a second "
        "and core, as measured on a sample with few windows"
    )


def _print_outcome(done: Outcome, out: str) -> None:
    if not done.parts:
        typer.echo("nothing to do: all features exist")
        return
    typer.echo(
        f"{out}: features of {done.sequences:,} sequences in {done.parts:,} parts ({done.windows:,} distinct "
        f"windows evaluated in all); {done.tokens:,} tokens of training data read, {done.seconds:.0f} s"
    )
