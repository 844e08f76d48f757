"""Whether two rules flag the very same sequences, or windows."""

from __future__ import annotations

from dataclasses import dataclass

from memoserve.catalog import Catalog
from memoserve.catalog.statements import statement
from memoserve.recommend.rules import Unit


@dataclass(frozen=True)
class Flagging:
    """What `predictors` (names joined by " + ") memorized, or what has a signal of at least tau."""

    predictors: str
    signal: str
    tau: float | None


def flags_the_same(
    catalog: Catalog,
    suite: str,
    target: str,
    unit: Unit,
    one: Flagging,
    other: Flagging,
    *,
    evaluated: bool,
) -> bool:
    """Whether two rules flag the same of what the target has seen; if `evaluated`, of its scores alone."""
    ((same,),) = catalog.rows(
        statement(__file__, "flag_the_same"),
        {
            "suite": suite,
            "target": target,
            "windows": unit == "windows",
            "evaluated": evaluated,
            "predictors": one.predictors.split(" + "),
            "signal": one.signal,
            "tau": one.tau,
            "other_predictors": other.predictors.split(" + "),
            "other_signal": other.signal,
            "other_tau": other.tau,
        },
    )
    return bool(same)
