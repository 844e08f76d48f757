"""How well smaller models, and cheaper runs, predict what the target memorized."""

from __future__ import annotations

from collections.abc import Sequence

from memoserve.report import grammar as g
from memoserve.report.charts.base import Body, Chart, cell_layers, heading_of, measures, named, on_log
from memoserve.report.grammar import Look, Row, Spec


def _predictors(rows: Sequence[Row], look: Look) -> Spec:
    layers = measures(
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
    spec = g.panels(look, "unit", layers, transform=[on_log("training_flops"), g.model_of("predictor")])
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
    layers = cell_layers(
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
    cells = cell_layers(
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
        for index, (name, source) in enumerate(zip(names, (column, paper), strict=True)):
            colour = {"field": "named", "type": "nominal", **g.by_name(look, names, colours)}
            shape = "circle" if index == 0 else "diamond"
            layers += named(
                name,
                {
                    "mark": {"type": "point", "size": 70, "shape": shape},
                    "encoding": {"x": x, "y": g.share(source, title), "color": colour},
                },
            )
            if index == 0:
                layers += named(
                    name, g.interval(x, f"{column}_low", f"{column}_high", colour, g.share(column, title))
                )
        drawn.append(
            {"title": heading_of(title), "width": look.panel, "height": look.height, "layer": layers}
        )
    return {
        "concat": drawn,
        "columns": look.columns,
        "resolve": {"axis": {"x": "independent", "y": "independent"}},
    }


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
        layers += named(
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


CHARTS: tuple[Chart, ...] = (
    Chart(
        "predictors",
        "predictors",
        "What smaller models say about what the target memorizes",
        "Precision (of what the smaller model memorized, the share that the target memorized too) and "
        "recall "
        "(of what the target memorized, the share that the smaller model memorized too), by training "
        "compute. "
        "Misses are undetected leaks, so recall matters most.",
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
        "difference",
        "difference",
        "Is the one predictor really better?",
        "The paired difference of two predictors on the same sequences, with its 95% interval, equal windows "
        "as one cluster: right of the dashed line the first is better.",
        ("recall_difference",),
        _difference,
    ),
)
