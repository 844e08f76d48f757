"""`memoserve run`: evaluate checkpoints and write their scores."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from memoserve.cli.completion import engines, selectors, suites
from memoserve.errors import MemoserveError, RunIncomplete, as_user_error
from memoserve.run.options import Dtype, Executor, Mode, Options, Verify

if TYPE_CHECKING:
    from rich.console import Console

    from memoserve.run.event_lines import EventLines

_WHAT = "What to evaluate"
_HOW = "How"
_INTERRUPTED = 130


def run(
    checkpoints: Annotated[
        str | None,
        typer.Option(
            help="all, final, or a list such as 70m@143000,12b@* (after @: a step, *, final, default,"
            " 1000:5000). Default: the suite's own choice of every model.",
            rich_help_panel=_WHAT,
            show_default=False,
            autocompletion=selectors,
        ),
    ] = Options.checkpoints,
    suite: Annotated[
        str,
        typer.Option(
            envvar="MEMOSERVE_SUITE",
            help="A shipped suite or a suite file.",
            rich_help_panel=_WHAT,
            autocompletion=suites,
        ),
    ] = Options.suite,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            envvar="MEMOSERVE_OUT",
            help="The score store: a directory, or a URL such as s3://bucket/store.",
            rich_help_panel=_WHAT,
        ),
    ] = Options.out,
    data: Annotated[
        str | None,
        typer.Option(
            help="Training sequences in training order, if not where the suite says.",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = Options.data,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="tokenizer.json, for sequences given as text.", rich_help_panel=_WHAT, show_default=False
        ),
    ] = Options.tokenizer,
    tokens_column: Annotated[
        str | None,
        typer.Option(
            help="The Parquet column of token ids, if not tokens or input_ids.",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = Options.tokens_column,
    partial_data: Annotated[
        bool,
        typer.Option(
            "--partial-data",
            help="The data are a part of the training data: its first sequences, or their first tokens.",
            rich_help_panel=_WHAT,
        ),
    ] = Options.partial_data,
    skip_short: Annotated[
        bool,
        typer.Option(
            "--skip-short", help="Leave out sequences shorter than a window.", rich_help_panel=_WHAT
        ),
    ] = Options.skip_short,
    sequences: Annotated[
        str | None,
        typer.Option(
            help="Range of sequence ids, such as 0:1000000.", rich_help_panel=_WHAT, show_default=False
        ),
    ] = Options.sequences,
    sample: Annotated[
        float | None,
        typer.Option(
            help="Random fraction of sequences, such as 0.01.", rich_help_panel=_WHAT, show_default=False
        ),
    ] = Options.sample,
    seed: Annotated[int, typer.Option(help="Seed of --sample.", rich_help_panel=_WHAT)] = Options.seed,
    unseen: Annotated[
        bool,
        typer.Option(
            "--unseen", help="Also sequences that a checkpoint has not seen yet.", rich_help_panel=_WHAT
        ),
    ] = Options.unseen,
    engine: Annotated[
        str,
        typer.Option(
            help="vllm, transformers (the reference), or another package's: memoserve doctor lists them.",
            rich_help_panel=_HOW,
            autocompletion=engines,
        ),
    ] = Options.engine,
    mode: Annotated[
        Mode,
        typer.Option(
            help="score: generate, and keep which of the 32 tokens match. extract: decide memorized and the"
            " matched prefix in one forward pass, exactly, at a fraction of the cost.",
            rich_help_panel=_HOW,
        ),
    ] = Options.mode,
    loglik: Annotated[
        bool,
        typer.Option(
            "--loglik", help="With extract: also the continuation's log-likelihood.", rich_help_panel=_HOW
        ),
    ] = Options.loglik,
    dtype: Annotated[
        Dtype,
        typer.Option(
            metavar="DTYPE",
            help="float32, float16, bfloat16 or auto: float32 on a CPU, the weights' own on a GPU.",
            rich_help_panel=_HOW,
        ),
    ] = Options.dtype,
    context: Annotated[
        int, typer.Option(min=1, help="Tokens of context.", rich_help_panel=_HOW)
    ] = Options.context,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Slower; byte-identical output, independent of batching.",
            rich_help_panel=_HOW,
        ),
    ] = Options.deterministic,
    verify: Annotated[
        Verify,
        typer.Option(
            help="When a few windows also go through Transformers' own forward, which must agree: at an"
            " engine's start and its first switch of weights, or at every switch.",
            rich_help_panel=_HOW,
        ),
    ] = Options.verify,
    allow_implausible: Annotated[
        bool,
        typer.Option(
            "--allow-implausible",
            help="Exit with 0 although a checkpoint knows its training data worse than it should.",
            rich_help_panel=_HOW,
        ),
    ] = Options.allow_implausible,
    tensor_parallel: Annotated[
        int, typer.Option(min=1, help="GPUs that share one model.", rich_help_panel=_HOW)
    ] = Options.tensor_parallel,
    devices: Annotated[
        str | None,
        typer.Option(
            help="GPUs to use, such as 0,1,2,3 (default: all). On a CPU: cores for an engine each, such as"
            " 0-15,16-31 (default: all for one).",
            rich_help_panel=_HOW,
            show_default=False,
        ),
    ] = Options.devices,
    executor: Annotated[
        Executor,
        typer.Option(help="ray: on all nodes of a Ray cluster.", rich_help_panel=_HOW),
    ] = Options.executor,
    address: Annotated[
        str,
        typer.Option(help="The Ray cluster's, if not this machine's.", rich_help_panel=_HOW),
    ] = Options.address,
    part_size: Annotated[
        int | None,
        typer.Option(min=1, help="Sequence ids in a part.", rich_help_panel=_HOW, show_default=False),
    ] = Options.part_size,
    allow_pickle_weights: Annotated[
        bool,
        typer.Option(
            "--allow-pickle-weights",
            help="Also load pytorch_model.bin, which can run code of its author.",
            rich_help_panel=_HOW,
        ),
    ] = Options.allow_pickle_weights,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan and its cost; start nothing.", rich_help_panel=_HOW),
    ] = Options.dry_run,
    progress: Annotated[
        Literal["auto", "json"],
        typer.Option(
            help="auto: for people. json: one event a line on standard output, and nothing else.",
            rich_help_panel=_HOW,
        ),
    ] = "auto",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what the engine prints.", rich_help_panel=_HOW)
    ] = Options.verbose,
) -> None:
    """Evaluate checkpoints of a suite and write one score per sequence and checkpoint.

    What is already there is kept, what is missing is made: start it again after an interruption, or with
    more checkpoints or sequences. Weights and sequences are checked first, against each other and the
    suite. Exit code 6 says that a checkpoint failed, or that its scores are in doubt, and the others are
    whole.
    """
    options = Options(
        checkpoints=checkpoints,
        suite=suite,
        out=out,
        data=data,
        tokenizer=tokenizer,
        tokens_column=tokens_column,
        partial_data=partial_data,
        skip_short=skip_short,
        sequences=sequences,
        sample=sample,
        seed=seed,
        unseen=unseen,
        engine=engine,
        mode=mode,
        loglik=loglik,
        dtype=dtype,
        context=context,
        deterministic=deterministic,
        verify=verify,
        allow_implausible=allow_implausible,
        tensor_parallel=tensor_parallel,
        devices=devices,
        executor=executor,
        address=address,
        part_size=part_size,
        allow_pickle_weights=allow_pickle_weights,
        dry_run=dry_run,
        verbose=verbose,
    )
    _run(options, progress)


def _run(options: Options, progress: Literal["auto", "json"]) -> None:
    from rich.console import Console

    from memoserve.cli.run_output import print_estimate, print_inputs, print_job, print_outcome
    from memoserve.run.display import reporting
    from memoserve.run.event_lines import EventLines
    from memoserve.run.events import End, PlanEvent
    from memoserve.run.job import prepare

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C
    lines = EventLines(_standard_output_alone()) if progress == "json" else None
    console = Console(soft_wrap=True, quiet=lines is not None)
    with _ending(lines, console):
        job = prepare(options)
        print_job(console, job)
        print_inputs(console, job.inputs, options.dry_run)
        if options.dry_run:
            plan, cost = job.estimate()
            print_estimate(console, plan, cost)
            if lines is not None:
                lines(PlanEvent(plan, job.inputs, job.setting, cost))
                lines(End("dry_run", 0))
            return
        with nullcontext(lines) if lines is not None else reporting(console) as on_event:
            outcome = job.run(on_event)
        print_outcome(console, outcome)
    if outcome.incomplete:
        raise RunIncomplete("\n".join(outcome.incomplete))


def _standard_output_alone() -> TextIO:
    """Standard output for events alone: what anything else prints there goes to standard error."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


@contextmanager
def _ending(lines: EventLines | None, console: Console) -> Iterator[None]:
    """Say how a run ended that did not come to its end."""
    from memoserve.run.events import End

    try:
        yield
    except KeyboardInterrupt:
        console.print("interrupted: whole parts are kept, the same command goes on from here")
        if lines is not None:
            lines(End("interrupted", _INTERRUPTED))
        raise typer.Exit(_INTERRUPTED) from None
    except Exception as raised:
        error = as_user_error(raised)
        if lines is not None:
            code = error.exit_code if isinstance(error, MemoserveError) else 1
            with suppress(OSError):  # they may go to the disk that is full
                lines(End("error", code, message=str(error)))
        raise
