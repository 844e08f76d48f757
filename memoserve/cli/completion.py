"""What a shell offers when TAB is pressed: names that are known without opening a store, so at once."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from memoserve.run.options import Options

_COMPLETING = "_MEMOSERVE_COMPLETE"
"""What the scripts of --show-completion set."""


def engines() -> list[str]:
    """For --engine."""
    from memoserve.engines.registry import engine_names

    return list(engine_names())


def suites() -> list[str]:
    """The shipped ones; a shell completes files by itself where none of these fits."""
    from memoserve.suites import shipped_suites

    return list(shipped_suites())


def stored_suites() -> list[str]:
    """The suites of the store that the line names, or the one here."""
    return [suite.name.removeprefix("suite=") for suite in _folders(_scores(), "suite=*")]


def stored_models(context: typer.Context) -> list[str]:
    """The models with scores in that store."""
    return _in_order({model for model, _ in _checkpoints(context)})


def stored_checkpoints(context: typer.Context) -> list[str]:
    """The checkpoints with scores in that store."""
    return _in_order({f"{model}@{step}" for model, step in _checkpoints(context)})


def stored_checkpoint_list(context: typer.Context, incomplete: str) -> list[str]:
    """The same, behind those of a list that are there already."""
    before = incomplete[: incomplete.rfind(",") + 1]
    return [f"{before}{one}" for one in stored_checkpoints(context)]


def selectors(context: typer.Context, incomplete: str) -> list[str]:
    """What --checkpoints of a run takes: words and models, behind an @ the steps of its model."""
    from memoserve.errors import MemoserveError
    from memoserve.suites import load_suite

    before, last = incomplete[: incomplete.rfind(",") + 1], incomplete[incomplete.rfind(",") + 1 :]
    try:
        suite = load_suite(context.params.get("suite") or Options.suite)
    except MemoserveError:
        return []
    if "@" not in last:
        return [f"{before}{one}" for one in ("all", "final", *(f"{model.name}@" for model in suite.models))]
    model = last.partition("@")[0]
    return [f"{before}{model}@{step}" for step in ("*", "default", "final", *suite.steps)]


def _scores() -> Path:
    """Where the store of the line has its scores; nowhere, if it is behind a URL.

    The line that is not whole yet is not parsed as far as its store: whatever of it is one has to be it.
    """
    line = os.environ.get("COMP_WORDS") or os.environ.get("_TYPER_COMPLETE_ARGS", "")
    named = [word for word in _split(line)[1:] if "://" in word or (Path(word) / "scores").is_dir()]
    return Path(named[0] if named else os.environ.get("MEMOSERVE_OUT") or Options.out) / "scores"


def _folders(folder: Path, pattern: str) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(folder.glob(pattern))
    return []


def _checkpoints(context: typer.Context) -> Iterable[tuple[str, str]]:
    suite = context.params.get("suite") or "*"
    for step in _folders(_scores(), f"suite={suite}/model=*/step=*"):
        yield step.parent.name.removeprefix("model="), step.name.removeprefix("step=")


def _in_order(names: Iterable[str]) -> list[str]:
    """By model, and by step within one."""

    def key(name: str) -> tuple[str, int]:
        model, _, step = name.partition("@")
        return model, int(step) if step.isdecimal() else 0

    return sorted(names, key=key)


def mending_bash(run: Callable[[], None]) -> None:
    """Run the program; if bash completes a line, with words that hold an @ made whole.

    Bash breaks them there. What it takes for an answer replaces the last part, with the @ before it.
    """
    if os.environ.get(_COMPLETING) != "complete_bash":
        run()
        return
    line, index = os.environ.get("COMP_WORDS", ""), int(os.environ.get("COMP_CWORD", "0"))
    words, at, cut = _joined(_split(line), index)
    os.environ["COMP_WORDS"], os.environ["COMP_CWORD"] = "\n".join(map(shlex.quote, words)), str(at)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            run()
    finally:
        sys.stdout.write("".join(f"{one[cut:]}\n" for one in printed.getvalue().splitlines()))


def _split(line: str) -> list[str]:
    """The words of an unfinished line."""
    try:
        return shlex.split(line)
    except ValueError:  # within quotes
        return line.split()


def _joined(words: list[str], index: int) -> tuple[list[str], int, int]:
    """The words with their parts around each @ put together, which of them is at `index`, and how many of its
    characters come before the last @ that stood alone.
    """
    found: list[str] = []
    at = cut = 0
    before = ""
    for i, word in enumerate([*words, *[""] * (index + 1 - len(words))]):
        if found and "@" in (word, before):
            found[-1] += word
        else:
            found.append(word)
        if i == index:
            at = len(found) - 1
            cut = found[at].rfind("@") if "@" in (word, before) else 0
        before = word
    return found, at, cut
