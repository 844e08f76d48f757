"""Which cheap run to pay for, to know what an expensive one will memorize."""

from memoserve.recommend.advisor import Advisor
from memoserve.recommend.law import MEASURES, RULE, Law, fit, hold_out, read_observations
from memoserve.recommend.recommendation import advise, export_hint, grid_answers
from memoserve.recommend.rehearsal import Rehearsal, rehearse_largest
from memoserve.recommend.rules import Bounds, Unit
from memoserve.recommend.sentences import backtest_sentence
from memoserve.recommend.target import find_target

__all__ = [
    "MEASURES",
    "RULE",
    "Advisor",
    "Bounds",
    "Law",
    "Rehearsal",
    "Unit",
    "advise",
    "backtest_sentence",
    "export_hint",
    "find_target",
    "fit",
    "grid_answers",
    "hold_out",
    "read_observations",
    "rehearse_largest",
]
