"""What scores say beyond memorized or not: their distribution, correlation, lengths, emergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memoserve.report import grammar as g
from memoserve.report.charts.base import Body, Chart, cell_layers, slanted
from memoserve.report.grammar import Look, Row, Spec


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
    y = _share_on_log("share of the sequences")
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
            "axis": slanted(firsts),
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
            cell_layers(
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


def _continuation_lengths(rows: Sequence[Row], look: Look) -> Spec:
    x = {
        "field": "length",
        "type": "quantitative",
        "title": "tokens that have to match, from the first on",
        "scale": {"domain": [1, 32]},
        "axis": {"values": [1, 8, 16, 24, 32]},
    }
    y = _share_on_log("share of what the model has seen")
    colour = g.by_model(look)
    return g.panels(
        look,
        "unit",
        [g.band(x, "share_low", "share_high", colour, y), g.curve(x, y, colour, points=False)],
        transform=[{"filter": "datum.share > 0 && datum.share_low > 0"}, g.model_of("checkpoint")],
        resolve={"scale": {"y": "independent"}, "axis": {"x": "independent", "y": "independent"}},
    )


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


def _share_on_log(title: str) -> Spec:
    return {
        "field": "share",
        "type": "quantitative",
        "title": title,
        "scale": {"type": "log"},
        "axis": {"format": "~%", "tickCount": 5},
    }


_AGREEMENT = {
    "pearson_matches": "scores",
    "pearson_matched_prefix": "matched prefixes",
    "phi": "memorized or not",
}
"""Columns that say how far two checkpoints agree, and of what."""


CHARTS: tuple[Chart, ...] = (
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
        "continuation_lengths",
        "continuation_lengths",
        "Memorization by continuation length",
        "The share whose first tokens are generated verbatim, by how many have to be; at 32 it is memorized.",
        ("share", "share_low"),
        _continuation_lengths,
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
        _correlations(_AGREEMENT),
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
        _correlations(_AGREEMENT),
    ),
    Chart(
        "emergent",
        "emergent_counts",
        "Memorized, not predicted by any smaller model",
        "Of what the target memorized, the share that scores below the threshold in every smaller model.",
        ("share",),
        _emergent,
    ),
)
