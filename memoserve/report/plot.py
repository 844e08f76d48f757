"""A picture of an answer: Vega-Lite, which notebooks draw by themselves, and files of every kind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from memoserve.catalog import Catalog
from memoserve.files.whole import writing
from memoserve.report.charts.all import find_chart
from memoserve.report.charts.base import Chart
from memoserve.report.grammar import Look, Spec
from memoserve.report.render import write_picture
from memoserve.report.rows import Table, ask, models_of

_MEDIA_TYPES = ("application/vnd.vegalite.v6+json", "application/vnd.vegalite.v5+json")
"""What notebooks know Vega-Lite as; older ones only as the second, and draw these charts all the same."""


@dataclass(frozen=True, eq=False, repr=False)
class Plot:
    """A chart of a query's answer. Notebooks draw it; altair.Chart.from_dict(plot.spec) goes on from it."""

    chart: Chart
    table: Table
    look: Look

    @cached_property
    def spec(self) -> Spec:
        """The Vega-Lite specification, with its data inside. Raises BadInput if there is nothing to draw."""
        return self.chart.spec(self.table.rows, self.look, self.chart.reading)

    def save(self, path: str | Path) -> None:
        """Write a .png, .svg, .pdf, .html or .json (Vega-Lite) file, whole or not at all.

        All but .json need memoserve[report]. Raises BadInput for another ending or without what draws it.
        """
        file = Path(path)
        if file.suffix.lower() != ".html":
            write_picture(self.spec, file)
            return
        from memoserve.report.page import chart_page

        page = chart_page(self.chart, self.table, self.look)
        with writing(file) as temporary:
            temporary.write_text(page, encoding="utf-8")

    def __repr__(self) -> str:
        return f"<plot {self.chart.name}: {self.chart.title}. .save(path) draws it, .spec is its Vega-Lite>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {"text/plain": repr(self), **dict.fromkeys(_MEDIA_TYPES, self.spec)}


def draw(catalog: Catalog, name: str, values: Mapping[str, object]) -> Plot:
    """The chart `name` of its query's answer to the parameters `values`.

    Raises BadInput for a chart that there isn't, and as run_query does.
    """
    chart = find_chart(name)
    table = ask(catalog, chart.query, {**chart.values, **values})
    suite = values.get("suite")
    look = Look(models_of(catalog, None if suite is None else str(suite)))
    return Plot(chart, table, look)
