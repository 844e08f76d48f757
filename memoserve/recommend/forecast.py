"""Rules for a target that has no scores yet: their recall and precision from laws over smaller targets.

Each line (the paper's rule, or a signal of at least tau) has a law of its own, of the same terms, fitted to
what that line did for smaller targets. A union of two runs is the costlier one's forecast and what the
cheaper adds to it, by a law of the compute between the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from memoserve.catalog import StoredCheckpoint
from memoserve.errors import BadInput
from memoserve.recommend.backtest_data import (
    EITHER,
    PAPER_RULE,
    Line,
    RuleResult,
    observed,
    union_gain,
)
from memoserve.recommend.law import Law, Observation, fit
from memoserve.recommend.rules import Bounds, Share

_GAIN_TERMS = 2
"""What a second run adds is fitted by an intercept and the compute between the two: such pairs are few."""

_MEMBERS = 62
"""Of more evaluated runs than this, only each model's latest goes into unions."""


@dataclass(frozen=True)
class Forecast:
    """A rule and what to expect of it. `flagged`, over all that its runs have seen, is None before they are
    evaluated; `precision_lower_bound` is the one-sided 90% lower limit of precision.
    """

    predictors: str
    line: Line
    training_flops: float
    recall: Share
    precision: Share
    precision_lower_bound: float
    flagged: int | None

    @property
    def key(self) -> tuple[str, Line]:
        """Which rule it is."""
        return self.predictors, self.line


class LineLaws:
    """(recall, precision) by line; of unions, what the cheaper run adds.

    Raises BadInput where there is no law for the paper's rule.
    """

    def __init__(self, paper: Sequence[Observation], results: Sequence[RuleResult]) -> None:
        self.of: dict[Line, tuple[Law, Law]] = {
            PAPER_RULE: (fit(paper, "recall_corpus"), fit(paper, "precision"))
        }
        self.without: dict[str, str] = {}
        alone = {(one.target.name, one.runs[0].name): one for one in results if one.line == PAPER_RULE}
        by_line: dict[Line, list[Observation]] = {}
        for one in results:
            seen = union_gain(one, alone) if one.line == EITHER else observed(one)
            if one.line != PAPER_RULE and seen is not None:
                by_line.setdefault(one.line, []).append(seen)
        for line, seen_ones in by_line.items():
            terms = (_GAIN_TERMS,) if line == EITHER else ()
            try:
                self.of[line] = (
                    fit(seen_ones, "recall_corpus", *terms),
                    fit(seen_ones, "precision", *terms),
                )
            except BadInput as error:
                self.without[str(line)] = str(error)


def name_of(runs: Iterable[StoredCheckpoint]) -> str:
    return " + ".join(run.name for run in sorted(runs, key=lambda run: (run.order, run.step)))


def forecast_lines(
    target: StoredCheckpoint,
    able: Sequence[StoredCheckpoint],
    laws: LineLaws,
    counted: Mapping[tuple[str, Line], int],
) -> tuple[list[Forecast], dict[str, str]]:
    """Every rule with support, and why runs have none by the paper's rule."""
    rules: list[Forecast] = []
    refused: dict[str, str] = {}
    paper_forecasts: dict[str, Forecast] = {}
    for run in sorted(able, key=lambda run: (run.training_flops, run.order)):
        at = (run.training_flops / target.training_flops, run.parameters / target.parameters)
        for line, (recall, precision) in laws.of.items():
            if line == EITHER:
                continue
            why = next(
                (why for law in (recall, precision) if (why := law.refusal(*at, target.training_flops))), None
            )
            if why is not None:
                if line == PAPER_RULE:
                    refused[run.name] = why
                continue
            one = Forecast(
                run.name,
                line,
                run.training_flops,
                recall.forecast(*at, target.training_flops),
                precision.forecast(*at, target.training_flops),
                precision.lower_bound(*at, target.training_flops),
                counted.get((run.name, line)),
            )
            rules.append(one)
            if line == PAPER_RULE:
                paper_forecasts[run.name] = one
    if EITHER in laws.of:
        rules += _unions(target, able, laws.of[EITHER], paper_forecasts, counted)
    return rules, refused


def _unions(
    target: StoredCheckpoint,
    able: Sequence[StoredCheckpoint],
    gains: tuple[Law, Law],
    paper_forecasts: Mapping[str, Forecast],
    counted: Mapping[tuple[str, Line], int],
) -> Iterable[Forecast]:
    """Unions of two evaluated runs of different models: only of those is it known how many they flag."""
    members = [run for run in able if run.name in paper_forecasts and counted.get((run.name, PAPER_RULE))]
    if len(members) > _MEMBERS:
        members = list({run.model: run for run in sorted(members, key=lambda run: run.step)}.values())
    for dear in members:
        for cheap in members:
            names = name_of((dear, cheap))
            flagged = counted.get((names, EITHER))
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
            first = paper_forecasts[dear.name]
            more, worth = (law.forecast(*at, target.training_flops) for law in gains)
            share = (first.flagged or 0) / flagged

            def sum_of(a: float | None, b: float | None, share: float = share) -> float:
                return share * (a or 0.0) + (1 - share) * (b or 0.0)

            yield Forecast(
                names,
                EITHER,
                flops,
                # Both at their ends at once: wider than 95% asks for.
                Share(*(
                    (r or 0.0) + (1 - (r or 0.0)) * (g or 0.0)
                    for r, g in zip(_ends(first.recall), _ends(more), strict=True)
                )),
                Share(*(
                    sum_of(p, w) for p, w in zip(_ends(first.precision), _ends(worth), strict=True)
                )),
                sum_of(first.precision_lower_bound, gains[1].lower_bound(*at, target.training_flops)),
                flagged,
            )  # fmt: skip


def _ends(share: Share) -> tuple[float | None, float | None, float | None]:
    return share.value, share.low, share.high


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
        key=lambda r: (r.recall.value or 0.0, -r.training_flops, r.line.is_paper_rule),
        default=None,
    )


def cheapest_forecast(rules: Sequence[Forecast], recall: float, bounds: Bounds) -> Forecast | None:
    """The cheapest whose forecast recall reaches `recall` within the bounds."""
    return min(
        (r for r in rules if r.flagged != 0 and _keeps(r, bounds) and (r.recall.value or 0.0) >= recall),
        key=lambda r: (r.training_flops, -(r.recall.value or 0.0), not r.line.is_paper_rule),
        default=None,
    )


def _keeps(rule: Forecast, bounds: Bounds) -> bool:
    """Of many lines the best forecast tends to be too good: they keep the bound with their lower limit."""
    precision = (rule.precision.value or 0.0) if rule.line.is_paper_rule else rule.precision_lower_bound
    if bounds.min_precision is not None and precision < bounds.min_precision:
        return False
    return bounds.max_flagged is None or (rule.flagged is not None and rule.flagged <= bounds.max_flagged)
