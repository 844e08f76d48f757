"""A forecast: for each basis a plan within the budget, what it learned, and how good that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from memoserve.catalog import Catalog
from memoserve.errors import BadInput
from memoserve.forecast.base_rate import BaseRate, forecast_base_rate
from memoserve.forecast.judge import Bin, Difference, Judged, Method, judge, reliability, threshold_for
from memoserve.forecast.model import Fitted, Floats, Learner, Taught, fit, labels_of, weights_of
from memoserve.forecast.roles import (
    BASES,
    Basis,
    Plan,
    Role,
    choose,
    cost,
    describe,
    last_smaller,
    plans,
    taught_elsewhere,
    too_little,
)
from memoserve.forecast.rules import BEST_FEATURE, BEST_LINE, PAPER_RULE, Line, best_line, paper_rule
from memoserve.forecast.table import CAP, Column, Rows, Table
from memoserve.recommend.backtest_data import read_runs
from memoserve.recommend.rules import Unit
from memoserve.recommend.target import Target, find_target, parse_budget

PROMISED = 0.8
_TAUGHT = 200_000
"""From how many windows a forecast is learned: memorized ones of all roles, and as many others."""
SAMPLE = 1_000_000
"""Of how many windows without labels the base rate and the threshold are taken."""


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
    runs: tuple[Target, ...]
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

    target: Target
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


@dataclass
class _Reading:
    """Rows that were read, each once."""

    table: Table
    elsewhere: Table | None
    found: dict[tuple[str, Role], Rows] = field(default_factory=dict)

    def taught(self, plan: Plan) -> list[Taught]:
        """The roles of a plan with their labels."""
        table = self.elsewhere or self.table
        cap = max(_TAUGHT // max(len(plan.teachers), 1), 1)
        return [Taught(role, self._once("taught", role, table, cap)) for role in plan.teachers]

    def labelled(self, role: Role) -> Rows:
        """The target's own rows and labels: to judge, never to learn."""
        return self._once("judged", role, self.table, CAP)

    def sample(self, role: Role) -> Rows:
        """Rows of the target without labels."""
        key = "sampled", role
        if key not in self.found:
            self.found[key] = self.table.sample(role, SAMPLE)
        return self.found[key]

    def _once(self, use: str, role: Role, table: Table, cap: int) -> Rows:
        key = use, role
        if key not in self.found:
            self.found[key] = table.labelled(role, cap)
        return self.found[key]


def make_forecast(
    catalog: Catalog,
    *,
    suite: str | None = None,
    target: str | None = None,
    budget: str | None = None,
    promised: float = PROMISED,
    learner: Learner = "logistic",
    unit: Unit = "windows",
    fit_on: Catalog | None = None,
    seed: int = 0,
) -> SequenceForecast:
    """Forecast what a target memorizes, within a budget (as parse_budget reads it), from each of three bases.

    Learned on smaller models as targets, or on another store (`fit_on`): no label of the target, nor of its
    model, is used but to judge. Raises BadInput where no basis gives a forecast, saying why.
    """
    if not 0 < promised < 1:
        raise BadInput(f"--precision {promised:g}: it is a share, above 0 and below 1")
    chosen = find_target(catalog.connection, suite, target)
    flops = None if budget is None else parse_budget(budget, chosen)
    runs = list(read_runs(catalog.connection, chosen.suite).values())
    table, elsewhere, teachers_of, name = _tables(catalog, chosen, fit_on)
    reading = _Reading(table, elsewhere)
    try:
        found, refused = _plans(chosen, runs, flops, teachers_of, name)
        bases = []
        for plan in found:
            try:
                bases.append(_basis(plan, reading, promised, learner, unit, seed))
            except BadInput as error:
                refused[plan.basis] = str(error)
        if not bases:
            reasons = "\n".join(dict.fromkeys(f"{reason}" for reason in refused.values()))
            raise BadInput(f"no forecast for {chosen.checkpoint}: {reasons}")
        return _judged(chosen, bases, refused, runs, reading, flops, promised, learner, unit, name, seed)
    finally:
        table.close()
        if elsewhere is not None:
            elsewhere.close()


_Teachers = Mapping[Basis, tuple[Role, ...]]


def _tables(
    catalog: Catalog, target: Target, fit_on: Catalog | None
) -> tuple[Table, Table | None, _Teachers | None, str | None]:
    """(the target's table, another store's, its roles by basis, its suite)."""
    table = Table(catalog, target.suite)
    if fit_on is None:
        return table, None, None, None
    largest = find_target(fit_on.connection, None, None)
    if largest.suite == target.suite:
        raise BadInput(
            f"--fit-on {fit_on.store} holds suite {target.suite}, the target's own: its labels would teach; "
            "name a store of another suite"
        )
    other = Table(fit_on, largest.suite)
    common = tuple(column for column in table.columns if column in other.columns)
    runs = list(read_runs(fit_on.connection, largest.suite).values())
    teachers = {basis: taught_elsewhere(runs, largest.step, basis) for basis in BASES}
    return (
        Table(catalog, target.suite, common), Table(fit_on, largest.suite, common), teachers, largest.suite
    )  # fmt: skip


def _plans(
    target: Target,
    runs: Sequence[Target],
    budget: float | None,
    elsewhere: _Teachers | None,
    suite: str | None,
) -> tuple[list[Plan], dict[Basis, str]]:
    """(the plan of each basis within the budget, why the others have none)."""
    limit = target.training_flops if budget is None else budget
    found, refused = [], {}
    for basis in BASES:
        able = plans(
            target, runs, basis, elsewhere=None if elsewhere is None else elsewhere[basis], suite=suite
        )
        plan = choose(able, limit)
        if plan is not None:
            found.append(plan)
        elif not able:
            refused[basis] = too_little(target, runs, basis, suite)
        else:
            least = able[0]
            refused[basis] = (
                f"a forecast from {describe(basis)} costs at least "
                f"{least.training_flops / target.training_flops:.1%} of {target.checkpoint}'s compute "
                f"({', '.join(run.checkpoint for run in least.paid)}), which is above the budget of "
                f"{limit / target.training_flops:.1%}"
            )
    return found, refused


def _basis(
    plan: Plan, reading: _Reading, promised: float, learner: Learner, unit: Unit, seed: int
) -> BasisForecast:
    table, taught = reading.table, reading.taught(plan)
    fitted = fit(taught, table.columns, table.of(plan.basis), learner=learner, unit=unit)
    rate = forecast_base_rate(plan.role.target, taught, unit)
    if rate is None:
        raise BadInput(
            f"a forecast from {describe(plan.basis)} needs roles of two sizes, to say how much a larger "
            "model memorizes"
        )
    sample = reading.sample(plan.role)
    if not len(sample):
        raise BadInput(f"nothing is known of what {plan.role.target.checkpoint} reads: no feature, no score")
    items = weights_of(sample, unit)
    fitted = fitted.to_base_rate(rate.share, sample, items, plan.role)
    probability = fitted.model.probability(sample, plan.role)
    threshold = threshold_for(probability, items, promised)
    flagged = 0.0 if threshold is None else float(items @ (probability >= threshold))
    return BasisForecast(
        plan, fitted.model.inputs.columns, fitted, rate, float(items @ probability), threshold, flagged,
        _held_out(taught, fitted, promised, unit, seed),
    )  # fmt: skip


def _held_out(taught: Sequence[Taught], fitted: Fitted, promised: float, unit: Unit, seed: int) -> Judged:
    """On all roles together: each window by what had not seen it; its cluster is one in all roles."""
    probability = np.concatenate(fitted.held_out)
    weight = np.concatenate([weights_of(one.rows, unit) for one in taught])
    method = _flagging(probability, threshold_for(probability, weight, promised))
    label = np.concatenate([labels_of(one.rows) for one in taught])
    cluster = np.concatenate([one.rows.cluster for one in taught])
    return judge({"": method}, label, weight, cluster, seed=seed)[0][""]


def _flagging(probability: Floats, threshold: float | None) -> Method:
    none = np.zeros(len(probability), np.bool_)
    return Method(none if threshold is None else probability >= threshold, probability, probability)


def _judged(
    target: Target,
    bases: Sequence[BasisForecast],
    refused: Mapping[Basis, str],
    runs: Sequence[Target],
    reading: _Reading,
    budget: float | None,
    promised: float,
    learner: Learner,
    unit: Unit,
    fit_on: str | None,
    seed: int,
) -> SequenceForecast:
    richest = bases[-1].plan
    items = float(weights_of(reading.sample(richest.role), unit).sum())
    lines = _lines(bases, reading, promised, unit)
    if not target.evaluated:
        rules = [RuleResult(line.name, str(line), plan.paid, None) for line, plan in lines]
        return SequenceForecast(
            target,
            unit,
            learner,
            promised,
            budget,
            items,
            tuple(bases),
            tuple(rules),
            {},
            refused,
            reading.table.columns,
            fit_on,
        )
    methods: dict[str, Method] = {}
    rules, rows = [], reading.labelled(richest.role)
    for one in bases:
        mine = reading.labelled(one.plan.role)
        methods[one.basis] = _flagging(one.fitted.model.probability(mine, one.plan.role), one.threshold)
        unseen = one.fitted.probability_unseen(mine, one.plan.role)
        methods[f"{one.basis}, unseen"] = _flagging(unseen, one.threshold)
    named: list[tuple[str, str, tuple[Target, ...]]] = []
    for line, plan in lines:
        methods[line.name] = line.method(reading.labelled(plan.role), plan.role)
        named.append((line.name, str(line), plan.paid))
        # The same column, as a forecast: at the threshold of its own probabilities.
        alone = f"{line.column.name} alone"
        sample = reading.sample(plan.role)
        says = line.fitted.model.probability(sample, plan.role)
        tau = threshold_for(says, weights_of(sample, unit), promised)
        probability = methods[line.name].probability
        assert probability is not None
        methods[alone] = _flagging(probability, tau)
        named.append((alone, "its own probabilities", plan.paid))
    single = _dearest(target, runs, budget)
    if single is not None:
        by_paper = paper_rule(reading.labelled(Role(target, single)), reading.table.columns)
        methods[PAPER_RULE] = by_paper
        named.insert(0, (PAPER_RULE, f"{single.checkpoint} memorized", (single,)))
    label, weight = labels_of(rows), weights_of(rows, unit)
    judged, differences = judge(methods, label, weight, rows.cluster, seed=seed)
    rules = [RuleResult(name, rule, paid, judged[name]) for name, rule, paid in named]
    done = []
    for one in bases:
        probability = methods[one.basis].probability
        assert probability is not None
        bins = tuple(reliability(probability, label, weight, rows.cluster, seed=seed))
        done.append(replace(one, judged=judged[one.basis], unseen=judged[f"{one.basis}, unseen"], bins=bins))
    kept = {
        (one.basis, rule.name): differences[one.basis, rule.name] for one in bases for rule in rules
    }  # fmt: skip
    return SequenceForecast(
        target,
        unit,
        learner,
        promised,
        budget,
        items,
        tuple(done),
        tuple(rules),
        kept,
        refused,
        reading.table.columns,
        fit_on,
    )


def _dearest(target: Target, runs: Sequence[Target], budget: float | None) -> Target | None:
    """The largest smaller model whose last evaluated checkpoint alone keeps to the budget."""
    limit = target.training_flops if budget is None else budget
    return max(
        (run for run in last_smaller(target, runs) if run.training_flops <= limit),
        key=lambda run: run.order, default=None,
    )  # fmt: skip


def _lines(
    bases: Sequence[BasisForecast], reading: _Reading, promised: float, unit: Unit
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


def _shifted(line: Line, plan: Plan, reading: _Reading, unit: Unit) -> Line:
    """With the probabilities of its column alone brought to the same base rate as a forecast's."""
    rate = forecast_base_rate(plan.role.target, reading.taught(plan), unit)
    assert rate is not None
    sample = reading.sample(plan.role)
    return replace(
        line, fitted=line.fitted.to_base_rate(rate.share, sample, weights_of(sample, unit), plan.role)
    )
