"""Which cheap run to pay for, to know what an expensive one will memorize."""

from memoserve.recommend.forecast import Rehearsal, rehearse_largest
from memoserve.recommend.law import MEASURES, RULE, Law, fit, hold_out, read_observations
from memoserve.recommend.recommendation import (
    Advisor,
    advise,
    find_target,
    grid_answers,
    said_of,
)
from memoserve.recommend.rules import Bounds, Unit

__all__ = [
    "MEASURES",
    "RULE",
    "Advisor",
    "Bounds",
    "Law",
    "Rehearsal",
    "Unit",
    "advise",
    "find_target",
    "fit",
    "grid_answers",
    "hold_out",
    "read_observations",
    "rehearse_largest",
    "said_of",
]
