"""A forecast beside simpler rules, both held against the target's own labels where it has any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from memoserve.catalog import StoredCheckpoint
from memoserve.forecast.base_rate import forecast_base_rate
from memoserve.forecast.judge import Method, judge, reliability, threshold_for
from memoserve.forecast.model import Floats, labels_of, weights_of
from memoserve.forecast.reading import Reading
from memoserve.forecast.result import BasisForecast, RuleResult, SequenceForecast
from memoserve.forecast.roles import Plan, Role, last_smaller
from memoserve.forecast.rules import BEST_FEATURE, BEST_LINE, PAPER_RULE, Line, best_line, paper_rule
from memoserve.recommend.rules import Unit


@dataclass(frozen=True)
class Beside:
    """A rule to hold a forecast against: its name and line, the runs it needs, for which role.

    line: None for the paper's rule. threshold: of the probabilities of that line's column alone, where those
    flag instead of the line.
    """

    name: str
    line: str
    runs: tuple[StoredCheckpoint, ...]
    role: Role
    of: Line | None = None
    threshold: float | None = None
    by_probability: bool = False

    def method(self, reading: Reading) -> Method:
        """What it says of the target's evaluated windows; their labels are not looked at."""
        rows = reading.labelled(self.role)
        if self.of is None:
            return paper_rule(rows, reading.table.columns)
        if self.by_probability:
            return flagging(self.of.fitted.model.probability(rows, self.role), self.threshold)
        return self.of.method(rows, self.role)


def flagging(probability: Floats, threshold: float | None) -> Method:
    """What has at least a probability; nothing without a threshold."""
    none = np.zeros(len(probability), np.bool_)
    return Method(none if threshold is None else probability >= threshold, probability, probability)


def rules_beside(
    target: StoredCheckpoint,
    bases: Sequence[BasisForecast],
    runs: Sequence[StoredCheckpoint],
    reading: Reading,
    limit: float,
    promised: float,
    unit: Unit,
) -> list[Beside]:
    """The paper's rule by the largest model within a limit (FLOPs), the best line, the best free feature.

    Of the last two also their column alone as a forecast, flagged by its own probabilities.
    """
    affordable = [run for run in last_smaller(target, runs) if run.training_flops <= limit]
    found = []
    if affordable:
        largest = max(affordable, key=lambda run: run.order)
        line = f"{largest.name} memorized"
        found.append(Beside(PAPER_RULE, line, (largest,), Role(target, largest)))
    for one, plan in _lines(bases, reading, promised, unit):
        sample = reading.sample(plan.role)
        says = one.fitted.model.probability(sample, plan.role)
        threshold = threshold_for(says, weights_of(sample, unit), promised)
        found.append(Beside(one.name, str(one), plan.paid, plan.role, one))
        alone = f"{one.column.name} alone"
        flags = "no threshold" if threshold is None else f"probability >= {threshold:.3f}"
        found.append(Beside(alone, flags, plan.paid, plan.role, one, threshold, by_probability=True))
    return found


def judge_on_target(
    forecast: SequenceForecast, rules: Sequence[Beside], reading: Reading, seed: int
) -> SequenceForecast:
    """The same forecast with how it did by the target's labels, which nothing else has seen.

    As it was where the target was evaluated on nothing that it has seen.
    """
    if not len(reading.labelled(forecast.bases[-1].plan.role)):
        return forecast
    methods: dict[str, Method] = {}
    for one in forecast.bases:
        rows = reading.labelled(one.plan.role)
        methods[one.basis] = flagging(one.fitted.model.probability(rows, one.plan.role), one.threshold)
        unseen = one.fitted.probability_unseen(rows, one.plan.role)
        methods[_unseen(one)] = flagging(unseen, one.threshold)
    methods |= {rule.name: rule.method(reading) for rule in rules}
    rows = reading.labelled(forecast.bases[-1].plan.role)
    label, weight = labels_of(rows), weights_of(rows, forecast.unit)
    judged, differences = judge(methods, label, weight, rows.cluster, seed=seed)
    bases = []
    for one in forecast.bases:
        probability = methods[one.basis].probability
        assert probability is not None
        bins = tuple(reliability(probability, label, weight, rows.cluster, seed=seed))
        bases.append(replace(one, judged=judged[one.basis], unseen=judged[_unseen(one)], bins=bins))
    return replace(
        forecast,
        bases=tuple(bases),
        rules=tuple(RuleResult(rule.name, rule.line, rule.runs, judged[rule.name]) for rule in rules),
        differences={
            (one.basis, rule.name): differences[one.basis, rule.name] for one in bases for rule in rules
        },
    )


def _unseen(one: BasisForecast) -> str:
    return f"{one.basis}, unseen"


def _lines(
    bases: Sequence[BasisForecast], reading: Reading, promised: float, unit: Unit
) -> list[tuple[Line, Plan]]:
    """The best line on a signal of what the forecast pays for, and the best free feature alone."""
    table = reading.table
    by_basis = {one.basis: one.plan for one in bases}
    found = []
    plan = by_basis.get("both") or by_basis.get("signals")
    if plan is not None:
        latest = [
            n for n, c in enumerate(table.columns) if c.kind == "signal" and not c.name.startswith("earlier")
        ]
        line = best_line(BEST_LINE, reading.taught(plan), table.columns, latest, promised, unit)
        found += [] if line is None else [(line, plan)]
    plan = by_basis.get("features")
    if plan is not None:
        free = table.of("features")
        line = best_line(BEST_FEATURE, reading.taught(plan), table.columns, free, promised, unit)
        found += [] if line is None else [(line, plan)]
    return [(_shifted(line, plan, reading, unit), plan) for line, plan in found]


def _shifted(line: Line, plan: Plan, reading: Reading, unit: Unit) -> Line:
    """With the probabilities of its column alone brought to the same base rate as a forecast's."""
    rate = forecast_base_rate(plan.role.target, reading.taught(plan), unit)
    assert rate is not None
    sample = reading.sample(plan.role)
    return replace(
        line, fitted=line.fitted.to_base_rate(rate.share, sample, weights_of(sample, unit), plan.role)
    )
