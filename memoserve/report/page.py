"""HTML out of templates: one self-contained page, without scripts and without anything from a network.

Figures are static SVG, drawn twice (side by side, and one below the other for telephones; the style sheet
shows one). They print, need no script and can't fail in a browser; who wants to hover or to change one takes
the Vega-Lite or the table that stand below it as links with the data in them.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memoserve.errors import BadInput
from memoserve.report.charts.base import Chart
from memoserve.report.grammar import Look, narrow
from memoserve.report.render import to_svg
from memoserve.report.rows import Table

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

_SHOWN = 200
"""Rows of a table on the page; the rest is in its download."""

_NAMES = 12
"""Names of a list that are written out."""


def render(template: str, **values: Any) -> Markup:
    """A template of this package with values, which are escaped unless they are Markup.

    Raises BadInput if the library for templates is not installed.
    """
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(values))


def page(title: str, parts: Iterable[Markup]) -> str:
    """A whole document."""
    from markupsafe import Markup

    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return str(render("page.html", title=title, style=Markup(style), parts=list(parts)))


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Markup:
    """A table that scrolls in itself where it is wide; the first column heads its row."""
    return _macro("table", caption, columns, rows)


def drawing(chart: Chart, rows: Sequence[Mapping[str, Any]], look: Look) -> Markup:
    """The picture alone, once for wide pages and once for telephones."""
    from markupsafe import Markup

    bare = Look(look.models, look.panel, look.columns, title=False)
    label = f"{chart.title}. {chart.reading} The table below has the numbers."
    drawn = []
    for kind, look in (("wide", bare), ("narrow", narrow(bare))):
        svg = _embedded(to_svg(chart.spec(rows, look)), f"{chart.name}-{kind}", label)
        drawn.append(f'<div class="{kind}">{svg}</div>')
    return Markup(f"<figure>{''.join(drawn)}</figure>")


def figure(chart: Chart, answer: Table, look: Look, level: int = 3) -> Markup:
    """A chart with what it says, its table, its SQL and both as links to save."""
    spec = json.dumps(chart.spec(answer.rows, look, chart.reading), ensure_ascii=False)
    return render(
        "figure.html",
        chart=chart,
        level=level,
        drawing=drawing(chart, answer.rows, look),
        answer=answer_of(answer),
        query=answer.query.name,
        spec=base64.b64encode(spec.encode()).decode(),
        csv=base64.b64encode(_csv(answer).encode()).decode(),
    )


def chart_page(chart: Chart, answer: Table, look: Look) -> str:
    """A whole document of one chart."""
    from markupsafe import Markup

    return page(chart.title, [Markup("<main>"), figure(chart, answer, look, level=1), Markup("</main>")])


def answer_of(answer: Table, *, unfolded: bool = False) -> Markup:
    """A query's rows and its SQL, each folded away; the rows not if `unfolded`."""
    rows = [[row[name] for name in answer.columns] for row in answer.rows[:_SHOWN]]
    caption = f"memoserve query {answer.query.name}: {answer.query.question}"
    if len(answer.rows) > _SHOWN:
        caption += f" The first {_SHOWN} of {len(answer.rows):,} rows; all of them are in the CSV."
    return _macro("answer", answer, caption, rows, unfolded)


def cell(value: Any) -> str:
    """A value for people: thousands apart, four digits of a fraction, nothing for NULL."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e9 else f"{value:.4g}"
    return str(value)


def percent(share: float | None) -> str:
    """A share for people."""
    return "not defined" if share is None else f"{share:.1%}"


def interval(row: Mapping[str, Any], name: str) -> str:
    """A share of a query's row with its interval, for people."""
    if row[name] is None:
        return "not defined (nothing memorized)"
    return f"{percent(row[name])} ({percent(row[f'{name}_low'])} to {percent(row[f'{name}_high'])})"


@cache
def _environment() -> Environment:
    try:
        import jinja2
    except ImportError:
        raise BadInput("pages need Jinja2, which is not installed: pip install 'memoserve[report]'") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "cell": cell,
        "percent": percent,
        "interval": interval,
        "first_names": _first_names,
    }
    environment.tests["figure"] = lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    return environment


def _macro(name: str, *values: Any) -> Markup:
    made: Markup = getattr(_environment().get_template("parts.html").module, name)(*values)
    return made


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMES]) + (" …" if len(names) > _NAMES else "")


def _csv(answer: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows(
        ["" if row[name] is None else row[name] for name in answer.columns] for row in answer.rows
    )
    return text.getvalue()


def _embedded(svg: str, name: str, label: str) -> str:
    """An SVG document as part of a page: ids of its own, one description, no namespaces."""
    start = svg.index("<svg")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg[start:])
    svg = re.sub(r'url\((["\']?)#', rf"url(\1#{name}-", svg)
    svg = re.sub(r'(href=["\'])#', rf"\1#{name}-", svg)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
