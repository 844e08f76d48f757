"""The Vega-Lite that all charts share: colours, fonts, panels, intervals.

Specs are plain dicts, as Vega-Lite's own documentation writes them, so that the JSON that users get is what
stands here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Spec = dict[str, Any]
Row = Mapping[str, Any]

SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"

# Okabe and Ito 2008: tell apart with every common kind of colour blindness.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
GREY = "#6b7280"

# Viridis at even steps, without its yellow end, which white swallows.
_VIRIDIS = ("#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#a2cc2a")

FONT = "Liberation Sans, Arial, Helvetica, sans-serif"

CONFIG: Spec = {
    # Marks without labels of their own for screen readers: a picture is described once, beside its table.
    "aria": False,
    "background": "#ffffff",
    "font": FONT,
    "axis": {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "gridColor": "#e5e7eb",
             "labelColor": "#1f2937", "titleColor": "#1f2937", "labelOverlap": True},
    "legend": {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "symbolOpacity": 1,
               "labelLimit": 300, "titleLimit": 300},
    "header": {"labelFontSize": 12, "titleFontSize": 12, "labelFontWeight": "bold", "labelLimit": 400},
    "title": {"fontSize": 14, "subtitleFontSize": 11, "anchor": "start", "subtitleColor": "#4b5563",
              "offset": 12, "limit": 2000},
    "view": {"stroke": "#d1d5db"},
    "line": {"strokeWidth": 1.8},
    "point": {"filled": True, "size": 45, "opacity": 1},
}  # fmt: skip


@dataclass(frozen=True)
class Look:
    """What a picture is drawn for. `models`: the suite's evaluated ones in order of size.

    `panel` is one panel's width in pixels, `columns` how many stand side by side. `title` off: the page
    around it has one.
    """

    models: tuple[str, ...]
    panel: int = 330
    columns: int = 2
    title: bool = True

    @property
    def height(self) -> int:
        """One panel's height in pixels."""
        return 240


def narrow(look: Look) -> Look:
    """The same for a telephone: one panel below the other."""
    return Look(look.models, panel=265, columns=1, title=look.title)


def size_colours(models: Sequence[str]) -> list[str]:
    """One colour a size, from dark for the smallest to light for the largest."""
    if len(models) < 2:
        return [_VIRIDIS[2]] * len(models)
    last = len(_VIRIDIS) - 1
    return [_between(index * last / (len(models) - 1)) for index in range(len(models))]


def _between(position: float) -> str:
    low = min(math.floor(position), len(_VIRIDIS) - 2)
    share = position - low
    first, second = (
        [int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (_VIRIDIS[low], _VIRIDIS[low + 1])
    )
    return "#" + "".join(f"{round(a + (b - a) * share):02x}" for a, b in zip(first, second, strict=True))


def by_model(look: Look, field: str = "model") -> Spec:
    """Colour by size, in the suite's order, the same in every chart of a suite."""
    return {
        "field": field,
        "type": "nominal",
        "sort": list(look.models),
        "scale": {"domain": list(look.models), "range": size_colours(look.models)},
        "title": "model",
        "legend": legend(look),
    }


def legend(look: Look) -> Spec:
    """Below on a telephone, else on the right."""
    return {"orient": "bottom", "columns": 3} if look.columns == 1 else {"orient": "right"}


def by_name(look: Look, names: Sequence[str], colours: Sequence[str]) -> Spec:
    """The scale of constant colours ({"datum": name})."""
    return {"scale": {"domain": list(names), "range": list(colours)}, "title": None, "legend": legend(look)}


def model_of(checkpoint: str) -> Spec:
    """A transform: the field `model` out of a checkpoint's name, and `at_step`."""
    return {"calculate": f"split(datum[{checkpoint!r}], '@')[0]", "as": "model"}


def step_of(checkpoint: str) -> Spec:
    """A transform: the field `at_step` out of a checkpoint's name."""
    return {"calculate": f"toNumber(split(datum[{checkpoint!r}], '@')[1])", "as": "at_step"}


def share(field: str, title: str, *, full: bool = True) -> Spec:
    """A share on the y axis, in percent; the whole of 0 to 1 unless the data decides."""
    scale: Spec = {"domain": [0, 1]} if full else {"zero": True}
    return {"field": field, "type": "quantitative", "title": title, "scale": scale, "axis": {"format": "~%"}}


def flops() -> Spec:
    """Training compute on a log axis."""
    return {
        "field": "training_flops",
        "type": "quantitative",
        "title": "training compute (FLOPs, 6ND)",
        "scale": {"type": "log", "padding": 18, "nice": False},
        "axis": {"format": ".1~e", "tickCount": 5, "labelSeparation": 8},
    }


def flops_share(field: str = "flops_share", title: str = "training compute, share of the target's") -> Spec:
    """Compute as a share of the target's on a log axis."""
    return {
        "field": field,
        "type": "quantitative",
        "title": title,
        "scale": {"type": "log", "padding": 18, "nice": False},
        "axis": {"format": "~%", "tickCount": 5},
    }


def whole_numbers() -> Spec:
    """An axis of counts, with k and M."""
    return {
        "labelExpr": "datum.value == 0 ? '0' : format(datum.value, '~s')",
        "tickCount": 6,
        "tickMinStep": 1,
    }


def step(field: str = "step") -> Spec:
    """Training steps on a linear axis."""
    return {
        "field": field,
        "type": "quantitative",
        "title": "training step",
        "axis": whole_numbers(),
        "scale": {"zero": True},
    }


def interval(x: Spec, low: str, high: str, colour: Spec, y: Spec) -> Spec:
    """A vertical line over the interval."""
    return {
        "mark": {"type": "rule", "strokeWidth": 1.4, "opacity": 0.75},
        "encoding": {"x": x, "y": {**y, "field": low}, "y2": {"field": high}, "color": colour},
    }


def band(x: Spec, low: str, high: str, colour: Spec, y: Spec) -> Spec:
    """A shaded interval along a curve."""
    return {
        "mark": {"type": "area", "opacity": 0.16, "line": False},
        "encoding": {"x": x, "y": {**y, "field": low}, "y2": {"field": high}, "color": colour},
    }


def curve(x: Spec, y: Spec, colour: Spec, *, points: bool = True, dash: Sequence[int] = ()) -> Spec:
    """A line, with a point at each row."""
    mark: Spec = {"type": "line", "point": {"size": 28} if points else False}
    if dash:
        mark["strokeDash"] = list(dash)
    return {"mark": mark, "encoding": {"x": x, "y": y, "color": colour}}


def panels(
    look: Look,
    field: str,
    layers: Sequence[Spec],
    *,
    transform: Sequence[Spec] = (),
    height: int | None = None,
    sort: Sequence[str] | None = None,
    resolve: Spec | None = None,
) -> Spec:
    """The layers once for each value of `field`, side by side."""
    facet: Spec = {"field": field, "type": "nominal", "title": None}
    if sort is not None:
        facet["sort"] = list(sort)
    return {
        "transform": list(transform),
        "facet": facet,
        "columns": look.columns,
        "spec": {"width": look.panel, "height": height or look.height, "layer": list(layers)},
        "resolve": resolve or {"axis": {"x": "independent", "y": "independent"}},
    }


def whole(body: Spec, rows: Sequence[Row], look: Look, title: str, subtitle: str) -> Spec:
    """The complete specification, data and all."""
    spec: Spec = {"$schema": SCHEMA, "description": f"{title} {subtitle}".strip()}
    if look.title:
        spec["title"] = {"text": wrapped(title, look), "subtitle": wrapped(subtitle, look)}
    return {**spec, "config": CONFIG, "data": {"values": [dict(row) for row in rows]}, **body}


def wrapped(text: str, look: Look) -> list[str]:
    """Lines no wider than the picture, about."""
    import textwrap

    return textwrap.wrap(text, max(40, look.panel * look.columns // 6)) or [""]
