"""What was held against what, and what came of it: kept beside the scores, readable by SQL.

Whatever memoserve reads (weights, data, suites) or computes (what an engine says) is held against something
else that says something about it. Each such comparison is one Check.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

CheckResult = Literal["passed", "warning", "failed", "not checked"]
"""`warning`: reported, and the run continues; `failed`: the run, or that checkpoint, stops; `not checked`:
nothing there to hold it against, which `detail` explains."""


@dataclass(frozen=True)
class Check:
    """One comparison.

    name: what was compared, as users read it (`weights complete`, `token ids`); subject: of what, such as
    `116k@161` or a file; model and step: the checkpoint it is about, None where it is about the data, the
    suite or a whole model; figure: the number that decided, if one did; detail: one line that names both
    sides, and what to do where it failed.
    """

    name: str
    subject: str
    result: CheckResult
    detail: str = ""
    figure: float | None = None
    model: str | None = None
    step: int | None = None


def failures(checks: Iterable[Check]) -> tuple[Check, ...]:
    """Those that failed, in order."""
    return tuple(check for check in checks if check.result == "failed")
