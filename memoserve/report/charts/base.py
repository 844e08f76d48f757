"""What every chart has: its query, when it can be drawn, and the marks that several share.

A chart adds no numbers of its own: what it draws are the rows of its query, and what little stands in its
transforms is a name taken apart or a column chosen. So every picture has its table and its SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from memoserve.errors import BadInput
from memoserve.report import grammar as g
from memoserve.report.grammar import Look, Row, Spec

Body = Callable[[Sequence[Row], Look], Spec]


@dataclass(frozen=True)
class Chart:
    """A picture of a query's answer.

    `needs` are columns that one row at least must have, above zero where `positive`: without, there is
    nothing to draw. `reading` says how to read it, in a sentence or two. `values` are parameters that
    differ from the query's defaults.
    """

    name: str
    query: str
    title: str
    reading: str
    needs: tuple[str, ...]
    body: Body
    positive: tuple[str, ...] = ()
    values: Mapping[str, str] = field(default_factory=dict)

    def drawable(self, rows: Sequence[Row]) -> bool:
        """Whether a row has what the chart needs."""
        return any(
            all(row.get(name) is not None for name in self.needs)
            and all((row.get(name) or 0) > 0 for name in self.positive)
            for row in rows
        )

    def spec(self, rows: Sequence[Row], look: Look, subtitle: str = "") -> Spec:
        """The Vega-Lite specification with the rows in it. Raises BadInput if there is nothing to draw."""
        if not self.drawable(rows):
            raise BadInput(
                f"there is nothing to draw for {self.name}: the answer of memoserve query {self.query} "
                + (f"has no row with {' and '.join(self.needs)}" if rows else "has no rows")
            )
        return g.whole(self.body(rows, look), rows, look, self.title, subtitle)


def on_log(column: str) -> Spec:
    return {"filter": f"datum[{column!r}] > 0"}


def slanted(names: Sequence[str]) -> Spec:
    """Slanted labels, all of them as long as they fit."""
    return {"labelAngle": -40, "labelOverlap": len(names) > 14}


def named(label: str, *layers: Spec) -> list[Spec]:
    """The layers with their constant name in the field `named`, for the legend."""
    return [{"transform": [{"calculate": f"'{label}'", "as": "named"}], **layer} for layer in layers]


def measures(look: Look, x: Spec, columns: Mapping[str, tuple[str, str]], title: str) -> list[Spec]:
    """A curve with intervals for each of {column: (label, colour)}."""
    names = [label for label, _ in columns.values()]
    colours = [colour for _, colour in columns.values()]
    layers = []
    for column, (label, _) in columns.items():
        colour = {"field": "named", "type": "nominal", **g.by_name(look, names, colours)}
        y = g.share(column, title)
        layers += named(
            label, g.interval(x, f"{column}_low", f"{column}_high", colour, y), g.curve(x, y, colour)
        )
    return layers


# Of viridis over 0 to 1: up to here white text has a contrast of 4.5 on it, from here on black text.
LIGHT = 0.43


def cell_layers(
    look: Look, x: Spec, y: Spec, value: str, colour: Spec, form: str, columns: int
) -> list[Spec]:
    """A heat map of shares, with its numbers in it where they fit."""
    quantity: Spec = {"field": value, "type": "quantitative", **colour}
    quantity.setdefault("legend", {"orient": "bottom" if look.columns == 1 else "right"})
    if form.endswith("%"):
        quantity["legend"] = {**quantity["legend"], "format": "~%"}
    layers: list[Spec] = [{"mark": {"type": "rect"}, "encoding": {"x": x, "y": y, "color": quantity}}]
    if look.panel / max(columns, 1) >= 28:
        layers.append(
            {
                "mark": {"type": "text", "fontSize": 11},
                "encoding": {
                    "x": x,
                    "y": y,
                    "text": {"field": value, "format": form},
                    "color": {
                        "condition": {"test": f"datum[{value!r}] > {LIGHT}", "value": "#000000"},
                        "value": "#ffffff",
                    },
                },
            }
        )
    return layers


def heading_of(text: str) -> Spec:
    """A panel's title, as facets have it."""
    return {"text": text, "anchor": "middle", "fontSize": 12, "offset": 6}
