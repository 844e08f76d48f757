"""What happens in a run: one class for each event, and one name for it from the worker to the browser.

A worker tells what it does; the dispatcher adds where the run is as a whole. Displays, `--progress json`, the
service's queue and whoever calls Job.run get the same events. In JSON an event's name is its class's in snake
case (without `Event`, which keeps PlanEvent and ProgressEvent apart from a Plan and from displays);
docs/run.md lists them with their fields.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from memoserve.checks import Check
from memoserve.domain import Checkpoint
from memoserve.run.checks.inputs import Inputs
from memoserve.run.estimate import Estimate
from memoserve.run.outcome import Outcome, Status
from memoserve.run.plan import CheckpointPlan, Plan, Range


@dataclass(frozen=True)
class Setting:
    """With what a run evaluates, and where to."""

    out: str
    mode: str
    engine: str
    engine_version: str
    device: str
    dtype: str
    executor: str


@dataclass(frozen=True)
class PlanEvent:
    """What is to be done, once; `estimate`: of a dry run."""

    plan: Plan
    inputs: Inputs
    setting: Setting
    estimate: Estimate | None = None


@dataclass(frozen=True)
class Indexing:
    """So many of the sequences that lack window ids have been read by now."""

    done: int
    total: int


@dataclass(frozen=True)
class EngineStarting:
    """A worker starts an engine for a model. The worker's name is empty if there is but one."""

    model: str
    worker: str


@dataclass(frozen=True)
class EngineUp:
    """That engine is ready."""

    model: str
    worker: str
    seconds: float


@dataclass(frozen=True)
class EngineNotStarted:
    """It could not be started; other workers make its parts."""

    model: str
    worker: str
    reason: str


@dataclass(frozen=True)
class WeightsLoaded:
    """An engine has a checkpoint's weights. Of several workers' the first becomes a CheckpointStarted."""

    checkpoint: Checkpoint


@dataclass(frozen=True)
class CheckpointStarted:
    """The first part of a checkpoint is evaluated."""

    checkpoint: Checkpoint
    sequences: int
    parts: int


@dataclass(frozen=True)
class PartAdvanced:
    """Of one part so many sequences are scored by now, and so many distinct windows evaluated for it. The
    dispatcher makes it a ProgressEvent.
    """

    checkpoint: Checkpoint
    span: Range
    sequences: int
    windows: int


@dataclass(frozen=True)
class Counts:
    """Sequences scored of a checkpoint and of all, in this run; windows_per_second: distinct ones, since the
    checkpoint started.
    """

    windows_per_second: float
    done: int
    total: int
    all_done: int
    all_total: int


@dataclass(frozen=True)
class ProgressEvent:
    """A checkpoint has got further."""

    checkpoint: Checkpoint
    counts: Counts


@dataclass(frozen=True)
class PartDone:
    """A part is in the store: its sequences, and the distinct windows evaluated for it."""

    checkpoint: Checkpoint
    span: Range
    sequences: int
    windows: int
    counts: Counts


@dataclass(frozen=True)
class CheckpointFinished:
    """It is whole. memorized: of the sequences scored in this run; windows: distinct ones evaluated."""

    checkpoint: Checkpoint
    sequences: int
    memorized: int
    windows: int
    seconds: float


@dataclass(frozen=True)
class CheckpointFailed:
    """It is not, and why; the run goes on with the others."""

    checkpoint: Checkpoint
    reason: str


@dataclass(frozen=True)
class ChecksMade:
    """A worker held things against each other. The dispatcher keeps that, and makes a Checked of each."""

    suite: str
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class Checked:
    """Something was held against something else."""

    check: Check


@dataclass(frozen=True)
class Notice:
    """Something that a person should know, and that stops nothing."""

    text: str


@dataclass(frozen=True)
class End:
    """The run is over. `message`: of an error; `outcome`: of a run that came to its end."""

    status: Status
    exit_code: int
    message: str | None = None
    outcome: Outcome | None = None


WorkerEvent = EngineStarting | EngineUp | WeightsLoaded | PartAdvanced | ChecksMade | Notice
"""What a worker tells, on this machine or over Ray."""

Event = (
    PlanEvent
    | Indexing
    | EngineStarting
    | EngineUp
    | EngineNotStarted
    | CheckpointStarted
    | ProgressEvent
    | PartDone
    | CheckpointFinished
    | CheckpointFailed
    | Checked
    | Notice
    | End
)
"""What a run tells, one event at a time. Several checkpoints may be under way together."""

OnEvent = Callable[[Event], None]
OnWorkerEvent = Callable[[WorkerEvent], None]


def name_of(kind: type[Event]) -> str:
    """The name of a class of events in JSON."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__.removesuffix("Event")).lower()


BY_NAME: dict[str, type[Event]] = {name_of(kind): kind for kind in get_args(Event)}
"""The classes of events by their names in JSON."""


def as_json(event: Event) -> dict[str, Any]:
    """An event as JSON has it: its name, the time (seconds since 1970) and its fields."""
    if isinstance(event, PlanEvent):
        values = _of_plan(event)
    elif isinstance(event, End):
        values = _of_end(event)
    elif isinstance(event, Checked):
        values = asdict(event.check)
    else:
        values = {}
        for field in fields(event):
            value = getattr(event, field.name)
            if isinstance(value, Checkpoint):
                values |= {"model": value.model.name, "step": value.step}
            elif isinstance(value, Counts):
                values |= asdict(value)
            elif field.name == "span":
                values |= {"first": value[0], "stop": value[1]}
            else:
                values[field.name] = round(value, 3) if isinstance(value, float) else value
    return {"event": name_of(type(event)), "time": round(time.time(), 3), **values}


def _of_plan(event: PlanEvent) -> dict[str, Any]:
    plan, inputs, estimate = event.plan, event.inputs, event.estimate
    cost = (
        {} if estimate is None else {name: getattr(estimate, name) for name in ("flops", "bytes", "seconds")}
    )
    return {
        "suite": plan.suite.name,
        **asdict(event.setting),
        **cost,
        "sequences": plan.sequences,
        "checkpoints": [_planned(item) for item in plan.checkpoints],
        "skipped": _skipped(inputs),
        "checks": [asdict(check) for check in inputs.checks],
    }


def _planned(item: CheckpointPlan) -> dict[str, Any]:
    return {
        "model": item.checkpoint.model.name,
        "step": item.checkpoint.step,
        "wanted": item.wanted,
        "sequences": item.sequences,
        "parts": len(item.missing),
    }


def _skipped(inputs: Inputs) -> list[dict[str, Any]]:
    """The checkpoints that have the weights of another one."""
    return [
        {"model": one.model.name, "step": one.step, "same_weights_as": str(other)}
        for one, other in inputs.weights.same_as.items()
    ]


def _of_end(event: End) -> dict[str, Any]:
    values: dict[str, Any] = {"status": event.status, "exit_code": event.exit_code}
    if event.message is not None:
        values["message"] = event.message
    if (outcome := event.outcome) is not None:
        values |= {
            "sequences": outcome.sequences,
            "windows": outcome.windows,
            "seconds": round(outcome.seconds, 3),
            "failures": [
                {"model": one.checkpoint.model.name, "step": one.checkpoint.step, "reason": one.reason}
                for one in outcome.failures
            ],
            "skipped": _skipped(outcome.inputs),
            "doubtful": [
                {"model": check.model, "step": check.step, "reason": check.detail}
                for check in outcome.doubtful
            ],
        }
    return values
