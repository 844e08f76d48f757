"""A run as an object: prepared, estimated, run and watched from Python, as the command line does it."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import get_args

import pytest
from typer.main import get_command

from memoserve.cli import app
from memoserve.errors import BadInput
from memoserve.run import events
from memoserve.run.events import CheckpointFinished, End, Event, PartDone, PlanEvent, as_json, name_of
from memoserve.run.job import prepare
from memoserve.run.options import Options, arguments_of
from memoserve.store import Store

SMALL = Options(checkpoints="116k@161", engine="transformers", mode="extract", sequences="0:200")


def test_the_command_line_has_each_option_with_its_default() -> None:
    command = get_command(app).commands["run"]  # type: ignore[attr-defined]
    defaults = {parameter.name: parameter.default for parameter in command.params}
    for field in fields(Options):
        assert defaults[field.name] == field.default, field.name


def test_options_as_arguments_mean_the_same() -> None:
    assert arguments_of(Options()) == []
    given = Options(suite="--odd", sample=0.5, loglik=True, mode="extract", allow_pickle_weights=True)
    arguments = arguments_of(given)
    assert arguments == [
        "--suite=--odd", "--sample=0.5", "--mode=extract", "--loglik", "--allow-pickle-weights",
    ]  # fmt: skip
    command = get_command(app).commands["run"]  # type: ignore[attr-defined]
    parsed = command.make_context("run", list(arguments)).params
    assert Options(**{field.name: parsed[field.name] for field in fields(Options)}) == given


def test_every_event_is_documented_by_its_name() -> None:
    documented = re.findall(r"^\| `(\w+)` \|", Path("docs/run.md").read_text(), re.M)
    assert sorted(documented) == sorted(name_of(kind) for kind in get_args(Event))


def test_a_job_says_what_it_would_cost_and_touches_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = prepare(replace(SMALL, out=str(tmp_path / "out"), dry_run=True))
    plan, cost = job.estimate()
    assert (plan.sequences, len(cost.checkpoints)) == (200, 1)
    assert cost.flops > 0
    assert {check.result for check in job.inputs.checks} == {"passed"}
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="dry_run"):
        job.run()


def test_options_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(BadInput, match="--loglik needs --mode extract"):
        prepare(replace(SMALL, mode="score", loglik=True))


@pytest.mark.engine
def test_a_job_runs_prints_nothing_and_tells_events(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told: list[Event] = []
    job = prepare(replace(SMALL, out=str(tmp_path / "out"), part_size=100))
    outcome = job.run(told.append)
    assert (outcome.exit_code, outcome.incomplete, outcome.sequences) == (0, (), 200)
    assert isinstance(told[0], PlanEvent)
    assert isinstance(told[-1], End)
    assert told[-1].outcome == outcome
    assert [event.span for event in told if isinstance(event, PartDone)] == [(0, 100), (100, 200)]
    (finished,) = [event for event in told if isinstance(event, CheckpointFinished)]
    assert finished.sequences == 200
    assert [as_json(event)["event"] for event in told[-2:]] == ["checkpoint_finished", "end"]
    assert isinstance(told[1], events.Indexing)
    assert capfd.readouterr() == ("", "")
    with Store.open(tmp_path / "out").lock():
        pass  # it was let go
    again = prepare(job.options).run()
    assert (again.plan.todo, again.sequences) == ((), 0)
