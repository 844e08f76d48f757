"""What is memorized along the training, and where in it."""

from __future__ import annotations

from collections.abc import Sequence

from memoserve.report import grammar as g
from memoserve.report.charts.base import Chart, heading_of, measures, named, slanted
from memoserve.report.grammar import Look, Row, Spec


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
        drawn.append({"title": heading_of(unit), "width": look.panel, "height": look.height, "layer": layers})
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
        layers += named(
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
        "title": "memorized in a bucket",
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
                        "field": "buckets",
                        "type": "quantitative",
                        "title": "buckets",
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
    layers = measures(
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


def _first_memorized(rows: Sequence[Row], look: Look) -> Spec:
    order = list(dict.fromkeys(row["checkpoint"] for row in rows))
    x = {"field": "checkpoint", "type": "nominal", "sort": order, "title": None, "axis": slanted(order)}
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


CHARTS: tuple[Chart, ...] = (
    Chart(
        "counts",
        "counts",
        "Memorized share over training",
        "Each checkpoint over all that it has seen: both new and earlier data. Bands are 95% intervals.",
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
        "position",
        "position",
        "Position in training",
        "The memorized share of equal buckets of the training order; dashed: what an even spread "
        "gives. Of "
        "windows by first occurrence, the often repeated come early: a fall there says nothing.",
        ("share",),
        _position,
    ),
    Chart(
        "position_qq",
        "position_qq",
        "Do memorized sequences arrive like a Poisson process?",
        "Counts in buckets of the training order against the Poisson distribution's quantiles; "
        "dashed: equal.",
        ("theoretical", "observed"),
        _position_qq,
    ),
)
