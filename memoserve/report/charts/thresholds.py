"""Precision and recall by the threshold of a signal."""

from __future__ import annotations

from collections.abc import Sequence

from memoserve.report import grammar as g
from memoserve.report.charts.base import Chart, named
from memoserve.report.grammar import Look, Row, Spec


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
        layers += named(
            label,
            g.band(x, f"{column}_low", f"{column}_high", colour, y),
            g.curve(x, y, colour, points=False),
        )
    return g.panels(look, "unit", layers)


CHARTS: tuple[Chart, ...] = (
    Chart(
        "thresholds",
        "thresholds",
        "Precision-recall by threshold",
        "Precision against recall as the score from which on a sequence counts as predicted falls. The "
        "orange point is the highest threshold that reaches the wanted recall.",
        ("recall_corpus", "precision"),
        _thresholds,
    ),
    Chart(
        "threshold_bands",
        "threshold_bands",
        "Bootstrap confidence bands",
        "Precision and recall by threshold, lower ones to the right. Bands: 95% of a bootstrap over blocks "
        "of the training order.",
        ("precision", "recall_corpus"),
        _threshold_bands,
    ),
)
