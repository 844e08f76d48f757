"""What training compute buys: recall by cost, unions, laws, recommendations."""

from __future__ import annotations

from collections.abc import Sequence

from memoserve.report import grammar as g
from memoserve.report.charts.base import Chart, on_log
from memoserve.report.grammar import Look, Row, Spec


def _compute(rows: Sequence[Row], look: Look) -> Spec:
    x, colour = g.flops_share(), g.by_model(look)
    y = g.share("recall_corpus", "recall, of all that the target memorized")
    return g.panels(
        look,
        "unit",
        [g.interval(x, "recall_corpus_low", "recall_corpus_high", colour, y), g.curve(x, y, colour)],
        transform=[on_log("flops_share"), g.model_of("predictor")],
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
            on_log("flops_share"),
            g.model_of("predictor"),
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
        transform=[on_log("flops_share")],
    )


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
            on_log("compute_ratio"),
            {
                "calculate": "datum.target_model == datum.predictor_model ? 'its own earlier step' "
                ": 'smaller model'",
                "as": "own",
            },
        ],
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
        "scaling",
        "scaling",
        "Recall by compute, every model as target",
        "What the scaling law is fitted to: each model in turn as target, predicted by what cost less.",
        ("recall_corpus", "compute_ratio"),
        _scaling,
        ("compute_ratio",),
    ),
)
