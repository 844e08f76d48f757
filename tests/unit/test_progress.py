"""Where a run is, from the events of the run itself: one vocabulary from worker to browser."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memoserve.run import events
from memoserve.run.events import BY_NAME, Counts, Event, as_json, name_of
from memoserve.serve.jobs.progress import START, Followed, follow, kept, readable
from memoserve.suites import load_suite, select

ROOT = Path(__file__).parents[2]
FIRST, SECOND = select(load_suite("mini"), "116k@161,116k@1001")


def told(event: Event, time: float) -> dict[str, Any]:
    """As the log of a run has it."""
    found: dict[str, Any] = json.loads(json.dumps(as_json(event)))
    return found | {"time": time}


def planned(sequences: int) -> SimpleNamespace:
    return SimpleNamespace(checkpoint=FIRST, wanted=100, sequences=sequences, missing=[(0, 10)])


def the_plan() -> events.PlanEvent:
    plan: Any = SimpleNamespace(
        suite=load_suite("mini"), sequences=200, checkpoints=[planned(0), planned(100), planned(100)]
    )
    inputs: Any = SimpleNamespace(weights=SimpleNamespace(same_as={}), checks=[])
    setting = events.Setting("out", "score", "vllm", "1", "cpu", "float32", "local")
    return events.PlanEvent(plan, inputs, setting)


RUN: list[tuple[Event, dict[str, Any]]] = [
    (the_plan(), {"event": "plan", "all_total": 200, "checkpoints_done": 1, "checkpoints_total": 3}),
    (events.Indexing(5, 20), {"event": "indexing", "done": 5, "total": 20}),
    (events.EngineStarting("116k", ""), {"event": "engine_starting", "model": "116k", "done": 0, "total": 0}),
    (events.EngineUp("116k", "", 3.0), {"event": "engine_up"}),
    (
        events.CheckpointStarted(FIRST, 100, 2),
        {"event": "checkpoint_started", "checkpoint": "116k@161", "total": 100, "began": 104.0},
    ),
    (
        events.ProgressEvent(FIRST, Counts(25.0, 50, 100, 50, 200)),
        {"event": "progress", "done": 50, "all_done": 50, "windows_per_second": 25.0, "seconds_left": 3.0},
    ),
    (
        events.PartDone(FIRST, (0, 100), 100, 90, Counts(30.0, 100, 100, 100, 200)),
        {"event": "part_done", "done": 100, "all_done": 100, "windows_per_second": 30.0, "seconds_left": 2.0},
    ),
    (events.CheckpointFinished(FIRST, 100, 7, 90, 3.0), {"checkpoints_done": 2}),
    (
        events.CheckpointStarted(SECOND, 100, 2),
        {"event": "checkpoint_started", "checkpoint": "116k@1001", "done": 0, "windows_per_second": None},
    ),
    (events.Notice("something"), {}),
    (
        events.CheckpointFailed(SECOND, "x" * 5000),
        {"failures": ({"checkpoint": "116k@1001", "reason": "x" * 2000},)},
    ),
    (events.End("error", 5, "no engine"), {"event": "end", "exit_code": 5, "error": "no engine"}),
]


def test_the_events_of_a_run_say_where_it_is() -> None:
    now = START
    for second, (event, changed) in enumerate(RUN):
        before = asdict(now)
        now = follow(now, told(event, 100.0 + second))
        assert asdict(now) == before | changed, event
        assert kept(json.loads(json.dumps(asdict(now)))) == now
    assert follow(now, {"event": "something_new", "time": 1.0}) == now
    again = follow(now, told(the_plan(), 300.0))
    assert (again.failures, again.began, again.exit_code, again.all_total) == ((), None, None, 200)


def test_what_another_version_kept_is_read_as_far_as_it_goes() -> None:
    failures = [{"checkpoint": "116k@161", "reason": "why"}]
    older = {"phase": "evaluating", "all_total": 7, "said": "", "failures": failures}
    assert kept(older) == replace(START, all_total=7, failures=kept({"failures": failures}).failures)
    assert isinstance(kept({}), Followed)


def test_the_page_has_words_for_what_says_what_a_run_does() -> None:
    script = (ROOT / "memoserve/serve/static/runs.js").read_text()
    block = re.search(r"const DOING = \{\n(.*?)\n\};", script, re.DOTALL)
    assert block is not None
    saying = {changed["event"] for _, changed in RUN if "event" in changed}
    assert set(re.findall(r"^  (\w+):", block[1], re.MULTILINE)) == saying
    assert saying <= set(BY_NAME)


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_names_of_events_are_those_of_the_documentation(name: str) -> None:
    assert name_of(BY_NAME[name]) == name
    assert f"| `{name}` |" in (ROOT / "docs/run.md").read_text()


def test_a_log_for_people() -> None:
    lines = [json.dumps(told(event, 0.0)) for event, _ in RUN[:5]] + ["Traceback (most recent call last):"]
    assert [line.partition(",")[0] for line in readable(lines)] == [
        "00:00:00 plan: suite mini",
        "00:00:00 indexing: done 5",
        "00:00:00 engine starting: model 116k",
        "00:00:00 engine up: model 116k",
        "00:00:00 checkpoint started: checkpoint 116k@161",
        "Traceback (most recent call last):",
    ]
