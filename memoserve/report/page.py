"""HTML out of parts: one self-contained page, without scripts and without anything from a network.

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
from html import escape
from pathlib import Path
from typing import Any

from memoserve.report.charts.base import Chart
from memoserve.report.grammar import Look, narrow
from memoserve.report.render import to_svg
from memoserve.report.rows import Table

_SHOWN = 200
"""Rows of a table on the page; the rest is in its download."""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document."""
    style = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # Even if a text on the page were to break out of its escaping, it could load and run nothing.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        # An icon of its own keeps browsers from asking the server for one.
        '<link rel="icon" href="data:,">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A table that scrolls in itself where it is wide; the first column heads its row."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    body = []
    for row in rows:
        cells = [f'<th scope="row">{escape(cell(row[0]))}</th>'] if row else []
        for value in row[1:]:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            kind = ' class="n"' if number else ""
            cells.append(f"<td{kind}>{escape(cell(value))}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f"<table><caption><span>{escape(caption)}</span></caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


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


def drawing(chart: Chart, rows: Sequence[Mapping[str, Any]], look: Look) -> str:
    """The picture alone, once for wide pages and once for telephones."""
    bare = Look(look.models, look.panel, look.columns, title=False)
    label = f"{chart.title}. {chart.reading} The table below has the numbers."
    drawn = []
    for kind, its in (("wide", bare), ("narrow", narrow(bare))):
        svg = _embedded(to_svg(chart.spec(rows, its)), f"{chart.name}-{kind}", label)
        drawn.append(f'<div class="{kind}">{svg}</div>')
    return f"<figure>{''.join(drawn)}</figure>"


def figure(chart: Chart, answer: Table, look: Look, level: int = 3) -> str:
    """A chart with what it says, its table, its SQL and both as links to save."""
    spec = chart.spec(answer.rows, look, chart.reading)
    return "\n".join(
        [
            f'<section class="figure" id="{escape(chart.name)}">',
            f"<h{level}>{escape(chart.title)}</h{level}>",
            f'<p class="soft">{escape(chart.reading)}</p>',
            drawing(chart, answer.rows, look),
            answer_of(answer),
            '<p class="links">',
            _link(
                "Vega-Lite", f"{chart.name}.vl.json", "application/json", json.dumps(spec, ensure_ascii=False)
            ),
            "·",
            _link("table as CSV", f"{answer.query.name}.csv", "text/csv", _csv(answer)),
            "</p>\n</section>",
        ]
    )


def answer_of(answer: Table, *, unfolded: bool = False) -> str:
    """A query's rows and its SQL, each folded away; the rows not if `unfolded`."""
    rows = [[row[name] for name in answer.columns] for row in answer.rows]
    caption = f"memoserve query {answer.query.name}: {answer.query.question}"
    if len(rows) > _SHOWN:
        caption += f" The first {_SHOWN} of {len(rows):,} rows; all of them are in the CSV."
    return (
        f"<details{' open' if unfolded else ''}><summary>Table ({len(rows):,} rows)</summary>"
        f"{table(caption, answer.columns, rows[:_SHOWN])}</details>"
        f"<details><summary>SQL ({escape(answer.query.path.name)})</summary>"
        f'<pre tabindex="0"><code>{escape(answer.query.sql)}</code></pre></details>'
    )


def _csv(answer: Table) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(answer.columns)
    writer.writerows(
        ["" if row[name] is None else row[name] for name in answer.columns] for row in answer.rows
    )
    return text.getvalue()


def _link(text: str, name: str, kind: str, content: str) -> str:
    data = base64.b64encode(content.encode()).decode()
    return f'<a download="{escape(name)}" href="data:{kind};base64,{data}">{escape(text)}</a>'


def _embedded(svg: str, name: str, label: str) -> str:
    """An SVG document as part of a page: ids of its own, one description, no namespaces."""
    start = svg.index("<svg")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg[start:])
    svg = re.sub(r'url\((["\']?)#', rf"url(\1#{name}-", svg)
    svg = re.sub(r'(href=["\'])#', rf"\1#{name}-", svg)
    svg = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", svg)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1)
