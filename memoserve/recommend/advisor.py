"""Everything that could be recommended for one target, and the best of it for any budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memoserve.catalog import Catalog, StoredCheckpoint
from memoserve.catalog.statements import statement
from memoserve.errors import BadInput
from memoserve.recommend.flagged_sets import Flagging, flags_the_same
from memoserve.recommend.forecast import Forecast, cheapest_forecast, choose_forecast
from memoserve.recommend.rehearsal import Backtest
from memoserve.recommend.rules import Bounds, Rule, Share, Unit, cheapest, choose, judge, read_rules
from memoserve.recommend.target_forecasts import Forecasts, forecast_rules

GRID = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)

Basis = Literal["measured", "forecast"]


@dataclass(frozen=True)
class Recommended:
    """A rule with what to expect of it. `precision` and `recall` never come from the labels that chose it."""

    answer: str
    predictors: str
    rule: str
    training_flops: float
    flops_share: float
    budget_flops: float | None
    budget_share: float | None
    flagged: int | None
    precision: Share
    recall: Share
    choosing_precision: float | None
    choosing_recall: float | None
    interval: str
    basis: Basis

    @property
    def key(self) -> tuple[str, str]:
        """What it is, whatever question it answers."""
        return self.predictors, self.rule


class Advisor:
    """Everything that could be recommended for one target, read once, to ask for any budget.

    With `forecast`, or where the target has no scores, from the law over smaller models; else from the
    target's own scores, chosen on one half of the training order and judged on the other.
    """

    def __init__(
        self,
        catalog: Catalog,
        target: StoredCheckpoint,
        bounds: Bounds,
        *,
        unit: Unit = "sequences",
        forecast: bool = False,
        seed: int = 0,
    ) -> None:
        self.target, self.bounds, self.unit, self.seed = target, bounds, unit, seed
        self.basis: Basis = "forecast" if forecast or not target.evaluated else "measured"
        self.refused: dict[str, str] = {}
        self.base_rate = 0.0
        self._rules: list[Rule] = []
        self._forecasts: tuple[Forecast, ...] = ()
        self.forecasts: Forecasts | None = None
        self._catalog = catalog
        if self.basis == "forecast":
            self.forecasts = forecast_rules(catalog, target, unit)
            self._forecasts, self.refused = self.forecasts.rules, self.forecasts.refused
        else:
            self._rules = read_rules(catalog, target.suite, target.name, unit)
            if not self._rules:
                raise BadInput(f"nothing evaluated in this store costs less than {target.name}")
            self.base_rate = _base_rate(catalog, target, unit)

    def cheapest_cost(self) -> tuple[str, float]:
        """(checkpoint, FLOPs) of the cheapest candidate."""
        costs = [(r.training_flops, r.predictors) for r in self._rules]
        costs += [(f.training_flops, f.predictors) for f in self._forecasts]
        flops, name = min(costs)
        return name, flops

    def best(self, budget: float, answer: str = "recommended") -> Recommended | None:
        """The best rule within `budget` FLOPs."""
        if self.basis == "forecast":
            forecast = choose_forecast(self._forecasts, budget, self.bounds)
            return None if forecast is None else self._expect(forecast, answer, budget)
        rule = choose(self._rules, budget, self.bounds)
        return None if rule is None else self._judge(rule, answer, budget)

    def runner_up(self, budget: float) -> Recommended | None:
        """The best rule within `budget` FLOPs of other predictors than the best, that flags another set.

        Two rules may flag the very same sequences: a union whose second member adds nothing to the first,
        two checkpoints that memorized the same.
        """
        if self.basis == "forecast":
            best = choose_forecast(self._forecasts, budget, self.bounds)
            if best is None:
                return None
            forecasts = list(self._forecasts)
            others = frozenset({best.predictors})
            while (found := choose_forecast(forecasts, budget, self.bounds, without=others)) is not None:
                if not self._flags_the_same(_flagging(best), _flagging(found)):
                    return self._expect(found, "runner-up", budget)
                forecasts.remove(found)
            return None
        chosen = choose(self._rules, budget, self.bounds)
        if chosen is None:
            return None
        rules = list(self._rules)
        others = frozenset({chosen.predictors})
        while (rule := choose(rules, budget, self.bounds, without=others)) is not None:
            # Counting is cheaper than comparing.
            if rule.flagged != chosen.flagged or not self._flags_the_same(
                Flagging(chosen.predictors, chosen.signal, chosen.tau),
                Flagging(rule.predictors, rule.signal, rule.tau),
            ):
                return self._judge(rule, "runner-up", budget)
            rules = [other for other in rules if other is not rule]
        return None

    def _flags_the_same(self, one: Flagging, other: Flagging) -> bool:
        target = self.target
        return flags_the_same(
            self._catalog, target.suite, target.name, self.unit, one, other,
            evaluated=self.basis == "measured",
        )  # fmt: skip

    def paper_rule(self, budget: float) -> Recommended | None:
        """The best within the budget by the paper's rule: one checkpoint, what it memorized."""
        if self.basis == "forecast":
            paper = [f for f in self._forecasts if f.line.is_paper_rule]
            forecast = choose_forecast(paper, budget, self.bounds)
            return None if forecast is None else self._expect(forecast, "paper's rule", budget)
        rule = choose([r for r in self._rules if r.is_paper_rule], budget, self.bounds)
        return None if rule is None else self._judge(rule, "paper's rule", budget)

    def cheapest(self, recall: float) -> Recommended | None:
        """The cheapest rule that reaches a recall."""
        answer = f"cheapest for recall {recall:g}"
        if self.basis == "forecast":
            forecast = cheapest_forecast(self._forecasts, recall, self.bounds)
            return None if forecast is None else self._expect(forecast, answer, None)
        rule = cheapest(self._rules, recall, self.bounds)
        return None if rule is None else self._judge(rule, answer, None)

    def backtest(self, share: float) -> Backtest | None:
        """The same choice for the largest target that has scores, as if it had none."""
        if self.forecasts is None or self.forecasts.rehearsal is None:
            return None
        return self.forecasts.rehearsal.choose(share, self.bounds)

    def grid(self, shares: tuple[float, ...] = GRID) -> list[tuple[float, Recommended | None]]:
        """(budget as a share of the target's compute, the best rule within it)."""
        return [(share, self.best(share * self.target.training_flops, f"{share:.0%}")) for share in shares]

    def _judge(self, rule: Rule, answer: str, budget: float | None) -> Recommended:
        precision, recall = judge(rule, self.seed)
        return Recommended(
            answer,
            rule.predictors,
            rule.line,
            rule.training_flops,
            rule.training_flops / self.target.training_flops,
            budget,
            None if budget is None else budget / self.target.training_flops,
            rule.flagged,
            precision,
            recall,
            rule.choosing.precision,
            rule.choosing.recall,
            "Wilson, by window" if rule.is_paper_rule else "bootstrap, by block",
            "measured",
        )

    def _expect(self, rule: Forecast, answer: str, budget: float | None) -> Recommended:
        return Recommended(
            answer,
            rule.predictors,
            str(rule.line),
            rule.training_flops,
            rule.training_flops / self.target.training_flops,
            budget,
            None if budget is None else budget / self.target.training_flops,
            rule.flagged,
            rule.precision,
            rule.recall,
            None,
            None,
            "prediction, both parts at their ends"
            if rule.line.operation == "union"
            else "prediction, by pair of models",
            "forecast",
        )


def _flagging(forecast: Forecast) -> Flagging:
    return Flagging(forecast.predictors, forecast.line.signal, forecast.line.tau)


def _base_rate(catalog: Catalog, target: StoredCheckpoint, unit: Unit) -> float:
    """Share of what the target has seen and was evaluated on that it memorized."""
    ((rate,),) = catalog.rows(
        statement(__file__, "base_rate"),
        {"suite": target.suite, "model": target.model, "step": target.step, "unit": unit},
    )
    return float(rate or 0.0)
