"""A forecast: for each basis a plan within the budget, what it learned, and how good that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from memoserve.catalog import Catalog, StoredCheckpoint
from memoserve.errors import BadInput
from memoserve.forecast.base_rate import forecast_base_rate
from memoserve.forecast.comparing import flagging, judge_on_target, rules_beside
from memoserve.forecast.judge import Judged, Method, judge, threshold_for
from memoserve.forecast.model import Fitted, Learner, Taught, fit, labels_of, weights_of
from memoserve.forecast.reading import Reading
from memoserve.forecast.result import BasisForecast, RuleResult, SequenceForecast
from memoserve.forecast.roles import (
    BASES,
    Basis,
    Plan,
    Role,
    choose,
    describe,
    plans,
    taught_elsewhere,
    too_little,
)
from memoserve.forecast.table import Table, folds
from memoserve.recommend.backtest_data import read_runs
from memoserve.recommend.rules import Unit
from memoserve.recommend.target import find_target, parse_budget

PROMISED = 0.8
_HELD_OUT = 60_000


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
    chosen = find_target(catalog, suite, target)
    flops = None if budget is None else parse_budget(budget, chosen)
    runs = list(read_runs(catalog, chosen.suite).values())
    table, elsewhere, teachers_of, name = _tables(catalog, chosen, fit_on)
    reading = Reading(table, elsewhere)
    try:
        found, refused = _plans(chosen, runs, flops, teachers_of, name)
        bases: list[BasisForecast] = []
        # What knows most first: its rows serve the others as well.
        for plan in reversed(found):
            try:
                bases.insert(0, _basis(plan, reading, promised, learner, unit, seed))
            except BadInput as error:
                refused[plan.basis] = str(error)
        if not bases:
            reasons = "\n".join(dict.fromkeys(f"{reason}" for reason in refused.values()))
            raise BadInput(f"no forecast for {chosen.name}: {reasons}")
        limit = chosen.training_flops if flops is None else flops
        rules = rules_beside(chosen, bases, runs, reading, limit, promised, unit)
        items = float(weights_of(reading.sample(bases[-1].plan.role), unit).sum())
        forecast = SequenceForecast(
            chosen, unit, learner, promised, flops, items, tuple(bases),
            tuple(RuleResult(rule.name, rule.line, rule.runs, None) for rule in rules),
            {}, refused, table.columns, name,
        )  # fmt: skip
        return judge_on_target(forecast, rules, reading, seed) if chosen.evaluated else forecast
    finally:
        table.close()
        if elsewhere is not None:
            elsewhere.close()


_Teachers = Mapping[Basis, tuple[Role, ...]]


def _tables(
    catalog: Catalog, target: StoredCheckpoint, fit_on: Catalog | None
) -> tuple[Table, Table | None, _Teachers | None, str | None]:
    """(the target's table, another store's, its roles by basis, its suite)."""
    table = Table(catalog, target.suite)
    if fit_on is None:
        return table, None, None, None
    largest = find_target(fit_on, None, None)
    if largest.suite == target.suite:
        raise BadInput(
            f"--fit-on {fit_on.store} holds suite {target.suite}, the target's own: its labels would teach; "
            "name a store of another suite"
        )
    other = Table(fit_on, largest.suite)
    common = tuple(column for column in table.columns if column in other.columns)
    runs = list(read_runs(fit_on, largest.suite).values())
    teachers = {basis: taught_elsewhere(runs, largest.step, basis) for basis in BASES}
    return (
        Table(catalog, target.suite, common), Table(fit_on, largest.suite, common), teachers, largest.suite
    )  # fmt: skip


def _plans(
    target: StoredCheckpoint,
    runs: Sequence[StoredCheckpoint],
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
                f"{least.training_flops / target.training_flops:.1%} of {target.name}'s compute "
                f"({', '.join(run.name for run in least.paid)}), which is above the budget of "
                f"{limit / target.training_flops:.1%}"
            )
    return found, refused


def _basis(
    plan: Plan, reading: Reading, promised: float, learner: Learner, unit: Unit, seed: int
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
        raise BadInput(f"nothing is known of what {plan.role.target.name} reads: no feature, no score")
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
    """On all roles together: each window by what had not seen it; its cluster is one in all roles.

    Of many rows on a share of the clusters, which is enough for intervals.
    """
    probability = np.concatenate(fitted.held_out)
    weight = np.concatenate([weights_of(one.rows, unit) for one in taught])
    method = flagging(probability, threshold_for(probability, weight, promised))
    label = np.concatenate([labels_of(one.rows) for one in taught])
    cluster = np.concatenate([one.rows.cluster for one in taught])
    some = folds(cluster, -(-len(cluster) // _HELD_OUT), seed=1) == 0
    method = Method(method.flagged[some], probability[some], probability[some])
    return judge({"": method}, label[some], weight[some], cluster[some], seed=seed)[0][""]
