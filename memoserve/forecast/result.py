"""What a forecast is, once it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memoserve.catalog import StoredCheckpoint
from memoserve.errors import BadInput
from memoserve.forecast.base_rate import BaseRate
from memoserve.forecast.judge import Bin, Difference, Judged
from memoserve.forecast.model import Fitted, Learner
from memoserve.forecast.roles import Basis, Plan, cost
from memoserve.forecast.table import Column
from memoserve.recommend.rules import Unit


@dataclass(frozen=True)
class BasisForecast:
    """What one basis gives. `threshold`: from this probability on, the mean probability is the promised one.

    flagged: how many items that are (of a sample, scaled up). held_out: on windows of the smaller targets, by
    models that had not seen them. judged: on the target's own labels, which nothing else uses; None where it
    has none; unseen: the same by models that had not seen those windows in any role.
    """

    plan: Plan
    columns: tuple[Column, ...]
    fitted: Fitted
    base_rate: BaseRate
    expected: float
    threshold: float | None
    flagged: float
    held_out: Judged
    judged: Judged | None = None
    unseen: Judged | None = None
    bins: tuple[Bin, ...] = ()

    @property
    def basis(self) -> Basis:
        return self.plan.basis


@dataclass(frozen=True)
class RuleResult:
    """A rule that a forecast is held against: what it is and costs, how it did on the target's labels."""

    name: str
    rule: str
    runs: tuple[StoredCheckpoint, ...]
    judged: Judged | None

    @property
    def training_flops(self) -> float:
        """What its runs cost, those that its threshold was chosen on among them."""
        return cost(self.runs)


@dataclass(frozen=True)
class SequenceForecast:
    """A forecast for one target, from up to three bases; `refused` says why there is none from the others.

    differences: of (basis, rule), where the target has labels. items: how many windows or sequences it is
    about. columns: what rows hold, in order.
    """

    target: StoredCheckpoint
    unit: Unit
    learner: Learner
    promised: float
    budget: float | None
    items: float
    bases: tuple[BasisForecast, ...]
    rules: tuple[RuleResult, ...]
    differences: Mapping[tuple[str, str], Difference]
    refused: Mapping[Basis, str]
    columns: tuple[Column, ...]
    fit_on: str | None = None

    def of(self, basis: Basis | None) -> BasisForecast:
        """The forecast from a basis, or from the one that knows most.

        Raises BadInput with why there is none.
        """
        for one in reversed(self.bases):
            if basis is None or one.basis == basis:
                return one
        assert basis is not None
        raise BadInput(self.refused[basis])
