"""What the events of `memoserve run --progress json` (docs/run.md) come to: where a run is now."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_REASONS = 2_000
"""Characters of a failure's reason: it may quote a log."""


def start() -> dict[str, Any]:
    """Where a run is before its first event."""
    return {
        "phase": "starting",
        "checkpoint": None,
        "done": 0,
        "total": 0,
        "all_done": 0,
        "all_total": 0,
        "windows_per_second": None,
        "seconds_left": None,
        "began": None,
        "checkpoints_done": 0,
        "checkpoints_total": 0,
        "failures": [],
        "exit_code": None,
        "said": "",
    }


def follow(now: dict[str, Any], event: dict[str, Any]) -> None:
    """Change `now` by one event; those that are not known change nothing."""
    kind = event.get("event")
    name = f"{event.get('model')}@{event.get('step')}"
    if kind == "plan":
        whole = [one for one in event["checkpoints"] if not one["sequences"]]
        now |= start() | {
            "phase": "reading sequences",
            "all_total": event["sequences"],
            "checkpoints_done": len(whole),
            "checkpoints_total": len(event["checkpoints"]),
        }
    elif kind == "indexing":
        now |= {"phase": "reading sequences", "done": event["done"], "total": event["total"]}
    elif kind == "engine_starting":
        now |= {"phase": f"starting the engine for {event['model']}", "done": 0, "total": 0}
    elif kind == "engine_up":
        now["phase"] = f"loading {event['model']}"
    elif kind == "checkpoint_started":
        now |= {
            "phase": "evaluating",
            "checkpoint": name,
            "done": 0,
            "total": event["sequences"],
            "windows_per_second": None,
        }
        # Not the time that an engine takes to start.
        now["began"] = now["began"] or event.get("time")
    elif kind in {"progress", "part_done"}:
        now |= {"phase": "evaluating", "checkpoint": name} | {
            key: event[key] for key in ("done", "total", "all_done", "all_total", "windows_per_second")
        }
        if now["began"] and now["all_done"]:
            rest = (now["all_total"] - now["all_done"]) / now["all_done"]
            now["seconds_left"] = round((event["time"] - now["began"]) * rest, 1)
    elif kind == "checkpoint_finished":
        now["checkpoints_done"] += 1
        now["done"] = now["total"]
    elif kind == "checkpoint_failed":
        now["failures"] = [
            *now["failures"],
            {"checkpoint": name, "reason": str(event["reason"])[:_REASONS]},
        ]
    elif kind == "end":
        now |= {
            "phase": event["status"],
            "exit_code": event["exit_code"],
            "said": event.get("message", ""),
        }


def read_events(log: Path, offset: int) -> tuple[list[dict[str, Any]], list[str], int]:
    """(events, other lines, offset of what follows) of a log's whole lines from `offset` on."""
    events, others = [], []
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
            events.append(event)
    return events, others, offset + len(whole)


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
        kind = str(event.pop("event"))
        if kind == "plan":
            event["checkpoints"] = len(event["checkpoints"])
        if "model" in event and "step" in event:
            event = {"checkpoint": f"{event.pop('model')}@{event.pop('step')}", **event}
        yield f"{at} {kind.replace('_', ' ')}: " + ", ".join(f"{k} {v}" for k, v in event.items())
