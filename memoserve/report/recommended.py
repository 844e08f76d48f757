"""The report's recommendation: the best run for each of a grid of budgets, and how forecasts fared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memoserve.catalog import Catalog
from memoserve.errors import BadInput
from memoserve.report.charts.compute import RECOMMENDED
from memoserve.report.grammar import Look
from memoserve.report.page import drawing, percent, render

if TYPE_CHECKING:
    from markupsafe import Markup

    from memoserve.recommend.advisor import Recommended
    from memoserve.recommend.rules import Share, Unit

_UNITS: tuple[Unit, ...] = ("sequences", "windows")


@dataclass(frozen=True)
class _ByBudget:
    """What is recommended in one unit: by any rule, and beside it by the paper's rule alone."""

    unit: Unit
    sentences: Sequence[str]
    answers: Sequence[Recommended]
    paper_rules: Sequence[Recommended | None]

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        return [_row(*pair) for pair in zip(self.answers, self.paper_rules, strict=True)]

    @property
    def basis(self) -> str:
        return self.answers[0].basis


def recommendation(catalog: Catalog, suite: str, target: str, look: Look | None) -> Markup:
    """What memoserve recommend --grid says, with its default bound on precision, and how forecasts fared.

    Without a `look` nothing is drawn.
    """
    from memoserve.recommend import Bounds, rehearse_largest
    from memoserve.recommend.scaling import rehearsed_sentences

    missing = None
    units = []
    for unit in _UNITS:
        try:
            units.append(_by_budget(catalog, suite, target, unit))
        except BadInput as error:
            missing = str(error) if unit == "sequences" else None
            break
    drawn = [point for one in units for point in _points(one)]
    try:
        rehearsal = rehearse_largest(catalog, suite, "sequences")
    except BadInput:
        rehearsal = None
    return render(
        "recommendation.html",
        target=target,
        missing=missing,
        units=units,
        chart=RECOMMENDED,
        drawing=drawing(RECOMMENDED, drawn, look) if look and RECOMMENDED.drawable(drawn) else "",
        rehearsed=[] if rehearsal is None else rehearsed_sentences(rehearsal, Bounds(0.8, None)),
    )


def _by_budget(catalog: Catalog, suite: str, target: str, unit: Unit) -> _ByBudget:
    from memoserve.recommend import Advisor, Bounds, find_target, grid_answers

    chosen = find_target(catalog, suite, target)
    advisor = Advisor(catalog, chosen, Bounds(0.8, None), unit=unit)
    answers, sentences = grid_answers(advisor)
    budgets = [(one.budget_share or 0.0) * chosen.training_flops for one in answers]
    return _ByBudget(unit, sentences, answers, [advisor.paper_rule(budget) for budget in budgets])


def _row(best: Recommended, paper: Recommended | None) -> tuple[Any, ...]:
    beside = ("", "") if paper is None else (paper.predictors, _share(paper.recall))
    return (
        best.answer, best.predictors, best.rule, percent(best.flops_share), best.flagged,
        _share(best.precision), _share(best.recall), *beside,
    )  # fmt: skip


def _points(one: _ByBudget) -> Iterator[dict[str, Any]]:
    before = None
    for kind, answers in (("any rule", one.answers), ("the paper's rule alone", one.paper_rules)):
        for best in answers:
            if best is None:
                continue
            yield {
                "unit": one.unit, "kind": kind, "budget_share": best.budget_share,
                "predictors": best.predictors, "rule": best.rule,
                "changes": best.predictors != before, "recall_corpus": best.recall.value,
                "recall_corpus_low": best.recall.low, "recall_corpus_high": best.recall.high,
            }  # fmt: skip
            before = best.predictors


def _share(share: Share) -> str:
    if share.value is None:
        return "not defined"
    return f"{percent(share.value)} ({percent(share.low)} to {percent(share.high)})"
