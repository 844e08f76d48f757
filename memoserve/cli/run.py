"""`memoserve run`: evaluate checkpoints and write their scores."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, TextIO

import typer

from memoserve.errors import BadInput, MemoserveError, RunIncomplete, StoreConflict, in_words
from memoserve.terminal import harmless, harmless_lines

if TYPE_CHECKING:
    from rich.console import Console

    from memoserve.checks import Check
    from memoserve.run import Estimate, Events, Inputs, Outcome, Plan
    from memoserve.store import Store

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
        ),
    ] = None,
    suite: Annotated[
        str,
        typer.Option(
            envvar="MEMOSERVE_SUITE", help="A shipped suite or a suite file.", rich_help_panel=_WHAT
        ),
    ] = "mini",
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            envvar="MEMOSERVE_OUT",
            help="The score store: a directory, or a URL such as s3://bucket/store.",
            rich_help_panel=_WHAT,
        ),
    ] = "memoserve-out",
    data: Annotated[
        str | None,
        typer.Option(
            help="Training sequences in training order, if not where the suite says.",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="tokenizer.json, for sequences given as text.", rich_help_panel=_WHAT, show_default=False
        ),
    ] = None,
    tokens_column: Annotated[
        str | None,
        typer.Option(
            help="The Parquet column of token ids, if not tokens or input_ids.",
            rich_help_panel=_WHAT,
            show_default=False,
        ),
    ] = None,
    partial_data: Annotated[
        bool,
        typer.Option(
            "--partial-data",
            help="The data are a part of the training data: its first sequences, or their first tokens.",
            rich_help_panel=_WHAT,
        ),
    ] = False,
    skip_short: Annotated[
        bool,
        typer.Option(
            "--skip-short", help="Leave out sequences shorter than a window.", rich_help_panel=_WHAT
        ),
    ] = False,
    sequences: Annotated[
        str | None,
        typer.Option(
            help="Range of sequence ids, such as 0:1000000.", rich_help_panel=_WHAT, show_default=False
        ),
    ] = None,
    sample: Annotated[
        float | None,
        typer.Option(
            help="Share of them, drawn at random, such as 0.01.", rich_help_panel=_WHAT, show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --sample.", rich_help_panel=_WHAT)] = 0,
    unseen: Annotated[
        bool,
        typer.Option(
            "--unseen", help="Also sequences that a checkpoint has not seen yet.", rich_help_panel=_WHAT
        ),
    ] = False,
    engine: Annotated[
        str,
        typer.Option(
            help="vllm, transformers (the reference), or another package's: memoserve doctor lists them.",
            rich_help_panel=_HOW,
        ),
    ] = "vllm",
    mode: Annotated[
        Literal["score", "extract"],
        typer.Option(
            help="score: generate, and keep which of the 32 tokens match. extract: decide memorized and the"
            " matched prefix in one forward pass, exactly, at a fraction of the cost.",
            rich_help_panel=_HOW,
        ),
    ] = "score",
    loglik: Annotated[
        bool,
        typer.Option(
            "--loglik", help="With extract: also the continuation's log-likelihood.", rich_help_panel=_HOW
        ),
    ] = False,
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        typer.Option(help="auto: float32 on a CPU, the weights' own on a GPU.", rich_help_panel=_HOW),
    ] = "auto",
    context: Annotated[int, typer.Option(min=1, help="Tokens of context.", rich_help_panel=_HOW)] = 32,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="Results that don't depend on parts, batches, restarts: slower; equal parts byte by byte.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    verify: Annotated[
        Literal["start", "every"],
        typer.Option(
            help="When a few windows also go through Transformers' own forward, which must agree: at an"
            " engine's start and its first switch of weights, or at every switch.",
            rich_help_panel=_HOW,
        ),
    ] = "start",
    allow_implausible: Annotated[
        bool,
        typer.Option(
            "--allow-implausible",
            help="Exit with 0 although a checkpoint knows its training data worse than it should.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    tensor_parallel: Annotated[
        int, typer.Option(min=1, help="GPUs that share one model.", rich_help_panel=_HOW)
    ] = 1,
    devices: Annotated[
        str | None,
        typer.Option(
            help="GPUs to use, such as 0,1,2,3 (default: all). On a CPU: cores for an engine each, such as"
            " 0-15,16-31 (default: all for one).",
            rich_help_panel=_HOW,
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        Literal["local", "ray"],
        typer.Option(help="ray: on all nodes of a Ray cluster.", rich_help_panel=_HOW),
    ] = "local",
    address: Annotated[
        str,
        typer.Option(help="The Ray cluster's, if not this machine's.", rich_help_panel=_HOW),
    ] = "auto",
    part_size: Annotated[
        int | None,
        typer.Option(min=1, help="Sequence ids in a part.", rich_help_panel=_HOW, show_default=False),
    ] = None,
    allow_pickle_weights: Annotated[
        bool,
        typer.Option(
            "--allow-pickle-weights",
            help="Also load pytorch_model.bin, which can run code of its author.",
            rich_help_panel=_HOW,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan and its cost; start nothing.", rich_help_panel=_HOW),
    ] = False,
    progress: Annotated[
        Literal["auto", "json"],
        typer.Option(
            help="auto: for people. json: one event a line on standard output, and nothing else.",
            rich_help_panel=_HOW,
        ),
    ] = "auto",
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what the engine prints.", rich_help_panel=_HOW)
    ] = False,
) -> None:
    """Evaluate checkpoints of a suite and write one score per sequence and checkpoint.

    What is already there is kept, what is missing is made: start it again after an interruption, or with
    more checkpoints or sequences. Weights and sequences are checked first, against each other and the
    suite. Exit code 6 says that a checkpoint failed, or that its scores are in doubt, and the others are
    whole.
    """
    from rich.console import Console

    from memoserve.engines import EngineSettings, diagnose, fetch_weights, known_engine, require
    from memoserve.run import (
        Cluster,
        Events,
        Failure,
        Outcome,
        Work,
        check_inputs,
        check_weights,
        devices_for,
        doubtful,
        estimate,
        execute,
        execute_on,
        fingerprint_of,
        make_lists,
        make_plan,
        on_every_node,
        part_size_for,
        reporting,
        skipped,
    )
    from memoserve.sequences import Selection, open_sequences, parse_range
    from memoserve.store import Store
    from memoserve.store.verify import mend
    from memoserve.suites import load_suite, select

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C
    events = Events(_standard_output_alone()) if progress == "json" else None
    console = Console(soft_wrap=True, quiet=events is not None)
    with _ending(events, console):
        if loglik and mode != "extract":
            raise BadInput(
                "--loglik needs --mode extract: generation gives no likelihood of the true continuation"
            )
        engine = known_engine(engine)
        chosen_suite = load_suite(suite)
        chosen = select(chosen_suite, checkpoints)
        cluster = Cluster(address) if executor == "ray" and not dry_run else None
        if cluster is not None:
            diagnosis = cluster.diagnose(engine)
        else:
            diagnosis = diagnose(engine) if dry_run else require(engine)
        console.print(
            f"suite {harmless(chosen_suite.name)}: {len(chosen)} checkpoints -> {out}"
            f"  ({mode} mode, {engine} {diagnosis.version} on {diagnosis.device}"
            + (", over Ray)" if cluster is not None else ")"),
            markup=False,
            highlight=False,
        )
        path = data or chosen_suite.sequences.path
        column = tokens_column or chosen_suite.sequences.column
        if path is None:
            raise BadInput(
                f"suite {chosen_suite.name} doesn't say where its sequences are: give --data,"
                " such as the document.idx of the training data"
            )
        source = open_sequences(path, tokenizer or chosen_suite.sequences.tokenizer, column)
        control = chosen_suite.sequences.control
        last = max(chosen_suite.sequences.trained, control[1] if control else 0)
        span = parse_range(sequences, source.count) if sequences else (0, min(source.count, last))
        fraction = 1.0 if sample is None else sample
        selection = Selection(*span, fraction=fraction, seed=seed, skip_short=skip_short)
        on_cpu = diagnosis.device == "cpu"
        settings = EngineSettings(
            engine=engine,
            mode=mode,
            context=context,
            dtype="float32" if dtype == "auto" else dtype,
            banned_token_id=chosen_suite.banned_token_id,
            device=diagnosis.device,
            loglik=loglik,
            deterministic=deterministic,
            tensor_parallel=tensor_parallel,
            allow_pickle=allow_pickle_weights,
            verify=verify,
        )
        chosen_devices = devices_for(settings, devices) if cluster is None else []
        existing = _existing(out)
        known_dtype = on_cpu or dtype != "auto"
        if existing is not None and known_dtype and _is_whole(existing, chosen_suite.name):
            existing.refuse_unlike(
                chosen_suite.name,
                fingerprint_of(chosen_suite, source, selection, settings, diagnosis.version),
            )
        inputs = check_inputs(
            chosen_suite,
            chosen,
            source,
            settings,
            existing,
            check_weights=check_weights if cluster is None else cluster.check_weights,
            partial=partial_data,
            skip_short=skip_short,
        )
        _tell_inputs(console, inputs, dry_run)
        if dtype == "auto" and not on_cpu and inputs.chosen:
            fetch = cluster.fetch if cluster is not None else fetch_weights
            settings = replace(settings, dtype=fetch(inputs.chosen[-1], allow_pickle_weights).dtype)
        fingerprint = fingerprint_of(chosen_suite, source, selection, settings, diagnosis.version)
        cells = part_size or part_size_for(selection)
        about = {
            "out": out,
            "mode": mode,
            "engine": engine,
            "engine_version": diagnosis.version,
            "device": diagnosis.device,
            "dtype": settings.dtype,
            "executor": executor,
        }
        if dry_run:
            existing = Store.open(out) if Store.is_at(out) else None
            if existing is not None:
                existing.refuse_unlike(chosen_suite.name, fingerprint)
            plan = make_plan(chosen_suite, inputs.chosen, selection, existing, cells, unseen)
            cost = estimate(plan, source, settings)
            _print_estimate(console, cost, plan)
            if events is not None:
                events.plan(plan, inputs, **about, flops=cost.flops, bytes=cost.bytes, seconds=cost.seconds)
                events.end("dry_run", 0)
            return
        store = Store.create(out)
        with store.lock():
            for damage in mend(store, chosen_suite.name, [(c.model.name, c.step) for c in chosen]):
                console.print(
                    harmless(f"{damage.name} is damaged ({damage.problem}): moved aside and made again"),
                    markup=False,
                    highlight=False,
                )
            store.claim(chosen_suite, fingerprint)
            store.note_weights(chosen_suite.name, inputs.notes)
            store.write_checks(chosen_suite.name, inputs.checks)
            plan = make_plan(chosen_suite, inputs.chosen, selection, store, cells, unseen)
            make_lists(plan, store)
            if events is not None:
                events.plan(plan, inputs, **about)
            if not plan.todo and not plan.index:
                console.print("nothing is missing")
                outcome = Outcome()
            else:
                with nullcontext(events) if events is not None else reporting(plan, console) as told:
                    if cluster is None:
                        outcome = execute(
                            plan,
                            source,
                            store,
                            settings,
                            told,
                            chosen_devices,
                            verbose,
                            inputs.weights.refused,
                        )
                    else:
                        work = Work(
                            suite=chosen_suite,
                            fingerprint=fingerprint,
                            data=on_every_node(path),
                            tokenizer=on_every_node(tokenizer or chosen_suite.sequences.tokenizer),
                            column=column,
                            selection=selection,
                            store=on_every_node(out),
                            settings=settings,
                            engine_version=diagnosis.version,
                        )
                        outcome = execute_on(cluster, work, plan, source, store, told, inputs.weights.refused)
                if plan.todo:
                    _print_outcome(console, outcome)
                else:
                    console.print(f"no score is missing; {plan.unindexed:,} window ids were", highlight=False)
            told_of = {failure.checkpoint for failure in outcome.failures}
            for checkpoint, reason in inputs.weights.refused.items():
                if checkpoint not in told_of:  # its scores are whole, and are not of what is there now
                    console.print(harmless_lines(reason), markup=False, highlight=False)
                    outcome.failures.append(Failure(checkpoint, reason))
            doubts = doubtful(plan, store)
            _say_skipped(console, inputs)
            wrong = _incomplete(outcome, inputs, doubts, store, allow_implausible)
            if events is not None:
                events.end(
                    "incomplete" if wrong else "done",
                    RunIncomplete.exit_code if wrong else 0,
                    sequences=outcome.sequences,
                    windows=outcome.windows,
                    seconds=round(outcome.seconds, 3),
                    failures=[
                        {"model": f.checkpoint.model.name, "step": f.checkpoint.step, "reason": f.reason}
                        for f in outcome.failures
                    ],
                    skipped=skipped(inputs),
                    doubtful=[{"model": c.model, "step": c.step, "reason": c.detail} for c in doubts],
                )
            if wrong:
                raise RunIncomplete(wrong)


def _existing(out: str) -> Store | None:
    """The store that is there already. What is there instead is told when one is made."""
    from memoserve.store import Store

    with suppress(StoreConflict):
        return Store.open(out)
    return None


def _is_whole(store: Store, suite: str) -> bool:
    """Whether a suite's fingerprint can be read; a damaged one is mended before it is compared."""
    with suppress(StoreConflict):
        store.fingerprint(suite)
        return True
    return False


def _standard_output_alone() -> TextIO:
    """Standard output for events alone: what anything else prints there goes to standard error."""
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return stream


@contextmanager
def _ending(events: Events | None, console: Console) -> Iterator[None]:
    """Say how a run ended that did not come to its end."""
    try:
        yield
    except KeyboardInterrupt:
        console.print("interrupted: whole parts are kept, the same command goes on from here")
        if events is not None:
            events.end("interrupted", _INTERRUPTED)
        raise typer.Exit(_INTERRUPTED) from None
    except Exception as raised:
        error = in_words(raised)
        if events is not None:
            code = error.exit_code if isinstance(error, MemoserveError) else 1
            with suppress(OSError):  # they may go to the disk that is full
                events.end("error", code, message=str(error))
        raise


def _print_outcome(console: Console, outcome: Outcome) -> None:
    rate = outcome.windows / outcome.seconds if outcome.seconds else 0.0
    console.print(
        f"{outcome.sequences:,} scores written ({outcome.windows:,} windows evaluated)"
        f" in {outcome.seconds:.0f} s, {rate:,.0f} windows/s start-up included",
        highlight=False,
    )


def _tell_inputs(console: Console, inputs: Inputs, dry_run: bool) -> None:
    """What of the checks a person should read before the run goes on."""
    from collections import Counter
    from typing import get_args

    from memoserve.checks import CheckResult
    from memoserve.run import checked_line

    told = {(one.model.name, one.step) for one in (*inputs.weights.refused, *inputs.weights.same_as)}
    for check in inputs.checks:
        if (line := checked_line(check)) and (check.model, check.step) not in told:
            console.print(harmless_lines(line), markup=False, highlight=False)
    for checkpoint, reason in inputs.weights.refused.items() if dry_run else ():
        line = harmless_lines(f"{checkpoint!s:>14}  FAILED: {reason}")
        console.print(line, markup=False, highlight=False, style="bold red")
    for checkpoint, other in inputs.weights.same_as.items():
        line = harmless(f"{checkpoint!s:>14}  skipped: it has the weights of {other}")
        console.print(line, markup=False, highlight=False)
    counts = Counter(check.result for check in inputs.checks)
    counted = ", ".join(f"{counts[result]} {result}" for result in get_args(CheckResult) if counts[result])
    console.print(f"checks of weights and sequences: {counted}", highlight=False)


def _say_skipped(console: Console, inputs: Inputs) -> None:
    if inputs.weights.same_as:
        names = "; ".join(f"{one} has those of {other}" for one, other in inputs.weights.same_as.items())
        console.print(
            harmless(f"{len(inputs.weights.same_as)} skipped for the weights of another checkpoint: {names}"),
            markup=False,
            highlight=False,
        )


def _incomplete(
    outcome: Outcome, inputs: Inputs, doubts: Sequence[Check], store: Store, allow_implausible: bool
) -> str:
    """Why a run that came to its end ends with RunIncomplete all the same; empty if it doesn't."""
    reasons = []
    if outcome.failures:
        names = ", ".join(str(failure.checkpoint) for failure in outcome.failures)
        whole = len(inputs.chosen) - len(outcome.failures)
        reasons.append(
            f"{len(outcome.failures)} of the checkpoints failed and are not whole: {names}.\n"
            + ("The others are. " if whole else "")
            + f"What the engines said is in {store.logs}; run again to try these again."
        )
    elif not inputs.chosen:
        reasons.append(
            "every checkpoint that was asked for has the weights of another one: nothing to evaluate"
        )
    doubted = sorted({check.subject for check in doubts})
    if doubted and not allow_implausible:
        reasons.append(
            f"the scores of {', '.join(doubted)} are in doubt: `memoserve status --checks` says why. If all "
            "is as it should be, say --allow-implausible"
        )
    return "\n".join(reasons)


def _print_estimate(console: Console, cost: Estimate, plan: Plan) -> None:
    from rich.markup import escape
    from rich.table import Table

    from memoserve.run import duration

    if not plan.todo:
        console.print(
            f"no score is missing; {plan.unindexed:,} window ids are" if plan.index else "nothing is missing",
            highlight=False,
        )
        return
    table = Table(
        title=f"{len(plan.todo)} of {len(plan.checkpoints)} checkpoints lack something", title_justify="left"
    )
    table.add_column("checkpoint")
    for heading in ("parts", "sequences", "windows", "FLOPs", "bytes"):
        table.add_column(heading, justify="right")
    for item in cost.checkpoints:
        table.add_row(
            escape(harmless(str(item.plan.checkpoint))),
            f"{len(item.plan.missing):,}",
            f"{item.plan.sequences:,}",
            f"{item.windows:,}",
            f"{item.flops:.2e}",
            f"{item.bytes:,.0f}",
        )
    console.print(table)
    time_said = (
        "time: unknown on a GPU before a part has been measured"
        if cost.seconds is None
        else f"roughly {duration(cost.seconds)} on this machine"
    )
    console.print(f"in all {cost.flops:.2e} FLOPs, about {_bytes(cost.bytes)}, {time_said}", highlight=False)


def _bytes(number: float) -> str:
    from rich.filesize import decimal

    return decimal(int(number))
