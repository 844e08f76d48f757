"""Every chart by name."""

from __future__ import annotations

from memoserve.errors import BadInput
from memoserve.report.charts import compute, predictors, scores, thresholds, training
from memoserve.report.charts.base import Chart

_ORDER = (
    "predictors",
    "versus_paper",
    "confusion",
    "checkpoints_map",
    "recall",
    "precision",
    "compute",
    "equicompute",
    "ensembles",
    "thresholds",
    "threshold_bands",
    "difference",
    "scaling",
    "distribution",
    "continuation_lengths",
    "extractable",
    "correlation",
    "top_correlation",
    "checkpoint_correlation",
    "counts",
    "training",
    "first_memorized",
    "forgetting",
    "rates",
    "emergent",
    "position",
    "position_qq",
)
_BY_NAME = {
    chart.name: chart
    for chart in (*predictors.CHARTS, *compute.CHARTS, *scores.CHARTS, *thresholds.CHARTS, *training.CHARTS)
}

CHARTS: tuple[Chart, ...] = tuple(_BY_NAME[name] for name in _ORDER)
"""Every chart, in the order of the report."""


def find_chart(name: str) -> Chart:
    """The chart of that name. Raises BadInput, listing the charts, if there is none."""
    for chart in CHARTS:
        if chart.name == name:
            return chart
    raise BadInput(f"there is no plot {name!r}; the plots are {', '.join(c.name for c in CHARTS)}")
