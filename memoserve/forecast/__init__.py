"""Each sequence's probability that a model will memorize it, from what is known before its training."""

from memoserve.forecast.judge import Bin, Difference, Judged
from memoserve.forecast.making import make_forecast
from memoserve.forecast.model import Learner
from memoserve.forecast.result import BasisForecast, RuleResult, SequenceForecast
from memoserve.forecast.roles import BASES, Basis, Plan, Role, plans
from memoserve.forecast.sentences import Part, sentences, table
from memoserve.forecast.writing import write_forecast

__all__ = [
    "BASES",
    "Basis",
    "BasisForecast",
    "Bin",
    "Difference",
    "Judged",
    "Learner",
    "Part",
    "Plan",
    "Role",
    "RuleResult",
    "SequenceForecast",
    "make_forecast",
    "plans",
    "sentences",
    "table",
    "write_forecast",
]
