"""What others reported of a suite's checkpoints, held against the weights that are compared."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from memoserve.checks import CheckResult
from memoserve.domain import Checkpoint
from memoserve.run.checks.equal_weights import Held
from memoserve.suites import Defect, Suite


def reported(
    suite: Suite, checkpoints: Iterable[Checkpoint], held: Sequence[Held]
) -> Iterator[tuple[Checkpoint, CheckResult, str]]:
    """Of each checkpoint that a report names: whether it is so, and a line about it.

    `failed`: it is so, and the checkpoint can't be used as it is; `passed`: it isn't so, or does no harm.
    """
    at = {one.checkpoint: one for one in held if not one.latest}
    for checkpoint in checkpoints:
        for defect in suite.defects:
            if defect.names(checkpoint):
                report = f"{_report(checkpoint, defect)} ({defect.source})"
                result, verdict = _verdict(suite, checkpoint, defect, at, held)
                yield checkpoint, result, f"{report}: {verdict}"


def _report(checkpoint: Checkpoint, defect: Defect) -> str:
    of = f"{checkpoint.model.name}@{defect.of}" if defect.of is not None else "another step"
    others = ", ".join(f"{step}" for step in defect.steps if step != checkpoint.step)
    what = {
        "weights of another step": f"has the weights of {of}",
        "chimera": f"has some files of {of}",
        "equal steps": f"has the weights of step {others}",
        "missing": "is missing",
        "suspect": "is suspect",
    }[defect.kind]
    return f"{checkpoint} {what}, others reported" + (f", {defect.note}" if defect.note else "")


def _verdict(
    suite: Suite,
    checkpoint: Checkpoint,
    defect: Defect,
    at: dict[Checkpoint, Held],
    held: Sequence[Held],
) -> tuple[CheckResult, str]:
    one = at.get(checkpoint)
    if defect.kind == "suspect":
        return "not checked", "nothing here can tell; look at its scores beside its neighbours'"
    if one is None:
        return "not checked", "its weights could not be looked at"
    if defect.kind == "missing":
        return "passed", "it is there now"
    others = [other for other in held if other is not one and _is_meant(suite, checkpoint, defect, other)]
    if not others:
        return "not checked", "there is nothing to compare it with"
    if defect.kind == "chimera":
        shared = sorted(
            {name for other in others for name, _ in one.contents.pieces.keys() & other.contents.pieces}
        )
        if shared or any(one.contents.same_as(other.contents) for other in others):
            return "failed", f"so it is: {', '.join(shared[:3])}. It is left out; get its own files"
        return "passed", "not so here"
    if not any(one.contents.same_as(other.contents) for other in others):
        return "passed", "not so here"
    if defect.kind == "equal steps" and all(
        suite.declared_equal(checkpoint.model, checkpoint.step, other.checkpoint.step) for other in others
    ):
        return "passed", "so it is, and the suite declares these steps equal"
    return "failed", "so it is"


def _is_meant(suite: Suite, checkpoint: Checkpoint, defect: Defect, other: Held) -> bool:
    """Whether `other` is what the report compares with; on disk the last step stands for a branch."""
    if other.checkpoint.model != checkpoint.model:
        return False
    if defect.kind == "equal steps":
        return not other.latest and other.checkpoint.step in defect.steps
    if isinstance(defect.of, int):
        return not other.latest and other.checkpoint.step == defect.of
    return (
        other.latest
        if checkpoint.weights.hub
        else other.checkpoint.step == max(checkpoint.step, other.rank[1])
    )
