"""What can be forecast for one target: every rule with a law, and how the same procedure did elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memoserve.catalog import run_query
from memoserve.errors import BadInput
from memoserve.queries import find_query
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
from memoserve.recommend.target import Target

if TYPE_CHECKING:
    import duckdb


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


def forecast_rules(
    connection: duckdb.DuckDBPyConnection, store: str | Path, target: Target, unit: Unit
) -> Forecasts:
    """Forecast what costs less than the target, evaluated or not: each run with each line, unions of two.

    Laws are fitted to models smaller than the target, at the target's step or the last evaluated one before
    it; no score of the target's model enters. Raises BadInput if that is too little for the paper's rule.
    """
    seen = read_observations(
        connection, store, target.suite, unit, smaller_than=target.model, step=target.step
    )
    runs = read_runs(connection, target.suite)
    played = read_rule_results(
        connection, store, target.suite, runs, unit, below=target.order, step=target.step
    )
    laws = LineLaws(seen, played)
    counted = _flagged(connection, store, target, runs, unit)
    able = [r for r in runs.values() if r.training_flops < target.training_flops and r.order <= target.order]
    rules, refused = forecast_lines(target, able, laws, counted)
    if not rules:
        reasons = "; ".join(dict.fromkeys(refused.values())) or "the suite has no checkpoint that costs less"
        raise BadInput(f"no forecast for {target.checkpoint}: {reasons}")
    return Forecasts(laws.of[PAPER_RULE], tuple(rules), refused, laws.without, rehearse(played, runs))


def _flagged(
    connection: duckdb.DuckDBPyConnection,
    store: str | Path,
    target: Target,
    runs: Mapping[str, Target],
    unit: Unit,
) -> dict[tuple[str, Line], int]:
    """How many each rule of an evaluated smaller run flags, by the query flagged."""
    names = [r.checkpoint for r in runs.values() if r.evaluated and r.order < target.order]
    if not names:
        return {}
    result = run_query(
        connection, find_query("flagged"), {"suite": target.suite, "checkpoints": names}, store
    )
    found: dict[tuple[str, Line], int] = {}
    by_tau: dict[tuple[str, str], dict[float, int]] = {}
    for its_unit, predictors, operation, signal, tau, flagged in result.fetchall():
        if its_unit != unit:
            continue
        if tau is None:
            found[predictors, Line(operation, signal, None)] = flagged
        else:
            by_tau.setdefault((predictors, signal), {})[tau] = flagged
    for (predictors, signal), counts in by_tau.items():
        for tau in TAUS[signal]:
            above = [value for value in counts if value >= tau]
            found[predictors, Line("alone", signal, tau)] = counts[min(above)] if above else 0
    return found
