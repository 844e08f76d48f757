"""The charts: each a query's rows as Vega-Lite.

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


def find_chart(name: str) -> Chart:
    """The chart of that name. Raises BadInput, listing the charts, if there is none."""
    for chart in CHARTS:
        if chart.name == name:
            return chart
    raise BadInput(f"there is no plot {name!r}; the plots are {', '.join(c.name for c in CHARTS)}")


def _on_log(column: str) -> Spec:
    return {"filter": f"datum[{column!r}] > 0"}


def _names(names: Sequence[str]) -> Spec:
    """Slanted labels, all of them as long as they fit."""
    return {"labelAngle": -40, "labelOverlap": len(names) > 14}


def _named(label: str, *layers: Spec) -> list[Spec]:
    """The layers with their constant name in the field `named`, for the legend."""
    return [{"transform": [{"calculate": f"'{label}'", "as": "named"}], **layer} for layer in layers]


def _measures(look: Look, x: Spec, columns: Mapping[str, tuple[str, str]], title: str) -> list[Spec]:
    """A curve with intervals for each of {column: (label, colour)}."""
    names = [label for label, _ in columns.values()]
    colours = [colour for _, colour in columns.values()]
    layers = []
    for column, (label, _) in columns.items():
        colour = {"field": "named", "type": "nominal", **g.by_name(look, names, colours)}
        y = g.share(column, title)
        layers += _named(
            label, g.interval(x, f"{column}_low", f"{column}_high", colour, y), g.curve(x, y, colour)
        )
    return layers


def _predictors(rows: Sequence[Row], look: Look) -> Spec:
    layers = _measures(
        look,
        g.flops(),
        {"precision": ("precision", g.BLUE), "recall_corpus": ("recall", g.ORANGE)},
        "precision, recall",
    )
    # Above the panel, where no curve runs.
    layers.append(
        {
            "mark": {"type": "text", "baseline": "bottom", "dy": -4, "fontSize": 11, "color": g.GREY},
            "encoding": {"x": g.flops(), "y": {"value": 0}, "text": {"field": "model"}},
        }
    )
    spec = g.panels(look, "unit", layers, transform=[_on_log("training_flops"), g.model_of("predictor")])
    spec["facet"]["header"] = {"labelPadding": 22}
    return spec


def _over_training(column: str, title: str) -> Body:
    def body(rows: Sequence[Row], look: Look) -> Spec:
        colour, y = g.by_model(look), g.share(column, title)
        return g.panels(
            look,
            "unit",
            [g.band(g.step(), f"{column}_low", f"{column}_high", colour, y), g.curve(g.step(), y, colour)],
            transform=[g.model_of("predictor")],
        )

    return body


def _checkpoint_map(rows: Sequence[Row], look: Look) -> Spec:
    steps = len({row["step"] for row in rows})
    layers = _cells(
        look,
        {"field": "step", "type": "ordinal", "title": "training step", "axis": {"labelOverlap": True}},
        {"field": "model", "type": "ordinal", "sort": list(look.models), "title": None},
        "recall_corpus",
        {"title": "recall", "scale": {"scheme": "viridis", "domain": [0, 1]}},
        ".0%",
        steps,
    )
    return g.panels(
        look,
        "unit",
        layers,
        transform=[g.model_of("predictor")],
        height=max(80, 34 * len(look.models)),
    )


# Of viridis over 0 to 1: up to here white text has a contrast of 4.5 on it, from here on black text.
_LIGHT = 0.43


def _cells(look: Look, x: Spec, y: Spec, value: str, colour: Spec, form: str, columns: int) -> list[Spec]:
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
                        "condition": {"test": f"datum[{value!r}] > {_LIGHT}", "value": "#000000"},
                        "value": "#ffffff",
                    },
                },
            }
        )
    return layers


def _compute(rows: Sequence[Row], look: Look) -> Spec:
    x, colour = g.flops_share(), g.by_model(look)
    y = g.share("recall_corpus", "recall, of all that the target memorized")
    return g.panels(
        look,
        "unit",
        [g.interval(x, "recall_corpus_low", "recall_corpus_high", colour, y), g.curve(x, y, colour)],
        transform=[_on_log("flops_share"), g.model_of("predictor")],
    )


def _equicompute(rows: Sequence[Row], look: Look) -> Spec:
    x = g.flops_share()
    y = g.share("recall_corpus", "recall, of all that the target memorized")
    colour = g.by_model(look)
    plain = {"value": g.GREY}
    line = g.curve(x, y, plain, points=False)
    line["mark"]["interpolate"] = "step-after"
    return g.panels(
        look,
        "unit",
        [
            line,
            g.interval(x, "recall_corpus_low", "recall_corpus_high", colour, y),
            {"mark": {"type": "point", "size": 60}, "encoding": {"x": x, "y": y, "color": colour}},
        ],
        transform=[
            {"filter": "datum.answer == 'frontier'"},
            _on_log("flops_share"),
            g.model_of("predictor"),
        ],
    )


def _thresholds(rows: Sequence[Row], look: Look) -> Spec:
    x = {
        "field": "recall_corpus",
        "type": "quantitative",
        "title": "recall, of all that the target memorized",
        "scale": {"domain": [0, 1]},
        "axis": {"format": "~%"},
    }
    y = g.share("precision", "precision")
    colour = {"value": g.BLUE}
    line = g.curve(x, y, colour, points=False)
    line["encoding"]["order"] = {"field": "tau", "type": "quantitative", "sort": "descending"}
    wanted: Spec = {"filter": "datum.wanted"}
    return g.panels(
        look,
        "unit",
        [
            g.band(x, "precision_low", "precision_high", colour, y),
            line,
            {"mark": {"type": "point", "size": 18}, "encoding": {"x": x, "y": y, "color": colour}},
            {
                "transform": [wanted],
                "mark": {"type": "point", "size": 110, "color": g.ORANGE},
                "encoding": {"x": x, "y": y},
            },
            {
                "transform": [wanted, {"calculate": "'\u2265 ' + format(datum.tau, '.3~g')", "as": "mark"}],
                "mark": {
                    "type": "text",
                    "dy": 18,
                    "dx": -6,
                    "align": "right",
                    "fontSize": 11,
                    "color": g.ORANGE,
                },
                "encoding": {"x": x, "y": y, "text": {"field": "mark"}},
            },
        ],
    )


def _threshold_bands(rows: Sequence[Row], look: Look) -> Spec:
    signal = {
        "continuation_ll": "log-likelihood of the continuation (nats)",
        "matches": "matching tokens, of 32",
        "matched_prefix": "tokens that match before the first miss",
    }[str(rows[0]["signal"])]
    x = {
        "field": "tau",
        "type": "quantitative",
        "title": f"threshold: {signal}",
        "scale": {"zero": False, "nice": False, "reverse": True},
        "axis": {"tickCount": 6},
    }
    columns = {"precision": ("precision", g.BLUE), "recall_corpus": ("recall", g.ORANGE)}
    names, colours = [label for label, _ in columns.values()], [colour for _, colour in columns.values()]
    layers = []
    for column, (label, _) in columns.items():
        colour = {"field": "named", "type": "nominal", **g.by_name(look, names, colours)}
        y = g.share(column, "precision, recall")
        layers += _named(
            label,
            g.band(x, f"{column}_low", f"{column}_high", colour, y),
            g.curve(x, y, colour, points=False),
        )
    return g.panels(look, "unit", layers)


def _distribution(rows: Sequence[Row], look: Look) -> Spec:
    measured = {row["measure"] for row in rows if row["share"]}
    measure = "matches" if "matches" in measured else "matched_prefix"
    title = {
        "matches": "matching tokens, of 32 (32: memorized)",
        "matched_prefix": "tokens that match before the first miss (32: memorized)",
    }[measure]
    x = {
        "field": "score",
        "type": "quantitative",
        "title": title,
        "scale": {"domain": [0, 32]},
        "axis": {"values": [0, 8, 16, 24, 32]},
    }
    y = {
        "field": "share",
        "type": "quantitative",
        "title": "share of the sequences",
        "scale": {"type": "log"},
        "axis": {"format": "~%", "tickCount": 5},
    }
    return g.panels(
        look,
        "drawn",
        [g.curve(x, y, g.by_model(look))],
        transform=[
            {"filter": f"datum.measure == '{measure}' && datum.share > 0"},
            {
                "calculate": "{seen: 'seen in training', unseen: 'not yet seen', "
                "control: 'held out (control)'}[datum.sample]",
                "as": "drawn",
            },
            g.model_of("checkpoint"),
        ],
        sort=["seen in training", "not yet seen", "held out (control)"],
        resolve={"scale": {"y": "shared"}, "axis": {"x": "independent", "y": "independent"}},
    )


def _correlations(columns: Mapping[str, str]) -> Body:
    """Heat maps of pairs, first by second, for {column: what it is}; those without numbers are left out."""

    def body(rows: Sequence[Row], look: Look) -> Spec:
        shown = [name for name in columns if any(row[name] is not None for row in rows)]
        if "pearson_matches" in shown:
            shown = [name for name in shown if name != "pearson_matched_prefix"]
        order = list(dict.fromkeys(row[end] for row in rows for end in ("first", "second")))
        firsts = [name for name in order if any(row["first"] == name for row in rows)]
        seconds = [name for name in order if any(row["second"] == name for row in rows)]
        x = {
            "field": "first",
            "type": "nominal",
            "sort": firsts,
            "title": None,
            "scale": {"domain": firsts},
            "axis": _names(firsts),
        }
        y = {
            "field": "second",
            "type": "nominal",
            "sort": seconds,
            "title": None,
            "scale": {"domain": seconds},
        }
        labels = ", ".join(f"{name}: '{label}'" for name, label in columns.items())
        return g.panels(
            Look(look.models, int(look.panel * 0.8), look.columns),
            "drawn",
            _cells(
                look,
                x,
                y,
                "r",
                {"title": "r", "scale": {"scheme": "viridis", "domain": [0, 1], "clamp": True}},
                ".2f",
                len(firsts),
            ),
            transform=[
                {"fold": shown, "as": ["column", "r"]},
                {"filter": "isValid(datum.r)"},
                {"calculate": f"{{{labels}}}[datum.column] + ', ' + datum.unit", "as": "drawn"},
            ],
            height=max(60, min(400, 36 * len(seconds))),
            sort=[f"{columns[name]}, {unit}" for name in shown for unit in ("sequences", "windows")],
        )

    return body


def _heading(text: str) -> Spec:
    """A panel's title, as facets have it."""
    return {"text": text, "anchor": "middle", "fontSize": 12, "offset": 6}


def _counts(rows: Sequence[Row], look: Look) -> Spec:
    colour = g.by_model(look)
    drawn = []
    for unit in ("sequences", "windows"):
        if all(row[f"{unit}_share"] is None for row in rows):
            continue
        y = g.share(f"{unit}_share", f"memorized share of the {unit} seen", full=False)
        layers = [
            g.band(g.step(), f"{unit}_share_low", f"{unit}_share_high", colour, y),
            g.curve(g.step(), y, colour),
        ]
        drawn.append({"title": _heading(unit), "width": look.panel, "height": look.height, "layer": layers})
    return {
        # What has another checkpoint's weights is no point of a curve.
        "transform": [{"filter": "datum.same_weights_as === null"}, g.model_of("checkpoint")],
        "concat": drawn,
        "columns": look.columns,
        "resolve": {"axis": {"x": "independent", "y": "independent"}},
    }


def _training(rows: Sequence[Row], look: Look) -> Spec:
    colour, y = g.by_model(look), g.share("share", "memorized share of the common set", full=False)
    return g.panels(
        look,
        "unit",
        [g.band(g.step(), "share_low", "share_high", colour, y), g.curve(g.step(), y, colour)],
        transform=[g.model_of("checkpoint")],
        resolve={"scale": {"y": "independent"}, "axis": {"x": "independent", "y": "independent"}},
    )


def _rates(rows: Sequence[Row], look: Look) -> Spec:
    columns = {
        "tpr": ("true positives", g.BLUE, ()),
        "fnr": ("false negatives", g.SKY, (5, 3)),
        "tnr": ("true negatives", g.GREEN, (5, 3)),
        "fpr": ("false positives", g.ORANGE, ()),
    }
    scale = g.by_name(look, [c[0] for c in columns.values()], [c[1] for c in columns.values()])
    layers = []
    for column, (label, _, dash) in columns.items():
        colour, y = {"field": "named", "type": "nominal", **scale}, g.share(column, "rate")
        layers += _named(
            label,
            g.band(g.step(), f"{column}_low", f"{column}_high", colour, y),
            g.curve(g.step(), y, colour, dash=dash),
        )
    return g.panels(look, "unit", layers)


def _position(rows: Sequence[Row], look: Look) -> Spec:
    x = {
        "field": "first",
        "type": "quantitative",
        "title": "position in the training order (sequence id)",
        "scale": {"nice": False},
        "axis": g.whole_numbers(),
    }
    y = g.share("share", "memorized share", full=False)
    colour: Spec = {"value": g.BLUE}
    return g.panels(
        look,
        "unit",
        [
            {
                "mark": {"type": "line", "strokeDash": [4, 3], "color": g.GREY, "strokeWidth": 1.2},
                "encoding": {"x": x, "y": {**y, "field": "even"}},
            },
            g.interval(x, "share_low", "share_high", colour, y),
            {"mark": {"type": "point", "size": 40}, "encoding": {"x": x, "y": y, "color": colour}},
        ],
        transform=[
            {"filter": "datum.evaluated > 0"},
            {"calculate": "datum.expected / datum.evaluated", "as": "even"},
        ],
        sort=["sequences", "unrepeated", "windows"],
        resolve={"scale": {"y": "independent"}, "axis": {"x": "independent", "y": "independent"}},
    )


def _position_qq(rows: Sequence[Row], look: Look) -> Spec:
    x = {
        "field": "theoretical",
        "type": "quantitative",
        "title": "Poisson quantile",
        "scale": {"zero": False, "nice": True},
        "axis": {"tickCount": 6},
    }
    y = {
        "field": "observed",
        "type": "quantitative",
        "title": "memorized in a stretch",
        "scale": {"zero": False, "nice": True},
        "axis": {"tickCount": 6},
    }
    return g.panels(
        look,
        "unit",
        [
            {
                "mark": {"type": "line", "strokeDash": [4, 3], "color": g.GREY, "strokeWidth": 1.2},
                "encoding": {"x": x, "y": {**y, "field": "theoretical"}},
            },
            {
                "mark": {"type": "point", "color": g.BLUE, "opacity": 0.8},
                "encoding": {
                    "x": x,
                    "y": y,
                    "size": {
                        "field": "stretches",
                        "type": "quantitative",
                        "title": "stretches",
                        "scale": {"range": [20, 160]},
                        "legend": {**g.legend(look), "format": "d", "tickCount": 3},
                    },
                },
            },
        ],
        sort=["sequences", "unrepeated", "windows"],
        resolve={
            "scale": {"x": "independent", "y": "independent"},
            "axis": {"x": "independent", "y": "independent"},
        },
    )


def _forgetting(rows: Sequence[Row], look: Look) -> Spec:
    layers = _measures(
        look,
        g.step("at_step"),
        {
            "new_share": ("new, of what the later one memorized", g.BLUE),
            "forgotten_share": ("forgotten, of what the earlier one memorized", g.ORANGE),
        },
        "share since the checkpoint before",
    )
    for layer in layers:
        layer["encoding"]["color"]["legend"] = {"orient": "bottom", "columns": 1}
    return g.panels(look, "unit", layers, transform=[g.step_of("later")])


def _extractibility(rows: Sequence[Row], look: Look) -> Spec:
    x = {
        "field": "length",
        "type": "quantitative",
        "title": "tokens that have to match, from the first on",
        "scale": {"domain": [1, 32]},
        "axis": {"values": [1, 8, 16, 24, 32]},
    }
    y = {
        "field": "share",
        "type": "quantitative",
        "title": "share of what the model has seen",
        "scale": {"type": "log"},
        "axis": {"format": "~%", "tickCount": 5},
    }
    colour = g.by_model(look)
    return g.panels(
        look,
        "unit",
        [g.band(x, "share_low", "share_high", colour, y), g.curve(x, y, colour, points=False)],
        transform=[{"filter": "datum.share > 0 && datum.share_low > 0"}, g.model_of("checkpoint")],
        resolve={"scale": {"y": "independent"}, "axis": {"x": "independent", "y": "independent"}},
    )


def _confusion(rows: Sequence[Row], look: Look) -> Spec:
    order = list(dict.fromkeys(f"{row['predictor']}, {row['unit']}" for row in rows))
    target = {
        "field": "target_side",
        "type": "nominal",
        "title": "target",
        "sort": ["memorized", "not"],
        "axis": {"labelAngle": 0, "orient": "top"},
    }
    predictor = {
        "field": "predictor_side",
        "type": "nominal",
        "title": "predictor",
        "sort": ["memorized", "not"],
        "axis": {"labelAngle": -90},
    }
    cells = _cells(
        look,
        target,
        predictor,
        "part",
        {"title": "share", "scale": {"scheme": "viridis", "domain": [0, 1]}},
        ".0%",
        2,
    )
    cells[1]["encoding"]["text"] = {"field": "count", "format": ",d"}
    return {
        "transform": [
            {"filter": "datum.evaluated_both > 0"},
            {"fold": ["tp", "fp", "fn", "tn"], "as": ["cell", "count"]},
            {
                "calculate": "datum.cell == 'tp' || datum.cell == 'fn' ? 'memorized' : 'not'",
                "as": "target_side",
            },
            {
                "calculate": "datum.cell == 'tp' || datum.cell == 'fp' ? 'memorized' : 'not'",
                "as": "predictor_side",
            },
            {"calculate": "datum.count / datum.evaluated_both", "as": "part"},
            {"calculate": "datum.predictor + ', ' + datum.unit", "as": "drawn"},
        ],
        "facet": {"field": "drawn", "type": "nominal", "title": None, "sort": order},
        "columns": max(1, 2 * look.columns - 1),
        "spec": {"width": 170, "height": 110, "layer": cells},
        "resolve": {"axis": {"x": "independent", "y": "independent"}},
    }


def _emergent(rows: Sequence[Row], look: Look) -> Spec:
    x = {
        "field": "threshold",
        "type": "quantitative",
        "title": "score that no cheaper run reaches, of 32",
        "axis": {"values": [1, 8, 16, 24, 32]},
    }
    names, colours = ["sequences", "windows"], [g.BLUE, g.ORANGE]
    colour = {"field": "unit", "type": "nominal", **g.by_name(look, names, colours)}
    y = g.share("share", "share of what the target memorized")
    return {
        "width": int(look.panel * 1.3) if look.columns > 1 else look.panel,
        "height": look.height,
        "layer": [g.band(x, "share_low", "share_high", colour, y), g.curve(x, y, colour)],
    }


def _extractable(rows: Sequence[Row], look: Look) -> Spec:
    x = {
        "field": "samples",
        "type": "quantitative",
        "title": "samples n",
        "scale": {"type": "log"},
        "axis": {"format": "~s", "tickCount": 5},
    }
    y = g.share("share", "share of what the model has seen", full=False)
    colour = g.by_model(look)
    return g.panels(
        look,
        "drawn",
        [g.band(x, "share_low", "share_high", colour, y), g.curve(x, y, colour)],
        transform=[
            g.model_of("checkpoint"),
            {"calculate": "'p ≥ ' + format(datum.probability, '~g') + ', ' + datum.unit", "as": "drawn"},
        ],
    )


def _ensembles(rows: Sequence[Row], look: Look) -> Spec:
    x = g.flops_share()
    y = g.share("recall_corpus", "recall, of all that the target memorized")
    names, colours = ["alone", "union", "intersection"], [g.BLUE, g.ORANGE, g.GREEN]
    scale = g.by_name(look, names, colours)
    colour = {"field": "operation", "type": "nominal", **scale}
    return g.panels(
        look,
        "unit",
        [
            g.interval(x, "recall_corpus_low", "recall_corpus_high", colour, y),
            {
                "mark": {"type": "point", "size": 60},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "shape": {
                        "field": "operation",
                        "type": "nominal",
                        "title": None,
                        "scale": {"domain": names, "range": ["circle", "triangle-up", "diamond"]},
                        "legend": g.legend(look),
                    },
                },
            },
        ],
        transform=[_on_log("flops_share")],
    )


def _first_memorized(rows: Sequence[Row], look: Look) -> Spec:
    order = list(dict.fromkeys(row["checkpoint"] for row in rows))
    x = {"field": "checkpoint", "type": "nominal", "sort": order, "title": None, "axis": _names(order)}
    y = {
        "field": "n",
        "type": "quantitative",
        "title": "memorized for the first time",
        "stack": "zero",
        "axis": g.whole_numbers(),
    }
    names = ["at its first evaluation", "later"]
    return g.panels(
        look,
        "unit",
        [
            {
                "mark": {"type": "bar"},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": {"field": "when", "type": "nominal", **g.by_name(look, names, [g.BLUE, g.SKY])},
                },
            }
        ],
        transform=[
            {"calculate": "datum.first_memorized - datum.at_once", "as": "afterwards"},
            {"fold": ["at_once", "afterwards"], "as": ["part", "n"]},
            {"calculate": f"datum.part == 'at_once' ? '{names[0]}' : '{names[1]}'", "as": "when"},
        ],
        resolve={"scale": {"y": "independent"}, "axis": {"x": "independent", "y": "independent"}},
    )


def _versus_paper(rows: Sequence[Row], look: Look) -> Spec:
    order = [row["model"] for row in rows]
    x = {"field": "model", "type": "nominal", "sort": order, "title": None, "axis": {"labelAngle": 0}}
    names, colours = ["this store", "the paper"], [g.BLUE, g.ORANGE]
    drawn = []
    for column, paper, title in (
        ("precision", "paper_precision", "precision"),
        ("recall_corpus", "paper_recall", "recall"),
    ):
        layers = []
        for place, (name, source) in enumerate(zip(names, (column, paper), strict=True)):
            colour = {"field": "named", "type": "nominal", **g.by_name(look, names, colours)}
            shape = "circle" if place == 0 else "diamond"
            layers += _named(
                name,
                {
                    "mark": {"type": "point", "size": 70, "shape": shape},
                    "encoding": {"x": x, "y": g.share(source, title), "color": colour},
                },
            )
            if place == 0:
                layers += _named(
                    name, g.interval(x, f"{column}_low", f"{column}_high", colour, g.share(column, title))
                )
        drawn.append({"title": _heading(title), "width": look.panel, "height": look.height, "layer": layers})
    return {
        "concat": drawn,
        "columns": look.columns,
        "resolve": {"axis": {"x": "independent", "y": "independent"}},
    }


def _recommended(rows: Sequence[Row], look: Look) -> Spec:
    x = g.flops_share("budget_share", "budget, share of the target's compute")
    y = g.share("recall_corpus", "recall, of all that the target memorized")
    names, colours = ["any rule", "the paper's rule alone"], [g.BLUE, g.ORANGE]
    colour = {"field": "kind", "type": "nominal", **g.by_name(look, names, colours)}
    line = g.curve(x, y, colour)
    line["mark"]["interpolate"] = "step-after"
    spec = g.panels(
        look,
        "unit",
        [
            line,
            g.interval(x, "recall_corpus_low", "recall_corpus_high", colour, y),
            {
                "transform": [{"filter": f"datum.kind == '{names[0]}' && datum.changes"}],
                "mark": {
                    "type": "text",
                    "align": "left",
                    "angle": 315,
                    "dx": 4,
                    "dy": -6,
                    "fontSize": 10,
                    "color": g.GREY,
                },
                "encoding": {"x": x, "y": {"value": 0}, "text": {"field": "predictors"}},
            },
        ],
    )
    spec["facet"]["header"] = {"labelPadding": 52}
    return spec


def _scaling(rows: Sequence[Row], look: Look) -> Spec:
    x = g.flops_share("compute_ratio", "predictor's training compute, share of the target's")
    y = g.share("recall_corpus", "recall, of all that the target memorized")
    colour = {**g.by_model(look, "target_model"), "title": "target"}
    shape = {
        "field": "own",
        "type": "nominal",
        "title": "predictor",
        "scale": {"domain": ["smaller model", "its own earlier step"], "range": ["circle", "triangle-up"]},
        "legend": g.legend(look),
    }
    return g.panels(
        look,
        "unit",
        [
            {
                "mark": {"type": "point", "size": 40, "opacity": 0.85},
                "encoding": {"x": x, "y": y, "color": colour, "shape": shape},
            }
        ],
        transform=[
            _on_log("compute_ratio"),
            {
                "calculate": "datum.target_model == datum.predictor_model ? 'its own earlier step' "
                ": 'smaller model'",
                "as": "own",
            },
        ],
    )


def _difference(rows: Sequence[Row], look: Look) -> Spec:
    names = {"recall_difference": "recall", "precision_difference": "precision"}
    layers: list[Spec] = [
        {
            "mark": {"type": "rule", "strokeDash": [4, 3], "color": g.GREY},
            "encoding": {"x": {"datum": 0, "type": "quantitative"}},
        }
    ]
    y = {"field": "named", "type": "nominal", "title": None, "sort": list(names.values())}
    for column, label in names.items():
        x = {
            "field": column,
            "type": "quantitative",
            "title": "difference",
            "axis": {"format": "~%", "tickCount": 6},
        }
        layers += _named(
            label,
            {
                "mark": {"type": "rule", "color": g.BLUE, "strokeWidth": 1.6},
                "encoding": {"x": {**x, "field": f"{column}_low"}, "x2": {"field": f"{column}_high"}, "y": y},
            },
            {"mark": {"type": "point", "color": g.BLUE, "size": 60}, "encoding": {"x": x, "y": y}},
        )
    return g.panels(
        look,
        "drawn",
        layers,
        transform=[
            {
                "calculate": "datum.predictor + ' less ' + datum.other + ', ' + datum.unit",
                "as": "drawn",
            }
        ],
        height=90,
    )


RECOMMENDED = Chart(
    "recommended",
    "recommend_candidates",
    "What each budget buys",
    "Recall of the best rule for each budget, and of the best by the paper's rule alone. Above: where the "
    "best run changes.",
    ("recall_corpus", "budget_share"),
    _recommended,
    ("budget_share",),
)
"""Drawn from what memoserve recommend --grid answers, not from a query alone."""

CHARTS: tuple[Chart, ...] = (
    Chart(
        "predictors",
        "predictors",
        "What smaller models say about what the target memorizes",
        "Precision (of what the smaller model memorized, the share that the target memorized too) and "
        "recall "
        "(of what the target memorized, the share that the smaller model memorized too), by training "
        "compute. "
        "A miss is a leak that nobody was warned of: recall decides.",
        ("training_flops", "recall_corpus"),
        _predictors,
        ("training_flops",),
    ),
    Chart(
        "versus_paper",
        "predictors_vs_paper",
        "Precision and recall beside the paper's",
        "The final Pythia models as predictors of the largest: this store's and the published figures.",
        ("recall_corpus", "paper_recall"),
        _versus_paper,
    ),
    Chart(
        "confusion",
        "confusion",
        "Confusion matrices of the smaller models",
        "Counts over what both have seen and were evaluated on; colour is the share of them. On the "
        "left what "
        "the target memorized; below on the left its misses.",
        ("evaluated_both",),
        _confusion,
        ("evaluated_both",),
    ),
    Chart(
        "checkpoints_map",
        "checkpoints",
        "Recall of every earlier checkpoint",
        "A row a model, a column a training step; what a checkpoint has not seen yet counts as missed.",
        ("recall_corpus",),
        _checkpoint_map,
    ),
    Chart(
        "recall",
        "checkpoints",
        "Recall over training",
        "Of all that the target memorized, the share that each checkpoint memorized too; what it has "
        "not seen yet "
        "counts as missed. Bands are 95% intervals.",
        ("recall_corpus",),
        _over_training("recall_corpus", "recall, of all that the target memorized"),
    ),
    Chart(
        "precision",
        "checkpoints",
        "Precision over training",
        "Of what each checkpoint memorized, the share that the target memorized too. Bands are 95% "
        "intervals.",
        ("precision",),
        _over_training("precision", "precision"),
    ),
    Chart(
        "compute",
        "checkpoints",
        "Recall against training compute",
        "Every checkpoint of every model by what it costs: higher and further to the left is better.",
        ("recall_corpus", "flops_share"),
        _compute,
        ("flops_share",),
    ),
    Chart(
        "equicompute",
        "equicompute",
        "The best predictor for each budget",
        "The frontier: checkpoints that none as cheap beats in recall. Between two points, the left one "
        "is the "
        "best that the budget buys; the table says which step it is.",
        ("recall_corpus", "flops_share"),
        _equicompute,
        ("flops_share", "on_frontier"),
    ),
    Chart(
        "ensembles",
        "ensembles",
        "Two predictors together",
        "Recall and cost of single predictors, of what either of two memorized (union) and of what both "
        "did "
        "(intersection).",
        ("recall_corpus", "flops_share"),
        _ensembles,
        ("flops_share",),
    ),
    Chart(
        "thresholds",
        "thresholds",
        "Where to draw the line",
        "Precision against recall as the score from which on a sequence counts as predicted falls. The "
        "orange point is the highest threshold that reaches the wanted recall.",
        ("recall_corpus", "precision"),
        _thresholds,
    ),
    Chart(
        "threshold_bands",
        "threshold_bands",
        "How sure the thresholds are",
        "Precision and recall by threshold, lower ones to the right. Bands: 95% of a bootstrap over blocks "
        "of the training order.",
        ("precision", "recall_corpus"),
        _threshold_bands,
    ),
    Chart(
        "difference",
        "difference",
        "Is the one predictor really better?",
        "The paired difference of two predictors on the same sequences, with its 95% interval, equal windows "
        "as one cluster: right of the dashed line the first is better.",
        ("recall_difference",),
        _difference,
    ),
    Chart(
        "scaling",
        "scaling",
        "Recall by compute, every model as target",
        "What the scaling law is fitted to: each model in turn as target, predicted by what cost less.",
        ("recall_corpus", "compute_ratio"),
        _scaling,
        ("compute_ratio",),
    ),
    Chart(
        "distribution",
        "distribution",
        "Distribution of the scores",
        "The share of sequences with each score, on a log axis. Held-out sequences, which no model saw, "
        "should "
        "have no bump at 32.",
        ("share",),
        _distribution,
        ("share",),
    ),
    Chart(
        "extractibility",
        "extractibility",
        "How much for shorter continuations",
        "The share whose first tokens are generated verbatim, by how many have to be; at 32 it is memorized.",
        ("share", "share_low"),
        _extractibility,
        ("share", "share_low"),
    ),
    Chart(
        "extractable",
        "extractable",
        "Extraction by sampling",
        "The share that n samples would contain with probability p, from the continuations' log-likelihoods.",
        ("share",),
        _extractable,
    ),
    Chart(
        "correlation",
        "correlation",
        "Do models agree?",
        "Pearson's r between models, of the scores and of memorized or not; 1 is complete agreement.",
        ("phi",),
        _correlations(
            {
                "pearson_matches": "scores",
                "pearson_matched_prefix": "matched prefixes",
                "phi": "memorized or not",
            }
        ),
    ),
    Chart(
        "top_correlation",
        "top_correlation",
        "Do models agree on their highest scores?",
        "Pearson's r between being in the top tenth of the one and of the other.",
        ("phi_top",),
        _correlations({"phi_top": "top tenth"}),
    ),
    Chart(
        "checkpoint_correlation",
        "checkpoint_correlation",
        "Does a model agree with itself over training?",
        "Pearson's r between checkpoints of one model, over one common set of sequences.",
        ("phi",),
        _correlations(
            {
                "pearson_matches": "scores",
                "pearson_matched_prefix": "matched prefixes",
                "phi": "memorized or not",
            }
        ),
    ),
    Chart(
        "counts",
        "counts",
        "Memorized share over training",
        "Each checkpoint over all that it has seen: new data and old mix. Bands are 95% intervals.",
        ("sequences_share",),
        _counts,
    ),
    Chart(
        "training",
        "training",
        "Memorized share of the same sequences over training",
        "Each checkpoint over one common set: the data stays, only training goes on. Bands are 95% "
        "intervals.",
        ("share",),
        _training,
    ),
    Chart(
        "first_memorized",
        "first_memorized_counts",
        "When sequences are memorized for the first time",
        "Dark: memorized at the first checkpoint that saw them; light: at a later one.",
        ("first_memorized",),
        _first_memorized,
        ("first_memorized",),
    ),
    Chart(
        "forgetting",
        "forgetting",
        "New and forgotten from checkpoint to checkpoint",
        "Over what the earlier of two successive checkpoints has seen. Lines through points are 95% "
        "intervals.",
        ("new_share",),
        _forgetting,
    ),
    Chart(
        "rates",
        "rates",
        "Rates of hits and false alarms over training",
        "Earlier checkpoints of the target's model as predictors of its last. Bands are 95% intervals.",
        ("tpr",),
        _rates,
    ),
    Chart(
        "emergent",
        "emergent_counts",
        "Memorized out of the blue",
        "Of what the target memorized, the share that scores below the threshold in every smaller model.",
        ("share",),
        _emergent,
    ),
    Chart(
        "position",
        "position",
        "Position in training",
        "The memorized share of equal stretches of the training order; dashed: what an even spread "
        "gives. Of "
        "windows by first occurrence, the often repeated come early: a fall there says nothing.",
        ("share",),
        _position,
    ),
    Chart(
        "position_qq",
        "position_qq",
        "Do memorized sequences arrive like a Poisson process?",
        "Counts in stretches of the training order against the Poisson distribution's quantiles; "
        "dashed: equal.",
        ("theoretical", "observed"),
        _position_qq,
    ),
)
"""Every chart, in the order of the report."""
