"""`memoserve import`: scores that others measured, into a store."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memoserve.cli.completion import selectors, suites
from memoserve.errors import BadInput
from memoserve.run.options import Options
from memoserve.terminal import escape_for_terminal

app = typer.Typer(
    no_args_is_help=True, help="Turn scores that others measured into a store that all queries read."
)

_Out = Annotated[
    str,
    typer.Option(
        "--out", "-o", help="The store, a directory or a URL; made if it isn't there.", envvar="MEMOSERVE_OUT"
    ),
]


@app.command("pythia-memorized-evals")
def pythia_memorized_evals(
    path: Annotated[
        str,
        typer.Argument(
            help="The dataset's data folder, one of its Parquet files, a URL of either, or hub to fetch it.",
            show_default=False,
        ),
    ],
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite",
            help="Only this suite's splits: pythia (duped), pythia-deduped (deduped), or a suite file. "
            "Default: both.",
            show_default=False,
            autocompletion=suites,
        ),
    ] = None,
    split: Annotated[
        list[str] | None,
        typer.Option(
            "--split", help="Only this split, such as duped.12b; may be repeated.", show_default=False
        ),
    ] = None,
    out: _Out = Options.out,
) -> None:
    """Import EleutherAI's published lists of memorized sequences (hub dataset pythia-memorized-evals).

    Every sequence that a checkpoint had seen gets a row: memorized if it is listed, else not, its score
    unknown. Windows are not numbered, since tokens are published for memorized sequences only: intervals take
    each sequence as a cluster of its own and are too narrow where windows repeat. The number of distinct
    memorized sequences is printed.
    """
    from memoserve.imports import fetched, import_split, published_splits
    from memoserve.store import Store
    from memoserve.suites import load_suite

    only = None if suite is None else load_suite(suite)
    with fetched(path, split or []) as folder:
        splits = published_splits(folder, split or [])
        if only is not None:
            splits = [one for one in splits if one.deduped == ("deduped" in only.name)]
            if not splits:
                raise BadInput(f"{path} holds no split of suite {only.name}")
        suites = dict.fromkeys((False, True), only)
        plan = []
        for one in splits:
            target_suite = suites[one.deduped] or load_suite("pythia-deduped" if one.deduped else "pythia")
            suites[one.deduped] = target_suite
            one.checkpoint(target_suite)  # that it exists, before anything is written
            plan.append((target_suite, one))
        store = Store.create(out)
        with store.lock():
            for target_suite, one in plan:
                done = import_split(store, target_suite, one)
                left_out = f"; {done.beyond:,} listed ones it had not seen left out" if done.beyond else ""
                was = "" if done.written else " (was here already)"
                typer.echo(
                    f"{escape_for_terminal(one.name)} -> {target_suite.name} {done.checkpoint}: "
                    f"{done.evaluated:,} sequences, {done.memorized:,} memorized "
                    f"({done.windows:,} distinct){left_out}{was}"
                )
    typer.echo(f"{out}: memoserve status {out} says what it holds; memoserve query asks it")


@app.command("csv")
def csv_parts(
    paths: Annotated[
        list[Path],
        typer.Argument(help="The files of one checkpoint, or folders of them.", show_default=False),
    ],
    checkpoint: Annotated[
        str,
        typer.Option(
            "--checkpoint",
            help="Whose scores they are, such as 12b@143000.",
            show_default=False,
            autocompletion=selectors,
        ),
    ],
    suite: Annotated[
        str, typer.Option("--suite", help="The suite, by name or file.", autocompletion=suites)
    ] = "pythia",
    fix_last_batch: Annotated[
        bool,
        typer.Option(
            "--fix-last-batch",
            help="Mend files whose last batch, shorter than 1024, is numbered one too high.",
        ),
    ] = False,
    out: _Out = Options.out,
) -> None:
    """Import CSV parts as the paper's script writes them: index,accuracy, one file a rank, no header.

    accuracy is the share of the 32 tokens that match. Files may overlap as long as they agree. All files of
    a checkpoint go in one call.
    """
    from memoserve.imports import csv_files, import_csv
    from memoserve.store import Store
    from memoserve.suites import load_suite, select

    target_suite = load_suite(suite)
    chosen = select(target_suite, checkpoint)
    if len(chosen) != 1:
        raise BadInput(
            f"--checkpoint {checkpoint} names {len(chosen)} checkpoints: the files are of one, say model@step"
        )
    files = csv_files(paths)
    store = Store.create(out)
    with store.lock():
        done = import_csv(store, target_suite, chosen[0], files, fix_last_batch=fix_last_batch)
    for file, lines in done.renumbered.items():
        typer.echo(
            f"{escape_for_terminal(str(file))}: the last {lines} lines were numbered one too high; mended"
        )
    typer.echo(
        f"{done.checkpoint}: {done.sequences:,} sequences from {done.lines:,} lines in {done.files} "
        f"file{'s' if done.files > 1 else ''} ({done.lines - done.sequences:,} duplicates), "
        f"{done.memorized:,} memorized{'' if done.written else ' (was here already)'}"
    )
