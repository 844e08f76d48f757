"""Forecasts put to the test: the largest target with scores, forecast as if it had none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memoserve.catalog import Catalog, StoredCheckpoint
from memoserve.errors import BadInput
from memoserve.recommend.backtest_data import (
    PAPER_RULE,
    Line,
    RuleResult,
    observed,
    read_rule_results,
    read_runs,
)
from memoserve.recommend.forecast import Forecast, LineLaws, choose_forecast, forecast_lines, name_of
from memoserve.recommend.rules import Bounds, RuleCounts, Unit


@dataclass(frozen=True)
class Backtest:
    """What would have been recommended for a target whose scores are known, at a share of its compute.

    `found` is what the rule then did; `best` the highest recall that any rule of the same kinds reached
    within budget and bounds, judged by the scores themselves.
    """

    target: str
    share: float
    chosen: Forecast | None
    found: RuleCounts | None
    best: float


@dataclass(frozen=True)
class LineError:
    """How the forecasts of one line fared: mean absolute errors over `checked` rules."""

    line: Line
    checked: int
    recall: float
    precision: float


@dataclass(frozen=True)
class Rehearsal:
    """The largest target with scores, forecast as if it had none, and what its rules then did."""

    target: StoredCheckpoint
    rules: tuple[Forecast, ...]
    found: Mapping[tuple[str, Line], RuleResult]

    def choose(self, share: float, bounds: Bounds) -> Backtest:
        """The recommendation for a budget of `share` of its compute, judged by the scores."""
        budget = share * self.target.training_flops
        chosen = choose_forecast(self.rules, budget, bounds)
        best = max(
            (
                one.counts.recall or 0.0
                for one in self.found.values()
                if one.training_flops <= budget
                and (bounds.min_precision is None or (one.counts.precision or 0.0) >= bounds.min_precision)
                and (bounds.max_flagged is None or one.counts.flagged <= bounds.max_flagged)
            ),
            default=0.0,
        )
        counts = None if chosen is None else self.found[chosen.key].counts
        return Backtest(self.target.name, share, chosen, counts, best)

    def errors(self) -> list[LineError]:
        """Line by line."""
        lines: dict[Line, list[tuple[Forecast, RuleResult]]] = {}
        for rule in self.rules:
            actual = self.found[rule.key]
            if actual.counts.recall is not None and actual.counts.precision is not None:
                lines.setdefault(rule.line, []).append((rule, actual))
        found = []
        for line, pairs in sorted(lines.items(), key=lambda item: str(item[0])):
            off = [
                (abs((f.recall.value or 0.0) - (p.counts.recall or 0.0)),
                 abs((f.precision.value or 0.0) - (p.counts.precision or 0.0)))
                for f, p in pairs
            ]  # fmt: skip
            found.append(
                LineError(line, len(off), *(sum(each) / len(off) for each in zip(*off, strict=True)))
            )
        return found


def rehearse(results: Sequence[RuleResult], runs: Mapping[str, StoredCheckpoint]) -> Rehearsal | None:
    """Forecast the largest target of `played` from the smaller ones; None if they are too few for a law."""
    last = max((one.target for one in results), key=lambda run: run.order, default=None)
    if last is None:
        return None
    smaller = [one for one in results if one.target.order < last.order]
    own = {(name_of(one.runs), one.line): one for one in results if one.target == last}
    try:
        laws = LineLaws([observed(one) for one in smaller if one.line == PAPER_RULE], smaller)
    except BadInput:
        return None
    # How many a rule of smaller models flags is known without any score of the target's model.
    counted = {
        key: one.counts.flagged for key, one in own.items() if all(run.order < last.order for run in one.runs)
    }
    able = [r for r in runs.values() if r.training_flops < last.training_flops and r.order <= last.order]
    rules, _ = forecast_lines(last, able, laws, counted)
    return Rehearsal(last, tuple(rule for rule in rules if rule.key in own), own)


def rehearse_largest(catalog: Catalog, suite: str, unit: Unit, step: int | None = None) -> Rehearsal | None:
    """The rehearsal on the largest evaluated model, at its last evaluated step up to `step`."""
    runs = read_runs(catalog, suite)
    orders, steps = [run.order for run in runs.values()], [run.step for run in runs.values()]
    results = read_rule_results(
        catalog, suite, runs, unit,
        below=max(orders, default=0) + 1, step=step if step is not None else max(steps, default=0),
    )  # fmt: skip
    return rehearse(results, runs)
