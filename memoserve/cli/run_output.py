"""What `memoserve run` tells a person before a run and after it; what happens in between is
memoserve.run.display's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memoserve.terminal import escape_for_terminal, escape_lines_for_terminal

if TYPE_CHECKING:
    from rich.console import Console

    from memoserve.run.checks.inputs import Inputs
    from memoserve.run.estimate import Estimate
    from memoserve.run.job import Job
    from memoserve.run.outcome import Outcome
    from memoserve.run.plan import Plan


def print_job(console: Console, job: Job) -> None:
    options, diagnosis = job.options, job.diagnosis
    console.print(
        f"suite {escape_for_terminal(job.suite.name)}: {len(job.checkpoints)} checkpoints -> {options.out}"
        f"  ({options.mode} mode, {options.engine} {diagnosis.version} on {diagnosis.device}"
        + (", over Ray)" if job.cluster is not None else ")"),
        markup=False,
        highlight=False,
    )


def print_inputs(console: Console, inputs: Inputs, dry_run: bool) -> None:
    """What of the checks a person should read before the run goes on."""
    from collections import Counter
    from typing import get_args

    from memoserve.checks import CheckResult
    from memoserve.run.display import checked_line

    told = {(one.model.name, one.step) for one in (*inputs.weights.refused, *inputs.weights.same_as)}
    for check in inputs.checks:
        if (line := checked_line(check)) and (check.model, check.step) not in told:
            console.print(escape_lines_for_terminal(line), markup=False, highlight=False)
    for checkpoint, reason in inputs.weights.refused.items() if dry_run else ():
        line = escape_lines_for_terminal(f"{checkpoint!s:>14}  FAILED: {reason}")
        console.print(line, markup=False, highlight=False, style="bold red")
    for checkpoint, other in inputs.weights.same_as.items():
        line = escape_for_terminal(f"{checkpoint!s:>14}  skipped: it has the weights of {other}")
        console.print(line, markup=False, highlight=False)
    counts = Counter(check.result for check in inputs.checks)
    counted = ", ".join(f"{counts[result]} {result}" for result in get_args(CheckResult) if counts[result])
    console.print(f"checks of weights and sequences: {counted}", highlight=False)


def print_outcome(console: Console, outcome: Outcome) -> None:
    plan, same_as = outcome.plan, outcome.inputs.weights.same_as
    if plan.todo:
        rate = outcome.windows / outcome.seconds if outcome.seconds else 0.0
        console.print(
            f"{outcome.sequences:,} scores written ({outcome.windows:,} windows evaluated)"
            f" in {outcome.seconds:.0f} s, {rate:,.0f} windows/s start-up included",
            highlight=False,
        )
    elif plan.index:
        console.print(f"no score is missing; {plan.unindexed:,} window ids were", highlight=False)
    else:
        console.print("nothing to do: all scores exist")
    planned = {item.checkpoint for item in plan.todo}
    for failure in outcome.failures:
        if failure.checkpoint not in planned:  # not told of during the run: it had nothing to do there
            console.print(escape_lines_for_terminal(failure.reason), markup=False, highlight=False)
    if same_as:
        names = "; ".join(f"{one} has those of {other}" for one, other in same_as.items())
        line = escape_for_terminal(f"{len(same_as)} skipped for the weights of another checkpoint: {names}")
        console.print(line, markup=False, highlight=False)


def print_estimate(console: Console, plan: Plan, cost: Estimate) -> None:
    from rich.markup import escape
    from rich.table import Table

    from memoserve.run.display import duration

    if not plan.todo:
        console.print(
            f"no score is missing; {plan.unindexed:,} window ids are"
            if plan.index
            else "nothing to do: all scores exist",
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
            escape(escape_for_terminal(str(item.plan.checkpoint))),
            f"{len(item.plan.missing):,}",
            f"{item.plan.sequences:,}",
            f"{item.windows:,}",
            f"{item.flops:.2e}",
            f"{item.bytes:,.0f}",
        )
    console.print(table)
    time = (
        "time: unknown on a GPU before a part has been measured"
        if cost.seconds is None
        else f"roughly {duration(cost.seconds)} on this machine"
    )
    console.print(f"in all {cost.flops:.2e} FLOPs, about {_bytes(cost.bytes)}, {time}", highlight=False)


def _bytes(number: float) -> str:
    from rich.filesize import decimal

    return decimal(int(number))
