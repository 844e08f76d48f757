"""Selectors: which checkpoints of a suite, in one short text."""

from __future__ import annotations

from fnmatch import fnmatchcase

from memoserve.domain import Checkpoint, Model
from memoserve.errors import BadInput
from memoserve.suites.suite import Suite

_WORDS = {"all": "*@*", "final": "*@final", "default": "*@default"}


def label(checkpoint: Checkpoint) -> str:
    """The name of a checkpoint everywhere: `model@step`."""
    return str(checkpoint)


def select(suite: Suite, selector: str | None = None) -> tuple[Checkpoint, ...]:
    """The checkpoints that `selector` names, smallest model first, steps ascending, each once.

    None: the suite's default steps of every model; `all`: every step of every model; `final`: the last
    step of every model; otherwise a comma-separated list of these words and `model@step`, where the model
    may be a pattern (`*`, `1*b`) and the step a number, `*` (all), `final`, `default` or a range `1000:5000`
    (both ends included); `model` alone means `model@default`.

    Raises BadInput for what names no checkpoint.
    """
    named = ["default"] if selector is None else map(str.strip, selector.split(","))
    terms = [_WORDS.get(term, term) for term in named if term]
    if not terms:
        raise BadInput("the checkpoint selector is empty: say all, final, or a list such as 70m@143000,12b@*")
    chosen: set[tuple[int, int]] = set()
    for term in terms:
        model_pattern, _, step_term = term.partition("@")
        for model in _models(suite, model_pattern, term):
            for step in _steps(suite, step_term or "default", term):
                chosen.add((model.order, step))
    return tuple(suite.checkpoint(suite.models[order], step) for order, step in sorted(chosen))


def _models(suite: Suite, pattern: str, term: str) -> list[Model]:
    models = [model for model in suite.models if fnmatchcase(model.name, pattern)]
    if not models:
        names = ", ".join(model.name for model in suite.models)
        raise BadInput(f"{term!r} names no model of suite {suite.name}: its models are {names}")
    return models


def _steps(suite: Suite, step_term: str, term: str) -> list[int]:
    if step_term == "*":
        return list(suite.steps)
    if step_term == "final":
        return [suite.steps[-1]]
    if step_term == "default":
        return list(suite.default_steps)
    first, colon, last = step_term.partition(":")
    if not first.isdecimal() or (colon and not last.isdecimal()):
        raise BadInput(f"{term!r}: after @ comes a step, a range such as 1000:5000, *, final or default")
    if not colon:
        if int(first) not in suite.steps:
            raise BadInput(
                f"suite {suite.name} has no step {first} ({term!r}):"
                f" memoserve suite show {suite.name} --checkpoints all lists them"
            )
        return [int(first)]
    steps = [step for step in suite.steps if int(first) <= step <= int(last)]
    if not steps:
        raise BadInput(f"{term!r}: suite {suite.name} has no step from {first} to {last}")
    return steps
