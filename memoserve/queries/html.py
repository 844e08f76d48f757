"""An answer as an HTML table, for notebooks. Names and texts come from strangers: all of it is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from memoserve.queries.answer import Answer
from memoserve.queries.numbers import cells_of, numeric_columns
from memoserve.terminal import escape_for_terminal


def as_html(answer: Answer, total: int, title: str = "", sentences: Sequence[str] = ()) -> str:
    """A table with numbers for people, notes about it below; `answer`: the first rows of `total`."""
    align = ["right" if numeric else "left" for numeric in numeric_columns(answer)]
    parts = [f"<p><b>{_safe(title)}</b></p>"] if title else []
    parts += [
        '<div style="overflow-x: auto"><table>',
        f"<thead>{_row('th', answer.columns, align)}</thead>",
        "<tbody>",
        *(_row("td", cells, align) for cells in cells_of(answer)),
        "</tbody></table></div>",
    ]
    if note := rows_note(len(answer.rows), total):
        parts.append(f"<p>{note}</p>")
    parts += [f"<p>{_safe(sentence)}</p>" for sentence in sentences]
    return "\n".join(parts)


def rows_note(shown: int, total: int) -> str:
    """What a table says of rows that it doesn't show; nothing if it shows them all."""
    if not total:
        return "no rows"
    return (
        f"{shown:,} of {total:,} rows; .df(), .pl(), .arrow() and .rows() have all" if shown < total else ""
    )


def _row(tag: str, cells: Sequence[str], align: Sequence[str]) -> str:
    inner = "".join(
        f'<{tag} style="text-align: {side}">{_safe(cell)}</{tag}>'
        for cell, side in zip(cells, align, strict=True)
    )
    return f"<tr>{inner}</tr>"


def _safe(text: str) -> str:
    # Jupyter sets what stands between dollars as a formula.
    return escape(escape_for_terminal(text)).replace("$", "&#36;")
