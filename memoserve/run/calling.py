"""Runs from Python: a call with the options of `memoserve run`, which shows how far it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import ParamSpec, TypeVar, cast

from memoserve.errors import BadInput, did_you_mean, in_python_words
from memoserve.run.events import OnEvent
from memoserve.run.job import Job
from memoserve.run.job import prepare as prepare_options
from memoserve.run.options import Options
from memoserve.run.outcome import Outcome

P = ParamSpec("P")
T = TypeVar("T")


def _taking(
    options: Callable[P, Options],
) -> Callable[[Callable[[Mapping[str, object]], T]], Callable[P, T]]:
    """Make a function of options take them as arguments, for type checkers with the types of Options."""
    known = [field.name for field in fields(Options)]

    def taking(function: Callable[[Mapping[str, object]], T]) -> Callable[P, T]:
        def called(**given: object) -> T:
            with in_python_words():
                for name in given:
                    if name not in known:
                        raise BadInput(
                            f"a run has no option {name!r}{did_you_mean(name, known)}; its options are "
                            + ", ".join(known)
                        )
                return function({name: _as_text(value) for name, value in given.items()})

        called.__name__, called.__doc__, called.__module__ = function.__name__, function.__doc__, __name__
        return cast("Callable[P, T]", called)

    return taking


def _as_text(value: object) -> object:
    """Paths, and names in a list, as the command line has them."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


@_taking(Options)
def prepare(options: Mapping[str, object]) -> Job:
    """A run to look at before it is made: `estimate()` says what is missing and what that would cost.

    Takes the options of `memoserve run` by name (see Options): suite="mini", checkpoints="116k@161",
    out="memoserve-out", mode="extract". `job.run(on_event)` makes it and tells each event. Raises
    BadInput for options that don't go together, a suite or a selector; EngineFailed if no engine can run.
    """
    return prepare_options(Options(**options))  # type: ignore[arg-type]


@_taking(Options)
def run(options: Mapping[str, object]) -> Outcome:
    """Make what is missing of a run, and show how far it is: in a notebook, on a terminal, or in lines.

    Takes the options of `memoserve run` by name (see Options). A checkpoint that fails is in the outcome's
    `failures`, and the others continue; `incomplete` has the reasons why this is not all that was asked for.
    Raises Interrupted, which is a KeyboardInterrupt, after one: whole parts are kept, and the same call goes
    on from there. Else raises what `prepare` and Job.run raise.
    """
    job = prepare_options(Options(**options))  # type: ignore[arg-type]
    if job.options.dry_run:
        raise BadInput("a dry run is estimated: memoserve.prepare(..., dry_run=True).estimate()")
    with _display() as on_event:
        try:
            return job.run(on_event)
        except KeyboardInterrupt:
            raise Interrupted("whole parts are kept, the same call goes on from here") from None


class Interrupted(KeyboardInterrupt):
    """Somebody stopped a run."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows of it, which has interrupted itself and needs no traceback to know where."""
        return [f"interrupted: {self}"]


@contextmanager
def _display() -> Iterator[OnEvent]:
    from rich.console import Console

    from memoserve.run.display import reporting
    from memoserve.run.notebook import NotebookDisplay

    console = Console()
    if console.is_jupyter:
        yield NotebookDisplay()
        return
    with reporting(console) as on_event:
        yield on_event
