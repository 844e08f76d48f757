"""What a forecast is held against: the paper's rule, the best line, the best free feature alone.

Thresholds are chosen as a forecast is learned: on smaller targets, never on labels of the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memoserve.errors import BadInput
from memoserve.forecast.judge import Method, average_precision
from memoserve.forecast.model import Fitted, Floats, Learner, Taught, fit, labels_of, weights_of
from memoserve.forecast.roles import Role
from memoserve.forecast.table import Column, Rows

PAPER_RULE, BEST_LINE, BEST_FEATURE = "paper's rule", "best line", "best free feature"


@dataclass(frozen=True)
class Line:
    """What is flagged: windows whose column is at least tau or, with `above` false, at most tau.

    tau: None where no threshold keeps the wanted precision on smaller targets: then nothing is flagged.
    `precision` and `recall` are those on the role that chose it. `fitted`: what the column alone gives as a
    probability, learned as a forecast is.
    """

    name: str
    column: Column
    index: int
    above: bool
    tau: float | None
    precision: float | None
    recall: float
    fitted: Fitted

    def __str__(self) -> str:
        if self.tau is None:
            return f"{self.column.name} (no threshold)"
        return f"{self.column.name} {'>=' if self.above else '<='} {self.tau:.4g}"

    def method(self, rows: Rows, role: Role) -> Method:
        """What it says of these rows: what it cannot know of is not flagged, and ranks last."""
        score = _score(rows, self.index, self.above)
        flagged = np.zeros(len(rows), np.bool_)
        if self.tau is not None:
            flagged = score >= (self.tau if self.above else -self.tau)
        return Method(flagged, score, self.fitted.model.probability(rows, role))


def best_line(
    name: str,
    taught: Sequence[Taught],
    columns: Sequence[Column],
    indices: Sequence[int],
    promised: float,
    unit: str,
    learner: Learner = "logistic",
) -> Line | None:
    """Of all thresholds on all these columns, in both directions, the one of the highest recall.

    On the last role, which is the nearest to the target, of those that keep the promised precision there;
    where none does, the column of the highest average precision. None if no column is known in every role.
    """
    nearest = taught[-1].rows
    label, weight = labels_of(nearest), weights_of(nearest, unit)
    best: tuple[tuple[float, float], int, bool, float | None, float | None] | None = None
    for index in indices:
        for above in (True, False):
            score = _score(nearest, index, above)
            if not np.isfinite(score).any():
                continue
            tau, precision, recall = _threshold(score, label, weight, promised)
            rank = recall, average_precision(score, label, weight) or 0.0
            if best is None or rank > best[0]:
                best = rank, index, above, tau, precision
    if best is None:
        return None
    (recall, _), index, above, tau, precision = best
    try:
        fitted = fit(taught, columns, [index], learner=learner, unit=unit)
    except BadInput:
        return None
    if tau is not None and not above:
        tau = -tau
    return Line(name, columns[index], index, above, tau, precision, recall, fitted)


def paper_rule(rows: Rows, columns: Sequence[Column]) -> Method:
    """What the predictor of these rows memorized, of what it was evaluated on."""
    names = [column.name for column in columns]
    flagged = np.zeros(len(rows), np.bool_)
    known = np.zeros(len(rows), np.bool_)
    for name in ("matched_prefix", "matches"):
        values = rows.values[:, names.index(name)]
        flagged |= ~known & (values == 32)
        known |= ~np.isnan(values)
    return Method(flagged, flagged.astype(np.float64))


def _score(rows: Rows, index: int, above: bool) -> Floats:
    values = rows.values[:, index].astype(np.float64)
    return np.where(np.isnan(values), -np.inf, values if above else -values)


def _threshold(
    score: Floats, label: NDArray[np.bool_], weight: Floats, promised: float
) -> tuple[float | None, float | None, float]:
    """(tau, precision, recall) of the lowest threshold that keeps the precision; (None, None, 0) if none."""
    order = np.argsort(-score, kind="stable")
    ordered = score[order]
    ends = np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)
    ends = ends[np.isfinite(ordered[ends])]
    whole = np.cumsum(weight[order])[ends]
    hits = np.cumsum((weight * label)[order])[ends]
    kept = np.flatnonzero(hits >= promised * whole - 1e-12)
    if not len(kept) or hits[kept[-1]] == 0:
        return None, None, 0.0
    last = kept[-1]
    total = float(weight @ label)
    return float(ordered[ends[last]]), float(hits[last] / whole[last]), float(hits[last] / total)
