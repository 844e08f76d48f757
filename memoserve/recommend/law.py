"""The scaling law: recall and precision of a predictor by its compute and size, as ratios to the target's.

logit(share) = a + b log10(compute ratio) + c log10(target's compute / the largest in the fit) + d log10(size
ratio), fitted by weighted least squares over models that play the target. The third term is there because the
same ratio of compute predicts larger targets better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from memoserve.catalog import Catalog
from memoserve.errors import BadInput
from memoserve.recommend.rules import Share, Unit

Measure = Literal["recall_corpus", "precision"]
MEASURES: tuple[Measure, ...] = ("recall_corpus", "precision")
# Where every model is evaluated at one step alone, compute and size are one thing: then without the last.
TERMS = ("intercept", "log10 compute ratio", "log10 target compute", "log10 size ratio")

# Beyond this, a fit says nothing.
FACTOR = 10.0
SIZES = 3
RULE = (
    f"a forecast needs at least {SIZES} evaluated sizes, two more pairs of models than the law has terms, "
    f"and ratios of compute and size, and a target's compute, within {FACTOR:g}x of what the fit has seen"
)


@dataclass(frozen=True)
class Observation:
    """One checkpoint predicting another, counted. `trials` are effective: equal windows count as one."""

    target: str
    target_model: str
    target_order: int
    target_flops: float
    predictor: str
    predictor_model: str
    compute_ratio: float
    size_ratio: float
    recall_corpus: float | None
    recall_trials: float
    precision: float | None
    precision_trials: float

    def share(self, measure: Measure) -> tuple[float | None, float]:
        """(share, effective trials)."""
        if measure == "recall_corpus":
            return self.recall_corpus, self.recall_trials
        return self.precision, self.precision_trials


@dataclass(frozen=True)
class Law:
    """A fit. `coefficients` f64[terms] on the logit scale; `covariance` f64[terms, terms].

    `misfit` is the mean squared error, in logits, for a pair of models that a fit has not seen; `t` and `t90`
    the quantiles for 95% intervals and one-sided 90% limits, with the degrees of freedom that the pairs of
    models leave.
    """

    measure: Measure
    terms: tuple[str, ...]
    coefficients: NDArray[np.float64]
    covariance: NDArray[np.float64]
    misfit: float
    t: float
    t90: float
    observations: int
    pairs: int
    sizes: int
    compute_range: tuple[float, float]
    size_range: tuple[float, float]
    largest_target_flops: float

    def interval(self, index: int) -> tuple[float, float]:
        """The 95% interval of a coefficient."""
        half = self.t * math.sqrt(self.covariance[index, index])
        return float(self.coefficients[index]) - half, float(self.coefficients[index]) + half

    def forecast(self, compute_ratio: float, size_ratio: float, target_flops: float) -> Share:
        """The share to expect of a pair that the fit has not seen, with a 95% prediction interval."""
        center, error = self._at(compute_ratio, size_ratio, target_flops)
        half = self.t * error
        return Share(*(_expit(value) for value in (center, center - half, center + half)))

    def lower_bound(self, compute_ratio: float, size_ratio: float, target_flops: float) -> float:
        """The one-sided 90% lower limit of that forecast."""
        center, error = self._at(compute_ratio, size_ratio, target_flops)
        return _expit(center - self.t90 * error)

    def covers(self, one: Observation) -> bool:
        """Whether a measured share lies in the forecast's interval, give or take its own sampling."""
        share, trials = one.share(self.measure)
        if share is None:
            return False
        hits, misses = share * trials + 0.5, (1 - share) * trials + 0.5
        center, error = self._at(one.compute_ratio, one.size_ratio, one.target_flops)
        allowed = math.sqrt((self.t * error) ** 2 + 1.96**2 * (1 / hits + 1 / misses))
        return abs(math.log(hits / misses) - center) <= allowed

    def _at(self, compute_ratio: float, size_ratio: float, target_flops: float) -> tuple[float, float]:
        """(center, standard error) of the prediction in logits."""
        terms = _terms(compute_ratio, size_ratio, target_flops / self.largest_target_flops)
        x = np.array(terms[: len(self.terms)])
        return float(x @ self.coefficients), math.sqrt(float(x @ self.covariance @ x) + self.misfit)

    def refusal(self, compute_ratio: float, size_ratio: float, target_flops: float) -> str | None:
        """Why there is no forecast here, or None if the fit has support."""
        if self.sizes < SIZES:
            return f"{self.sizes} evaluated sizes, {SIZES} are needed"
        for name, value, (low, high) in (
            ("compute ratio", compute_ratio, self.compute_range),
            ("size ratio", size_ratio, self.size_range),
        ):
            if not low / FACTOR <= value <= high * FACTOR:
                return f"{name} {value:.2g} is beyond {FACTOR:g}x of the fit's {low:.2g} to {high:.2g}"
        if target_flops > FACTOR * self.largest_target_flops:
            return (
                f"the target's {target_flops:.2g} FLOPs are beyond {FACTOR:g}x of the largest in the fit, "
                f"{self.largest_target_flops:.2g}"
            )
        return None


@dataclass(frozen=True)
class HeldOut:
    """How a law that has not seen a size as target forecast it."""

    measure: Measure
    target: str
    fitted_to: tuple[str, ...]
    checked: int
    mean_absolute_error: float
    bias: float
    worst: float
    covered: float


def read_observations(
    catalog: Catalog,
    suite: str,
    unit: Unit,
    *,
    smaller_than: str | None = None,
    step: int | None = None,
) -> list[Observation]:
    """What the query scaling counts: each model as target, of the checkpoints that cost less."""
    values: dict[str, object] = {"suite": suite}
    if smaller_than is not None:
        values["smaller_than"] = smaller_than
    if step is not None and step > 0:
        values["step"] = step
    return [
        Observation(
            row["target"],
            row["target_model"],
            row["target_order"],
            row["training_flops"] / row["compute_ratio"],
            row["predictor"],
            row["predictor_model"],
            row["compute_ratio"],
            row["size_ratio"],
            row["recall_corpus"],
            row["target_effective"] or 0.0,
            row["precision"],
            row["predictor_effective"] or 0.0,
        )
        for row in catalog.records("scaling", **values)
        if row["unit"] == unit and row["compute_ratio"]
    ]


def fit(observations: Sequence[Observation], measure: Measure, terms: int = len(TERMS)) -> Law:
    """Fit the law, of the first `terms` of TERMS.

    Raises BadInput where there is too little to fit, or scipy is missing.

    Observations of one pair of models stand or fall together: intervals are a jackknife over pairs of models,
    with Student's t. Weights are 1 / (sampling variance + variance between observations).
    """
    used = [(o, *o.share(measure)) for o in observations]
    kept = [(o, share, trials) for o, share, trials in used if share is not None and trials > 0]
    models = {o.target_model for o, _, _ in kept} | {o.predictor_model for o, _, _ in kept}
    groups = sorted({(o.target_model, o.predictor_model) for o, _, _ in kept})
    shares = np.array([share for _, share, _ in kept])
    trials = np.array([trials for _, _, trials in kept])
    largest = max((o.target_flops for o, _, _ in kept), default=1.0)
    x = np.array([_terms(o.compute_ratio, o.size_ratio, o.target_flops / largest) for o, _, _ in kept])
    x = x.reshape(-1, len(TERMS))[:, :terms]
    if kept and np.linalg.matrix_rank(x) < terms:
        x = x[:, :-1]
    if len(models) < SIZES or len(groups) < x.shape[1] + 2:
        raise BadInput(
            f"no law for {measure}: {len(models)} sizes with {len(groups)} pairs of models have scores to "
            f"fit to, and {RULE}. Evaluate more sizes, or more checkpoints of each."
        )
    hits, misses = shares * trials + 0.5, (1 - shares) * trials + 0.5
    y, noise = np.log(hits / misses), 1 / hits + 1 / misses
    group = np.array([groups.index((o.target_model, o.predictor_model)) for o, _, _ in kept])

    beta, between = _least_squares(x, y, noise)
    without, errors, weights = [], [], []
    for one in range(len(groups)):
        out = group == one
        coefficients, _ = _least_squares(x[~out], y[~out], noise[~out])
        without.append(coefficients)
        errors.append((y[out] - x[out] @ coefficients) ** 2)
        weights.append(1 / (noise[out] + between))
    spread = np.array(without) - np.mean(without, axis=0)
    covariance = (len(groups) - 1) / len(groups) * spread.T @ spread
    misfit = float(np.average(np.concatenate(errors), weights=np.concatenate(weights)))
    compute, size = [o.compute_ratio for o, _, _ in kept], [o.size_ratio for o, _, _ in kept]
    return Law(
        measure,
        TERMS[: x.shape[1]],
        beta,
        covariance,
        misfit,
        _student(0.975, len(groups) - 1),
        _student(0.9, len(groups) - 1),
        len(kept),
        len(groups),
        len(models),
        (min(compute), max(compute)),
        (min(size), max(size)),
        largest,
    )


def hold_out(observations: Sequence[Observation], measure: Measure) -> list[HeldOut]:
    """Forecast each of the largest targets from a law fitted to smaller models alone, largest first.

    Goes down in size as long as the rest is enough to fit to.
    """
    found = []
    orders = sorted({(o.target_order, o.target_model) for o in observations}, reverse=True)
    for order, _ in orders:
        smaller = [o for o in observations if o.target_order < order]
        try:
            law = fit(smaller, measure)
        except BadInput:
            break
        rows = [
            (law.forecast(o.compute_ratio, o.size_ratio, o.target_flops), o.share(measure)[0], o)
            for o in observations
            if o.target_order == order
        ]
        checked = [
            (forecast, share, o)
            for forecast, share, o in rows
            if share is not None and law.refusal(o.compute_ratio, o.size_ratio, o.target_flops) is None
        ]
        if not checked:
            continue
        errors = [(forecast.value or 0.0) - share for forecast, share, _ in checked]
        inside = [law.covers(o) for _, _, o in checked]
        found.append(
            HeldOut(
                measure,
                checked[0][2].target,
                tuple(dict.fromkeys(o.target_model for o in smaller)),
                len(checked),
                float(np.mean(np.abs(errors))),
                float(np.mean(errors)),
                float(np.max(np.abs(errors))),
                float(np.mean(inside)),
            )
        )
    return found


def _least_squares(
    x: NDArray[np.float64], y: NDArray[np.float64], noise: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """(coefficients, variance between observations beyond sampling), by two rounds of weighting."""
    between = 0.0
    for _ in range(3):
        root = np.sqrt(1 / (noise + between))
        beta, _, rank, _ = np.linalg.lstsq(x * root[:, None], y * root, rcond=None)
        if rank < x.shape[1]:
            raise BadInput(
                "no law: the evaluated checkpoints do not tell compute from size; evaluate more steps"
            )
        freedom = max(1, len(y) - x.shape[1])
        between = max(0.0, float(np.sum((y - x @ beta) ** 2 - noise) / freedom))
    return np.asarray(beta, np.float64), between


def _terms(compute_ratio: float, size_ratio: float, target_ratio: float) -> list[float]:
    """A row of the fit, in the order of TERMS."""
    return [1.0, math.log10(compute_ratio), math.log10(target_ratio), math.log10(size_ratio)]


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value > -700 else 0.0


def _student(quantile: float, freedom: int) -> float:
    try:
        from scipy import stats
    except ImportError:
        raise BadInput(
            "fitting a scaling law needs scipy, which is not installed: pip install 'memoserve[forecast]'"
        ) from None
    return float(stats.t.ppf(quantile, freedom))
