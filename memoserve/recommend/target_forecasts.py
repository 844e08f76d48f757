"""What can be forecast for one target: every rule with a law, and how the same procedure did elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from memoserve.catalog import Catalog, StoredCheckpoint
from memoserve.errors import BadInput
from memoserve.recommend.backtest_data import (
    PAPER_RULE,
    TAUS,
    Line,
    read_rule_results,
    read_runs,
)
from memoserve.recommend.forecast import Forecast, LineLaws, forecast_lines
from memoserve.recommend.law import Law, read_observations
from memoserve.recommend.rehearsal import Rehearsal, rehearse
from memoserve.recommend.rules import Unit


@dataclass(frozen=True)
class Forecasts:
    """What could be forecast, and why the rest could not. `laws` are the paper's rule's.

    `rehearsal`: the same done for the largest target that has scores; None where too little is left for it.
    """

    laws: tuple[Law, Law]
    rules: tuple[Forecast, ...]
    refused: dict[str, str]
    without_law: dict[str, str]
    rehearsal: Rehearsal | None


def forecast_rules(catalog: Catalog, target: StoredCheckpoint, unit: Unit) -> Forecasts:
    """Forecast what costs less than the target, evaluated or not: each run with each line, unions of two.

    Laws are fitted to models smaller than the target, at the target's step or the last evaluated one before
    it; no score of the target's model enters. Raises BadInput if that is too little for the paper's rule.
    """
    seen = read_observations(catalog, target.suite, unit, smaller_than=target.model, step=target.step)
    runs = read_runs(catalog, target.suite)
    results = read_rule_results(catalog, target.suite, runs, unit, below=target.order, step=target.step)
    laws = LineLaws(seen, results)
    counted = _flagged(catalog, target, runs, unit)
    able = [r for r in runs.values() if r.training_flops < target.training_flops and r.order <= target.order]
    rules, refused = forecast_lines(target, able, laws, counted)
    if not rules:
        reasons = "; ".join(dict.fromkeys(refused.values())) or "the suite has no checkpoint that costs less"
        raise BadInput(f"no forecast for {target.name}: {reasons}")
    return Forecasts(laws.of[PAPER_RULE], tuple(rules), refused, laws.without, rehearse(results, runs))


def _flagged(
    catalog: Catalog, target: StoredCheckpoint, runs: Mapping[str, StoredCheckpoint], unit: Unit
) -> dict[tuple[str, Line], int]:
    """How many each rule of an evaluated smaller run flags, by the query flagged."""
    names = [r.name for r in runs.values() if r.evaluated and r.order < target.order]
    if not names:
        return {}
    found: dict[tuple[str, Line], int] = {}
    by_tau: dict[tuple[str, str], dict[float, int]] = {}
    for row in catalog.records("flagged", suite=target.suite, checkpoints=names):
        if row["unit"] != unit:
            continue
        if row["tau"] is None:
            found[row["predictors"], Line(row["operation"], row["signal"], None)] = row["flagged"]
        else:
            by_tau.setdefault((row["predictors"], row["signal"]), {})[row["tau"]] = row["flagged"]
    for (predictors, signal), counts in by_tau.items():
        for tau in TAUS[signal]:
            above = [value for value in counts if value >= tau]
            found[predictors, Line("alone", signal, tau)] = counts[min(above)] if above else 0
    return found
