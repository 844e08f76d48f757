"""Learning from smaller roles: inputs, a fit, cross-fitting, calibration. No label of the target is here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memoserve.errors import BadInput
from memoserve.forecast.roles import Role
from memoserve.forecast.table import Column, Rows, folds

Learner = Literal["logistic", "boosting"]
LEARNERS: tuple[Learner, ...] = ("logistic", "boosting")

FOLDS = 5
_LEAST_LL = -400.0
_EXTREME = 30.0
"""Logits are kept within this: a probability is never exactly 0 or 1."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Taught:
    """A role and its rows with labels."""

    role: Role
    rows: Rows


@dataclass(frozen=True)
class Inputs:
    """How rows become inputs: numbers of about mean 0 and deviation 1, a few of each column.

    `columns` and their `indices` in Rows.values; `missing`: of which of them there is an input for unknown;
    `mean`, `scale`: float64[inputs]; `of`: int[inputs], which of `names` each input belongs to; `kinds`: what
    of it: value, log, memorized, unknown.
    """

    columns: tuple[Column, ...]
    indices: tuple[int, ...]
    missing: tuple[bool, ...]
    mean: Floats
    scale: Floats
    names: tuple[str, ...]
    of: NDArray[np.int64]
    kinds: tuple[str, ...]

    def standardized(self, rows: Rows, role: Role) -> NDArray[np.float32]:
        """float32[n, inputs]."""
        raw, _ = _raw(self.columns, self.indices, self.missing, rows, role)
        for index, (mean, scale) in enumerate(zip(self.mean, self.scale, strict=True)):
            column = raw[:, index]
            column -= np.float32(mean)
            column /= np.float32(scale)
        # What is unknown is as the mean: its own input says that it is.
        return np.nan_to_num(raw, copy=False, nan=0.0)


@dataclass(frozen=True)
class Calibration:
    """What turns a fit's logits into probabilities: Platt's two numbers, and a shift to the base rate."""

    slope: float = 1.0
    intercept: float = 0.0
    shift: float = 0.0

    def __call__(self, logit: Floats) -> Floats:
        """float64[n]: probabilities."""
        z = self.slope * logit + self.intercept + self.shift
        return np.asarray(1 / (1 + np.exp(-np.clip(z, -_EXTREME, _EXTREME))))


@dataclass(frozen=True)
class Model:
    """A fit, ready to give probabilities. `weights`: float64[inputs] of the logistic regression."""

    inputs: Inputs
    intercept: float
    weights: Floats
    boosted: Any
    calibration: Calibration = Calibration()

    def probability(self, rows: Rows, role: Role) -> Floats:
        """float64[n]: how likely the role's target memorizes each."""
        return self.calibration(self.logit(rows, role))

    def logit(self, rows: Rows, role: Role) -> Floats:
        """float64[n]: before calibration."""
        return self.logit_of(self.inputs.standardized(rows, role))

    def logit_of(self, x: NDArray[np.float32]) -> Floats:
        """float64[n], of standardized inputs float32[n, inputs]."""
        if self.boosted is not None:
            return np.asarray(self.boosted.decision_function(x), np.float64)
        return np.asarray(x @ self.weights.astype(np.float32), np.float64) + self.intercept

    def to_base_rate(self, rate: float, rows: Rows, weight: Floats, role: Role) -> Model:
        """The same model, its logits shifted so that the mean probability of these rows is a base rate.

        rows: of the role's target, without labels; weight: float64[n], how many items each stands for.
        """
        logit, weight = self.logit(rows, role), weight / weight.sum()
        low, high = -2 * _EXTREME, 2 * _EXTREME
        for _ in range(60):
            middle = (low + high) / 2
            mean = float(weight @ replace(self.calibration, shift=middle)(logit))
            low, high = (middle, high) if mean < rate else (low, middle)
        return replace(self, calibration=replace(self.calibration, shift=(low + high) / 2))

    def contributions_of(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32[n, names]: what each column adds to the logistic regression's logit, over the mean's."""
        found = np.zeros((len(x), len(self.inputs.names)), np.float32, order="F")
        for index, name in enumerate(self.inputs.of):
            found[:, name] += x[:, index] * np.float32(self.weights[index])
        return found


@dataclass(frozen=True)
class Fitted:
    """A model of all windows, and what was said of each window by one that had not seen it.

    held_out: for each taught role, float64[n], probabilities of its rows. parts: one model a fold, which has
    not seen the windows of that fold in any role.
    """

    model: Model
    held_out: tuple[Floats, ...]
    parts: tuple[Model, ...]

    def probability_unseen(self, rows: Rows, role: Role) -> Floats:
        """float64[n]: of each window by the part that has not seen it, nor one nearly equal, in any role."""
        fold = folds(rows.cluster, len(self.parts))
        found = np.zeros(len(rows))
        for number, part in enumerate(self.parts):
            mine = fold == number
            if mine.any():
                found[mine] = part.probability(rows.take(mine), role)
        return found

    def to_base_rate(self, rate: float, rows: Rows, weight: Floats, role: Role) -> Fitted:
        """All models shifted by what brings the whole one to a base rate (see Model.to_base_rate)."""
        model = self.model.to_base_rate(rate, rows, weight, role)
        parts = tuple(replace(part, calibration=model.calibration) for part in self.parts)
        return replace(self, model=model, parts=parts)


def fit(
    taught: Sequence[Taught],
    columns: Sequence[Column],
    indices: Sequence[int],
    *,
    learner: Learner = "logistic",
    unit: str = "windows",
) -> Fitted:
    """Learn the columns at `indices` from smaller roles, calibrated by what cross-fitting says of them.

    Raises BadInput where no role memorized anything, or all of it, or scikit-learn is missing.
    """
    _refuse(taught)
    chosen = _known(taught, columns, indices)
    weights = [weights_of(one.rows, unit) for one in taught]
    held = [np.zeros(len(one.rows)) for one in taught]
    fold = [folds(one.rows.cluster, FOLDS) for one in taught]
    parts = []
    for number in range(FOLDS):
        rest = [
            (one.role, one.rows.take(f != number), w[f != number])
            for one, f, w in zip(taught, fold, weights, strict=True)
        ]
        labels = np.concatenate([labels_of(rows) for _, rows, _ in rest])
        if labels.all() or not labels.any():
            raise BadInput(
                f"too few windows to judge a fit by those that it has not seen: without one of {FOLDS} parts "
                "the smaller models memorized nothing, or everything; evaluate more sequences"
            )
        part = _fit(rest, columns, chosen, learner)
        parts.append(part)
        for one, mine, found in zip(taught, fold, held, strict=True):
            there = mine == number
            if there.any():
                found[there] = part.logit(one.rows.take(there), one.role)
    labels = np.concatenate([labels_of(one.rows) for one in taught])
    calibration = _calibration(np.concatenate(held), labels, np.concatenate(weights))
    whole = _fit(
        [(t.role, t.rows, w) for t, w in zip(taught, weights, strict=True)], columns, chosen, learner
    )
    return Fitted(
        replace(whole, calibration=calibration),
        tuple(calibration(one) for one in held),
        tuple(replace(part, calibration=calibration) for part in parts),
    )


def labels_of(rows: Rows) -> NDArray[np.bool_]:
    """The labels of rows that were read with them."""
    assert rows.memorized is not None
    return rows.memorized


def weights_of(rows: Rows, unit: str) -> Floats:
    """float64[n]: how many windows, or sequences, a row stands for."""
    return rows.weight if unit == "windows" else rows.weight * rows.sequences


def _refuse(taught: Sequence[Taught]) -> None:
    names = ", ".join(dict.fromkeys(one.role.target.name for one in taught))
    hits = sum(int(np.count_nonzero(labels_of(one.rows))) for one in taught)
    total = sum(len(one.rows) for one in taught)
    if total == 0:
        raise BadInput(f"no window was evaluated by all that a forecast learns from ({names})")
    if hits == 0:
        raise BadInput(f"nothing to learn from: of {total:,} rows, {names} memorized none")
    if hits == total:
        raise BadInput(f"nothing to learn from: {names} memorized every one of {total:,} rows")


def _known(taught: Sequence[Taught], columns: Sequence[Column], indices: Sequence[int]) -> list[int]:
    """The indices of columns that say something in every role."""
    kept = [
        index
        for index in indices
        if all(len(one.rows) == 0 or bool((~np.isnan(one.rows.values[:, index])).any()) for one in taught)
    ]
    if not kept:
        names = ", ".join(columns[index].name for index in indices)
        raise BadInput(f"nothing to learn from: no score or feature is known in every role ({names})")
    return kept


def _fit(
    taught: Sequence[tuple[Role, Rows, Floats]],
    columns: Sequence[Column],
    indices: Sequence[int],
    learner: Learner,
) -> Model:
    logistic, boosting = _scikit_learn()
    used = tuple(columns[index] for index in indices)
    missing = tuple(
        any(bool(np.isnan(rows.values[:, index]).any()) for _, rows, _ in taught) for index in indices
    )
    raw, named = zip(*(_raw(used, indices, missing, rows, role) for role, rows, _ in taught), strict=True)
    x = np.concatenate(raw)
    y = np.concatenate([labels_of(rows) for _, rows, _ in taught])
    # Each role counts as much as its windows do; all together as many as there are rows.
    w = np.concatenate([weight for _, _, weight in taught])
    w = w * (len(w) / w.sum())
    known = ~np.isnan(x)
    total = np.maximum(w @ known, 1e-12)
    filled = np.where(known, x, 0.0)
    mean = (w @ filled) / total
    deviation = np.sqrt((w @ np.where(known, (x - mean) ** 2, 0.0)) / total)
    scale = np.where(deviation > 1e-9, deviation, 1.0)
    standard = np.nan_to_num((x - mean) / scale, nan=0.0).astype(np.float32)
    found = logistic(C=1.0, solver="newton-cholesky").fit(standard, y, sample_weight=w)
    boosted = None
    if learner == "boosting":
        boosted = boosting(
            max_iter=100, learning_rate=0.1, max_leaf_nodes=8, min_samples_leaf=40, l2_regularization=1.0,
            early_stopping=False, random_state=0,
        ).fit(standard, y, sample_weight=w)  # fmt: skip
    unique = tuple(dict.fromkeys(name for name, _ in named[0]))
    of = np.array([unique.index(name) for name, _ in named[0]])
    inputs = Inputs(
        used, tuple(indices), missing, mean, scale, unique, of, tuple(kind for _, kind in named[0])
    )
    return Model(inputs, float(found.intercept_[0]), found.coef_[0].astype(np.float64), boosted)


def _raw(
    columns: Sequence[Column], indices: Sequence[int], missing: Sequence[bool], rows: Rows, role: Role
) -> tuple[NDArray[np.float32], list[tuple[str, str]]]:
    """(float32[n, inputs], the column and the kind of each input): not yet standardized."""
    inputs: list[NDArray[np.float32]] = []
    named: list[tuple[str, str]] = []

    def add(name: str, kind: str, values: NDArray[Any]) -> None:
        named.append((name, kind))
        inputs.append(np.asarray(values, np.float32))

    for column, index, unknown in zip(columns, indices, missing, strict=True):
        values = rows.values[:, index]
        if column.counts:
            add(column.name, "log", np.sign(values) * np.log1p(np.abs(values)))
        elif column.name.endswith("continuation_ll"):
            add(column.name, "value", np.clip(values, _LEAST_LL, 0.0))
        else:
            add(column.name, "value", values)
        if column.kind == "signal" and column.name.endswith(("matched_prefix", "matches")):
            add(column.name, "memorized", values == 32)
        if unknown:
            add(column.name, "unknown", np.isnan(values))
    for name, value in _scale(role, any(column.kind == "signal" for column in columns)):
        add(name, "log", np.full(len(rows), value))
    raw = np.empty((len(rows), len(inputs)), np.float32, order="F")
    for index, values in enumerate(inputs):
        raw[:, index] = values
    return raw, named


def _scale(role: Role, signals: bool) -> list[tuple[str, float]]:
    """How large the target is, and how much larger in compute than what predicts it: logarithms."""
    found = [("target_size", math.log(role.target.parameters))]
    if signals and role.predictor is not None:
        found.append(("compute_gap", math.log(role.target.training_flops / role.predictor.training_flops)))
    return found


def _calibration(logit: Floats, label: NDArray[np.bool_], weight: Floats) -> Calibration:
    """Platt's: a logistic regression of held-out labels of smaller targets on their logits."""
    logistic, _ = _scikit_learn()
    platt = logistic(C=1e6, solver="newton-cholesky").fit(
        logit[:, None], label, sample_weight=weight / weight.mean()
    )
    # A fit that ranks backwards where it wasn't fitted knows nothing: then everything gets the base rate.
    return Calibration(max(float(platt.coef_[0, 0]), 0.0), float(platt.intercept_[0]))


def _scikit_learn() -> tuple[Any, Any]:
    try:
        from sklearn.ensemble import HistGradientBoostingClassifier
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise BadInput(
            "a forecast of single sequences needs scikit-learn, which is not installed: "
            "pip install 'memoserve[forecast]'"
        ) from None
    return LogisticRegression, HistGradientBoostingClassifier
