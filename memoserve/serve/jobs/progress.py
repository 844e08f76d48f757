"""What the events of `memoserve run --progress json` (docs/run.md) come to: where a run is now."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from memoserve.run import events

_REASONS = 2_000
"""Characters of a failure's reason: it may quote a log."""


@dataclass(frozen=True)
class CheckpointFailure:
    """A checkpoint that could not be evaluated, and why."""

    checkpoint: str
    reason: str


@dataclass(frozen=True)
class Progress:
    """Where a run is: see contract.RunProgress, which is this and the state of the run."""

    event: str | None
    model: str | None
    checkpoint: str | None
    done: int
    total: int
    all_done: int
    all_total: int
    windows_per_second: float | None
    seconds_left: float | None
    checkpoints_done: int
    checkpoints_total: int
    failures: tuple[CheckpointFailure, ...]


@dataclass(frozen=True)
class Followed(Progress):
    """Also what following it takes: when its first checkpoint began (in seconds since 1970), how it ended."""

    began: float | None
    exit_code: int | None
    error: str


START = Followed(
    event=None, model=None, checkpoint=None, done=0, total=0, all_done=0, all_total=0,
    windows_per_second=None, seconds_left=None, checkpoints_done=0, checkpoints_total=0, failures=(),
    began=None, exit_code=None, error="",
)  # fmt: skip
"""Where a run is before its first event."""


def kept(values: Mapping[str, Any]) -> Followed:
    """What asdict made of it; what another version has more or less is left out or as at the start."""
    names = {field.name for field in fields(Followed)}
    found = {name: value for name, value in values.items() if name in names}
    failures = tuple(CheckpointFailure(**one) for one in found.pop("failures", ()))
    return replace(START, **found, failures=failures)


def follow(now: Followed, event: Mapping[str, Any]) -> Followed:
    """Where a run is after one more event; those that are not known change nothing."""
    kind = events.BY_NAME.get(event["event"])
    checkpoint = f"{event.get('model')}@{event.get('step')}"
    match kind:
        case events.PlanEvent:
            planned = event["checkpoints"]
            whole = sum(not one["sequences"] for one in planned)
            counted = {"all_total": event["sequences"], "checkpoints_total": len(planned)}
            now = replace(START, **counted, checkpoints_done=whole)
        case events.Indexing:
            now = replace(now, done=event["done"], total=event["total"])
        case events.EngineStarting:
            now = replace(now, model=event["model"], done=0, total=0)
        case events.EngineUp:
            now = replace(now, model=event["model"])
        case events.CheckpointStarted:
            # Not the time that an engine takes to start.
            began = now.began or event["time"]
            now = replace(now, checkpoint=checkpoint, done=0, total=event["sequences"], began=began)
            now = replace(now, windows_per_second=None)
        case events.ProgressEvent | events.PartDone:
            counts = {field.name: event[field.name] for field in fields(events.Counts)}
            now = replace(now, checkpoint=checkpoint, **counts)
            now = replace(now, seconds_left=_seconds_left(now, event["time"]))
        case events.CheckpointFinished:
            return replace(now, checkpoints_done=now.checkpoints_done + 1, done=now.total)
        case events.CheckpointFailed:
            failure = CheckpointFailure(checkpoint, str(event["reason"])[:_REASONS])
            return replace(now, failures=(*now.failures, failure))
        case events.End:
            now = replace(now, exit_code=event["exit_code"], error=event.get("message", ""))
        case _:
            return now
    return replace(now, event=event["event"])


def _seconds_left(now: Followed, time: float) -> float | None:
    if not now.began or not now.all_done:
        return now.seconds_left
    return round((time - now.began) * (now.all_total - now.all_done) / now.all_done, 1)


def read_events(log: Path, offset: int) -> tuple[list[dict[str, Any]], list[str], int]:
    """(events, other lines, offset of what follows) of a log's whole lines from `offset` on."""
    found, others = [], []
    try:
        with log.open("rb") as file:
            file.seek(offset)
            content = file.read()
    except FileNotFoundError:
        return [], [], offset
    whole = content[: content.rfind(b"\n") + 1]
    for line in whole.splitlines():
        text = line.decode("utf-8", "replace")
        event = parse(text)
        if event is None:
            others.append(text)
        else:
            found.append(event)
    return found, others, offset + len(whole)


def parse(line: str) -> dict[str, Any] | None:
    """The event of a line, or None."""
    if not line.startswith('{"event"'):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def readable(lines: Iterable[str]) -> Iterable[str]:
    """A log's lines for people: events as time, name and fields."""
    for line in lines:
        event = parse(line)
        if event is None:
            yield line
            continue
        at = time.strftime("%H:%M:%S", time.gmtime(float(event.pop("time", 0))))
        name = str(event.pop("event"))
        if events.BY_NAME.get(name) is events.PlanEvent:
            event["checkpoints"] = len(event["checkpoints"])
        if "model" in event and "step" in event:
            event = {"checkpoint": f"{event.pop('model')}@{event.pop('step')}", **event}
        yield f"{at} {name.replace('_', ' ')}: " + ", ".join(f"{k} {v}" for k, v in event.items())
