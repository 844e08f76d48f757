"""How good probabilities and rules are, with intervals from a bootstrap over clusters of windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memoserve.recommend.rules import Share, wilson

REPLICATES = 1000
_SLOPES = 200
"""Replicates of calibration slopes, each a fit of its own."""
_AT_ONCE = 4_000_000
"""Weights that are drawn at once: replicates x rows."""
_BINS = 10
LEAST_PROBABILITY = 0.05
"""From which probability on the expected calibration error counts: over all windows it is trivially small."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Method:
    """What is judged. score: float64[n], ranks windows, or None for a rule that only flags.

    flagged: bool[n]. probability: float64[n], or None where it promises none.
    """

    flagged: NDArray[np.bool_]
    score: Floats | None = None
    probability: Floats | None = None


@dataclass(frozen=True)
class Judged:
    """How a method did; each with its 95% interval. `flagged` and `hits` are (weighted) numbers of items.

    calibration_slope: of a logistic regression of the labels on the logits of the probabilities: 1 is right,
    below 1 they are too extreme. calibration_error: mean |observed - promised| in ten equal bins of those of
    at least 0.05, weighted by items.
    """

    flagged: float
    hits: float
    precision: Share
    recall: Share
    average_precision: Share
    brier: Share
    calibration_slope: Share
    calibration_error: float | None = None
    expected: float | None = None


@dataclass(frozen=True)
class Difference:
    """What one method has more than another, paired: of the same replicates.

    Brier skill: 1 - the ratio of their Briers.
    """

    precision: Share
    recall: Share
    average_precision: Share
    brier_skill: Share


@dataclass(frozen=True)
class Bin:
    """Items of about one probability: how many, what was promised on average, and what came of it."""

    low: float
    high: float
    items: float
    promised: float
    observed: Share


def threshold_for(probability: Floats, weight: Floats, promised: float) -> float | None:
    """The lowest probability from which on the mean is at least `promised`; None if there is none.

    No label is looked at: if the probabilities are right, what is flagged has that precision.
    """
    order = np.argsort(-probability, kind="stable")
    p, w = probability[order], weight[order]
    ends = _ends(p)
    mean = np.cumsum(p * w)[ends] / np.cumsum(w)[ends]
    kept = np.flatnonzero(mean >= promised - 1e-12)
    return float(p[ends[kept[-1]]]) if len(kept) else None


def average_precision(score: Floats, label: NDArray[np.bool_], weight: Floats) -> float | None:
    """Sum over the distinct scores, from above, of each step in recall times the precision there."""
    found = _average_precisions(score, label, weight[None, :])[0]
    return None if np.isnan(found) else float(found)


def judge(
    methods: Mapping[str, Method],
    label: NDArray[np.bool_],
    weight: Floats,
    cluster: NDArray[np.int64],
    *,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> tuple[dict[str, Judged], dict[tuple[str, str], Difference]]:
    """Judge each method, and each pair of them by the same replicates.

    label: bool[n]; weight: float64[n], items that a row stands for; cluster: int64[n]. Intervals are
    percentiles of a bootstrap that draws clusters (Poisson weights of mean 1).
    """
    values = {name: _figures(method, label, weight[None, :]) for name, method in methods.items()}
    drawn: dict[str, list[Floats]] = {name: [] for name in methods}
    for weights in _replicated(weight, cluster, seed, replicates):
        for name, method in methods.items():
            done = sum(map(len, drawn[name]))
            start = values[name][0, [_INTERCEPT, _SLOPE]]
            drawn[name].append(_figures(method, label, weights, start, max(0, _SLOPES - done)))
    samples = {
        name: np.concatenate(parts) if parts else np.empty((0, _FIGURES)) for name, parts in drawn.items()
    }
    judged = {
        name: _judged(method, values[name][0], samples[name], label, weight, cluster)
        for name, method in methods.items()
    }
    differences = {
        (one, other): _difference(values[one][0], values[other][0], samples[one], samples[other])
        for one in methods
        for other in methods
        if one != other
    }
    return judged, differences


def reliability(
    probability: Floats,
    label: NDArray[np.bool_],
    weight: Floats,
    cluster: NDArray[np.int64],
    *,
    seed: int = 0,
) -> list[Bin]:
    """Ten equal bins of the probability; empty ones are left out."""
    index = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    inside = (index[:, None] == np.arange(_BINS)).astype(np.float64)
    hits = inside * label[:, None]
    drawn = [np.stack([w @ hits, w @ inside]) for w in _replicated(weight, cluster, seed, REPLICATES)]
    both = np.concatenate(drawn, axis=1) if drawn else np.empty((2, 0, _BINS))
    found = []
    for number in range(_BINS):
        items = float(weight @ inside[:, number])
        if items:
            with np.errstate(invalid="ignore", divide="ignore"):
                shares = both[0, :, number] / both[1, :, number]
            value = float(weight @ hits[:, number]) / items
            promised = float((weight * probability) @ inside[:, number]) / items
            found.append(Bin(number / _BINS, (number + 1) / _BINS, items, promised, _share(value, shares)))
    return found


def calibration_slope(probability: Floats, label: NDArray[np.bool_], weight: Floats) -> float:
    """The slope of logit P(label) on logit(probability), by maximum likelihood; NaN where it has none."""
    return float(_slopes(probability, label, weight[None, :])[0, 1])


_PRECISION, _RECALL, _AP, _BRIER, _SLOPE, _INTERCEPT = range(6)
_FIGURES = 6


def _figures(
    method: Method,
    label: NDArray[np.bool_],
    weights: Floats,
    start: Floats | None = None,
    slopes: int = 1,
) -> Floats:
    """float64[replicates, 6]: precision, recall, average precision, Brier, slope, intercept.

    NaN where undefined. Slopes of the first `slopes` only, from `start` (intercept, slope) on.
    """
    sums = weights @ np.stack([method.flagged, label, method.flagged & label], axis=1).astype(np.float64)
    found = np.full((len(weights), _FIGURES), np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        found[:, _PRECISION] = sums[:, 2] / sums[:, 0]
        found[:, _RECALL] = sums[:, 2] / sums[:, 1]
        if method.score is not None:
            found[:, _AP] = _average_precisions(method.score, label, weights)
        if method.probability is not None:
            error = (method.probability - label) ** 2
            found[:, _BRIER] = weights @ error / weights.sum(axis=1)
            some = weights[:slopes]
            if len(some):
                found[: len(some), [_INTERCEPT, _SLOPE]] = _slopes(method.probability, label, some, start)
    return found


def _average_precisions(score: Floats, label: NDArray[np.bool_], weights: Floats) -> Floats:
    order = np.argsort(-score, kind="stable")
    ends = _ends(score[order])
    ordered = weights[:, order]
    whole = np.cumsum(ordered, axis=1)[:, ends]
    hits = np.cumsum(ordered * label[order], axis=1)[:, ends]
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(whole > 0, hits / whole, 0.0)
        return np.asarray((np.diff(hits, axis=1, prepend=0.0) * precision).sum(axis=1) / hits[:, -1])


def _ends(ordered: Floats) -> NDArray[np.int64]:
    """The last index of each run of equal values."""
    if not len(ordered):
        return np.zeros(0, np.int64)
    return np.append(np.flatnonzero(ordered[1:] != ordered[:-1]), len(ordered) - 1)


def _slopes(
    probability: Floats, label: NDArray[np.bool_], weights: Floats, start: Floats | None = None
) -> Floats:
    """float64[replicates, 2]: intercept and slope, by Newton's method for all replicates at once."""
    p = np.clip(probability, 1e-9, 1 - 1e-9)
    x = np.log(p / (1 - p))
    powers = np.stack([np.ones_like(x), x, x * x], axis=1)
    first = np.array([0.0, 1.0]) if start is None or not np.isfinite(start).all() else start
    beta, step = np.tile(first, (len(weights), 1)), np.full((len(weights), 2), np.inf)
    for _ in range(25):
        fitted = 1 / (1 + np.exp(-np.clip(beta[:, :1] + beta[:, 1:] * x, -40, 40)))
        gradient = (weights * (label - fitted)) @ powers[:, :2]
        h = (weights * fitted * (1 - fitted)) @ powers
        determinant = h[:, 0] * h[:, 2] - h[:, 1] ** 2
        with np.errstate(invalid="ignore", divide="ignore"):
            step = np.stack([
                h[:, 2] * gradient[:, 0] - h[:, 1] * gradient[:, 1],
                h[:, 0] * gradient[:, 1] - h[:, 1] * gradient[:, 0],
            ], axis=1) / determinant[:, None]  # fmt: skip
        beta += np.clip(step, -2, 2)
        if np.nanmax(np.abs(step), initial=0.0) < 1e-6:
            break
    labels = weights @ label
    one_kind = (labels <= 0) | (labels >= weights.sum(axis=1))
    beta[one_kind | ~(np.abs(step) < 1e-3).all(axis=1)] = np.nan
    return beta


def _replicated(weight: Floats, cluster: NDArray[np.int64], seed: int, replicates: int) -> Iterator[Floats]:
    """float64[some, n] at a time: the rows' weights in replicates, all rows of a cluster drawn together."""
    if not len(weight):
        return
    names, inverse = np.unique(cluster, return_inverse=True)
    rng = np.random.default_rng(seed)
    some = max(1, _AT_ONCE // len(weight))
    for start in range(0, replicates, some):
        times = rng.poisson(1.0, (min(some, replicates - start), len(names)))
        yield times[:, inverse] * weight


def _judged(
    method: Method,
    values: Floats,
    samples: Floats,
    label: NDArray[np.bool_],
    weight: Floats,
    cluster: NDArray[np.int64],
) -> Judged:
    precision, recall, average, brier, slope = (
        _share(values[i], samples[:, i]) for i in (_PRECISION, _RECALL, _AP, _BRIER, _SLOPE)
    )
    error = expected = None
    if method.probability is not None:
        expected = float(weight @ method.probability)
        error = _calibration_error(method.probability, label, weight)
    return Judged(
        float(weight @ method.flagged),
        float(weight @ (method.flagged & label)),
        _not_certain(precision, cluster[method.flagged]),
        _not_certain(recall, cluster[label]),
        average,
        brier,
        slope,
        error,
        expected,
    )


def _not_certain(share: Share, cluster: NDArray[np.int64]) -> Share:
    """Where every replicate agrees, because all or none hit: Wilson's interval, a cluster as one trial."""
    return wilson(share.value, len(np.unique(cluster))) if share.value in (0.0, 1.0) else share


def _difference(one: Floats, other: Floats, ones: Floats, others: Floats) -> Difference:
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall, average = (
            _share(one[i] - other[i], ones[:, i] - others[:, i]) for i in (_PRECISION, _RECALL, _AP)
        )
        skill = _share(1 - one[_BRIER] / other[_BRIER], 1 - ones[:, _BRIER] / others[:, _BRIER])
    return Difference(precision, recall, average, skill)


def _share(value: float, samples: Floats) -> Share:
    there = samples[np.isfinite(samples)]
    if not np.isfinite(value):
        return Share(None)
    if len(there) < 2:
        return Share(float(value))
    low, high = np.quantile(there, (0.025, 0.975))
    return Share(float(value), float(low), float(high))


def _calibration_error(probability: Floats, label: NDArray[np.bool_], weight: Floats) -> float | None:
    counted = probability >= LEAST_PROBABILITY
    if not counted.any():
        return None
    p, y, w = probability[counted], label[counted], weight[counted]
    index = np.minimum((p * _BINS).astype(int), _BINS - 1)
    gaps = np.bincount(index, w * (y - p), minlength=_BINS)
    return float(np.abs(gaps).sum() / w.sum())
