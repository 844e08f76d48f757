"""What came of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from memoserve.checks import Check
from memoserve.domain import Checkpoint
from memoserve.errors import RunIncomplete
from memoserve.run.checks.inputs import Inputs
from memoserve.run.plan import Plan

Status = Literal["done", "incomplete", "error", "interrupted", "dry_run"]


@dataclass(frozen=True)
class FailedCheckpoint:
    """A checkpoint that could not be finished, and why."""

    checkpoint: Checkpoint
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What a run that came to its end did.

    sequences, windows: scores written, and distinct windows evaluated for them, in `seconds`; failures: of
    the plan's checkpoints, and of those whose scores are whole but not of the weights that are there now;
    doubtful: failed checks of scores that are kept; incomplete: why this is not all that was asked for, a
    reason for people each.
    """

    plan: Plan = field(repr=False)
    inputs: Inputs = field(repr=False)
    sequences: int
    windows: int
    seconds: float
    failures: tuple[FailedCheckpoint, ...]
    doubtful: tuple[Check, ...]
    incomplete: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """That of `memoserve run`: 0, or 6 if this is not all that was asked for."""
        return RunIncomplete.exit_code if self.incomplete else 0


def why_incomplete(
    inputs: Inputs,
    failures: tuple[FailedCheckpoint, ...],
    doubtful: tuple[Check, ...],
    logs: str,
    allow_implausible: bool,
) -> tuple[str, ...]:
    """Why a run that came to its end is incomplete all the same. `logs`: where the engines' are."""
    reasons = []
    if failures:
        names = ", ".join(str(failure.checkpoint) for failure in failures)
        whole = len(inputs.chosen) - len(failures)
        reasons.append(
            f"{len(failures)} of the checkpoints failed and are not whole: {names}.\n"
            + ("The others are. " if whole else "")
            + f"The engines' output is in {logs}; run again to retry."
        )
    elif not inputs.chosen:
        reasons.append(
            "every checkpoint that was asked for has the weights of another one: nothing to evaluate"
        )
    doubted = sorted({check.subject for check in doubtful})
    if doubted and not allow_implausible:
        reasons.append(
            f"the scores of {', '.join(doubted)} are in doubt: `memoserve status --checks` says why. If all "
            "is as it should be, say --allow-implausible"
        )
    return tuple(reasons)
