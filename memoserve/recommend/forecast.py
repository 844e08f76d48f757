"""Rules for a target that has no scores yet: their recall and precision from laws over smaller targets.

Each line (the paper's rule, or a signal of at least tau) has a law of its own, of the same terms, fitted to
what that line did for smaller targets. A union of two runs is the costlier one's forecast and what the
cheaper adds to it, by a law of the compute between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memoserve.catalog import run_query
from memoserve.errors import BadInput
from memoserve.queries import find_query
from memoserve.recommend.law import Law, Observation, fit, read_observations
from memoserve.recommend.played import (
    PAPERS,
    TAUS,
    TOGETHER,
    Line,
    Played,
    Run,
    gained,
    observed,
    read_played,
    read_runs,
)
from memoserve.recommend.rules import Bounds, Counts, Share, Unit

if TYPE_CHECKING:
    import duckdb

_GAIN_TERMS = 2
"""What a second run adds is fitted by an intercept and the compute between the two: such pairs are few."""

_MEMBERS = 62
"""Of more evaluated runs than this, only each model's latest goes into unions."""


@dataclass(frozen=True)
class Target:
    """The checkpoint to predict."""

    suite: str
    checkpoint: str
    model: str
    step: int
    order: int
    parameters: int
    training_flops: float
    evaluated: int


@dataclass(frozen=True)
class Forecast:
    """A rule and what to expect of it. `flagged`, over all that its runs have seen, is None before they are
    evaluated; `sure_precision` is the one-sided 90% lower limit of precision.
    """

    predictors: str
    line: Line
    training_flops: float
    recall: Share
    precision: Share
    sure_precision: float
    flagged: int | None

    @property
    def key(self) -> tuple[str, Line]:
        """Which rule it is."""
        return self.predictors, self.line


@dataclass(frozen=True)
class Backtest:
    """What would have been recommended for a target whose scores are known, at a share of its compute.

    `found` is what the rule then did; `best` the highest recall that any rule of the same kinds reached
    within budget and bounds, judged by the scores themselves.
    """

    target: str
    share: float
    chosen: Forecast | None
    found: Counts | None
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

    target: Run
    rules: tuple[Forecast, ...]
    found: Mapping[tuple[str, Line], Played]

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
        lines: dict[Line, list[tuple[Forecast, Played]]] = {}
        for rule in self.rules:
            its = self.found[rule.key]
            if its.counts.recall is not None and its.counts.precision is not None:
                lines.setdefault(rule.line, []).append((rule, its))
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


def rehearse(played: Sequence[Played], runs: Mapping[str, Run]) -> Rehearsal | None:
    """Forecast the largest target of `played` from the smaller ones; None if they are too few for a law."""
    last = max((one.target for one in played), key=lambda run: run.order, default=None)
    if last is None:
        return None
    smaller = [one for one in played if one.target.order < last.order]
    own = {(_names(one.runs), one.line): one for one in played if one.target == last}
    try:
        laws = _Laws([observed(one) for one in smaller if one.line == PAPERS], smaller)
    except BadInput:
        return None
    # How many a rule of smaller models flags is known without any score of the target's model.
    counted = {
        key: one.counts.flagged for key, one in own.items() if all(run.order < last.order for run in one.runs)
    }
    able = [r for r in runs.values() if r.training_flops < last.training_flops and r.order <= last.order]
    rules, _ = _forecasts(last, able, laws, counted)
    return Rehearsal(last, tuple(rule for rule in rules if rule.key in own), own)


def rehearse_largest(
    connection: duckdb.DuckDBPyConnection, store: str | Path, suite: str, unit: Unit, step: int | None = None
) -> Rehearsal | None:
    """The rehearsal on the largest evaluated model, at its last evaluated step up to `step`."""
    runs = read_runs(connection, suite)
    orders, steps = [run.order for run in runs.values()], [run.step for run in runs.values()]
    played = read_played(
        connection, store, suite, runs, unit,
        below=max(orders, default=0) + 1, step=step if step is not None else max(steps, default=0),
    )  # fmt: skip
    return rehearse(played, runs)


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
    played = read_played(connection, store, target.suite, runs, unit, below=target.order, step=target.step)
    laws = _Laws(seen, played)
    counted = _flagged(connection, store, target, runs, unit)
    able = [r for r in runs.values() if r.training_flops < target.training_flops and r.order <= target.order]
    last = Run(
        target.checkpoint, target.model, target.order, target.step, target.parameters, target.training_flops,
        target.evaluated,
    )  # fmt: skip
    rules, refused = _forecasts(last, able, laws, counted)
    if not rules:
        reasons = "; ".join(dict.fromkeys(refused.values())) or "the suite has no checkpoint that costs less"
        raise BadInput(f"no forecast for {target.checkpoint}: {reasons}")
    return Forecasts(laws.of[PAPERS], tuple(rules), refused, laws.without, rehearse(played, runs))


class _Laws:
    """(recall, precision) by line; of unions, what the cheaper run adds.

    Raises BadInput where there is no law for the paper's rule.
    """

    def __init__(self, paper: Sequence[Observation], played: Sequence[Played]) -> None:
        self.of: dict[Line, tuple[Law, Law]] = {
            PAPERS: (fit(paper, "recall_corpus"), fit(paper, "precision"))
        }
        self.without: dict[str, str] = {}
        alone = {(one.target.name, one.runs[0].name): one for one in played if one.line == PAPERS}
        by_line: dict[Line, list[Observation]] = {}
        for one in played:
            seen = gained(one, alone) if one.line == TOGETHER else observed(one)
            if one.line != PAPERS and seen is not None:
                by_line.setdefault(one.line, []).append(seen)
        for line, seen_ones in by_line.items():
            terms = (_GAIN_TERMS,) if line == TOGETHER else ()
            try:
                self.of[line] = (
                    fit(seen_ones, "recall_corpus", *terms),
                    fit(seen_ones, "precision", *terms),
                )
            except BadInput as error:
                self.without[str(line)] = str(error)


def _names(runs: Iterable[Run]) -> str:
    return " + ".join(run.name for run in sorted(runs, key=lambda run: (run.order, run.step)))


def _forecasts(
    target: Run, able: Sequence[Run], laws: _Laws, counted: Mapping[tuple[str, Line], int]
) -> tuple[list[Forecast], dict[str, str]]:
    """Every rule with support, and why runs have none by the paper's rule."""
    rules: list[Forecast] = []
    refused: dict[str, str] = {}
    papers: dict[str, Forecast] = {}
    for run in sorted(able, key=lambda run: (run.training_flops, run.order)):
        at = (run.training_flops / target.training_flops, run.parameters / target.parameters)
        for line, (recall, precision) in laws.of.items():
            if line == TOGETHER:
                continue
            why = next(
                (why for law in (recall, precision) if (why := law.refusal(*at, target.training_flops))), None
            )
            if why is not None:
                if line == PAPERS:
                    refused[run.name] = why
                continue
            one = Forecast(
                run.name,
                line,
                run.training_flops,
                recall.forecast(*at, target.training_flops),
                precision.forecast(*at, target.training_flops),
                precision.sure(*at, target.training_flops),
                counted.get((run.name, line)),
            )
            rules.append(one)
            if line == PAPERS:
                papers[run.name] = one
    if TOGETHER in laws.of:
        rules += _unions(target, able, laws.of[TOGETHER], papers, counted)
    return rules, refused


def _unions(
    target: Run,
    able: Sequence[Run],
    gains: tuple[Law, Law],
    papers: Mapping[str, Forecast],
    counted: Mapping[tuple[str, Line], int],
) -> Iterable[Forecast]:
    """Unions of two evaluated runs of different models: only of those is it known how many they flag."""
    members = [run for run in able if run.name in papers and counted.get((run.name, PAPERS))]
    if len(members) > _MEMBERS:
        members = list({run.model: run for run in sorted(members, key=lambda run: run.step)}.values())
    for dear in members:
        for cheap in members:
            names = _names((dear, cheap))
            flagged = counted.get((names, TOGETHER))
            flops = dear.training_flops + cheap.training_flops
            if (
                dear.model == cheap.model
                or (cheap.training_flops, -cheap.order) >= (dear.training_flops, -dear.order)
                or flagged is None
                or flops >= target.training_flops
            ):
                continue
            at = (cheap.training_flops / dear.training_flops, cheap.parameters / dear.parameters)
            if any(law.refusal(*at, target.training_flops) for law in gains):
                continue
            first = papers[dear.name]
            more, worth = (law.forecast(*at, target.training_flops) for law in gains)
            share = (first.flagged or 0) / flagged

            def sum_of(a: float | None, b: float | None, share: float = share) -> float:
                return share * (a or 0.0) + (1 - share) * (b or 0.0)

            yield Forecast(
                names,
                TOGETHER,
                flops,
                # Both at their ends at once: wider than 95% asks for.
                Share(*(
                    (r or 0.0) + (1 - (r or 0.0)) * (g or 0.0)
                    for r, g in zip(_ends(first.recall), _ends(more), strict=True)
                )),
                Share(*(
                    sum_of(p, w) for p, w in zip(_ends(first.precision), _ends(worth), strict=True)
                )),
                sum_of(first.sure_precision, gains[1].sure(*at, target.training_flops)),
                flagged,
            )  # fmt: skip


def _ends(share: Share) -> tuple[float | None, float | None, float | None]:
    return share.value, share.low, share.high


def _flagged(
    connection: duckdb.DuckDBPyConnection,
    store: str | Path,
    target: Target,
    runs: Mapping[str, Run],
    unit: Unit,
) -> dict[tuple[str, Line], int]:
    """How many each rule of an evaluated smaller run flags, by the query flagged."""
    names = [r.name for r in runs.values() if r.evaluated and r.order < target.order]
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


def choose_forecast(
    rules: Sequence[Forecast], budget: float, bounds: Bounds, *, without: frozenset[str] = frozenset()
) -> Forecast | None:
    """The highest forecast recall within the budget (FLOPs) and the bounds.

    Of equals the cheaper, then the paper's.
    """
    return max(
        (
            r
            for r in rules
            if r.training_flops <= budget
            and r.flagged != 0
            and _keeps(r, bounds)
            and r.predictors not in without
        ),
        key=lambda r: (r.recall.value or 0.0, -r.training_flops, r.line.is_papers),
        default=None,
    )


def cheapest_forecast(rules: Sequence[Forecast], recall: float, bounds: Bounds) -> Forecast | None:
    """The cheapest whose forecast recall reaches `recall` within the bounds."""
    return min(
        (r for r in rules if r.flagged != 0 and _keeps(r, bounds) and (r.recall.value or 0.0) >= recall),
        key=lambda r: (r.training_flops, -(r.recall.value or 0.0), not r.line.is_papers),
        default=None,
    )


def _keeps(rule: Forecast, bounds: Bounds) -> bool:
    """Of many lines the best forecast tends to be too good: they keep the bound with their lower limit."""
    precision = (rule.precision.value or 0.0) if rule.line.is_papers else rule.sure_precision
    if bounds.min_precision is not None and precision < bounds.min_precision:
        return False
    return bounds.max_flagged is None or (rule.flagged is not None and rule.flagged <= bounds.max_flagged)
