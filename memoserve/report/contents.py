"""What the report says, from top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

from memoserve.catalog import Catalog, StoredCheckpoint
from memoserve.errors import BadInput
from memoserve.report import sections
from memoserve.report.charts.all import CHARTS
from memoserve.report.charts.base import Chart
from memoserve.report.coverage import coverage
from memoserve.report.grammar import Look
from memoserve.report.page import answer_of, figure, page, render
from memoserve.report.recommended import recommendation
from memoserve.report.rows import Table, ask, models_of, parameters_for
from memoserve.report.sections import ReportTexts
from memoserve.store import Store

if TYPE_CHECKING:
    from markupsafe import Markup

_ROWS = 5000
"""A figure with more rows than this doesn't go on a page, whose links hold them all."""


_BESIDE = {"position": "position_test"}
"""Queries without a picture of their own, by the figure that they stand below."""


@dataclass(frozen=True)
class _Figures:
    """What was drawn, and which charts were left out, with why."""

    drawn: list[tuple[Chart, Markup]]
    left_out: list[tuple[Chart, str]]


def report(
    catalog: Catalog,
    store: Store,
    *,
    suite: str | None = None,
    target: str | None = None,
    texts: ReportTexts | None = None,
    only: Sequence[str] | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> str:
    """The page as HTML. `only`: these charts, by name; `progress` is told what is being drawn.

    Raises BadInput for a suite or target that was not evaluated, and where nothing was evaluated.
    """
    from markupsafe import Markup

    cells = coverage(catalog, suite)
    if not cells:
        raise BadInput(f"{catalog.store} holds no scores yet: run memoserve run, or memoserve import, first")
    suite = cells[0].suite

    @cache
    def answer(name: str) -> Table:
        return ask(catalog, name, _parameters_for_name(name, suite, target))

    predictors = answer("predictors")
    wanted = target or _last(cells)
    look = Look(models_of(catalog, suite))
    charts = [chart for chart in CHARTS if only is None or chart.name in only]
    figures = _figures(charts, look, answer, progress)
    title = f"Memorization in {suite}: what cheaper runs say about {wanted}"
    parts = [
        _header(title, _facts(store, suite, cells), [chart for chart, _ in figures.drawn], texts is not None),
        Markup("<main>"),
        sections.run(store, suite, cells, answer("counts")),
        sections.verified(answer("checks"), cells),
        sections.answer(predictors, wanted),
        recommendation(catalog, suite, wanted, look if only is None else None),
        render("figures.html", figures=[drawn for _, drawn in figures.drawn], left_out=figures.left_out),
        sections.limits(store, suite, cells, predictors),
        *([] if texts is None else [render("texts.html", texts=texts, target=wanted)]),
        Markup("</main>"),
    ]
    return page(title, parts)


def _figures(
    charts: Sequence[Chart], look: Look, answer: Callable[[str], Table], progress: Callable[[str], None]
) -> _Figures:
    """The charts of the answers that `answer` gives by their names, each with its table."""
    figures = _Figures([], [])
    for chart in charts:
        progress(chart.name)
        found = answer(chart.query)
        if not chart.drawable(found.rows):
            figures.left_out.append((chart, "the store has nothing to draw for it"))
        elif len(found.rows) > _ROWS:
            figures.left_out.append((chart, f"{len(found.rows):,} rows are too many for a page"))
        else:
            drawn = figure(chart, found, look)
            if chart.name in _BESIDE:
                drawn += answer_of(answer(_BESIDE[chart.name]), unfolded=True)
            figures.drawn.append((chart, drawn))
    return figures


def _parameters_for_name(name: str, suite: str, target: str | None) -> dict[str, str]:
    """As parameters_for, by the query's name."""
    from memoserve.queries import find_query

    # The paper's table is about Pythia's suites alone, and finds them itself.
    return {} if name == "predictors_vs_paper" else parameters_for(find_query(name), suite, target)


def _last(cells: Sequence[StoredCheckpoint]) -> str:
    evaluated = [one for one in reversed(cells) if one.evaluated]
    if not evaluated:
        raise BadInput(f"suite {cells[0].suite} has no scores in this store yet")
    return max(evaluated, key=lambda one: one.same_weights_as is None).name


def _facts(store: Store, suite: str, cells: Sequence[StoredCheckpoint]) -> str:
    made_with = store.fingerprint(suite)
    evaluated = [one for one in cells if one.evaluated]
    facts = [
        f"Suite {suite}: {len(evaluated)} of {len(cells)} checkpoints",
        f"{evaluated[0].trained:,} training sequences",
        f"sample: {made_with['sample']}" if made_with.get("sample") else "",
        " ".join(str(made_with[key]) for key in ("engine", "engine_version", "dtype") if made_with.get(key)),
        f"{made_with['mode']} mode" if made_with.get("mode") else "",
    ]
    return ", ".join(fact for fact in facts if fact)


def _header(title: str, facts: str, charts: Sequence[Chart], texts: bool) -> Markup:
    from memoserve import __version__

    links = [
        ("run", "What was run"),
        ("verified", "What was verified"),
        ("answer", "The answer"),
        ("recommendation", "The recommendation"),
        ("figures", "Figures"),
        *((chart.name, chart.title) for chart in charts),
        ("limits", "Limits"),
        *([("texts", "Memorized texts")] if texts else []),
    ]
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return render("header.html", title=title, facts=facts, version=__version__, made=made, links=links)
