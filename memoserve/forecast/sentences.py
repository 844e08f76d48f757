"""A forecast in tables and plain sentences."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from memoserve.catalog import StoredCheckpoint
from memoserve.forecast.base_rate import BaseRate
from memoserve.forecast.judge import LEAST_PROBABILITY, Judged
from memoserve.forecast.result import BasisForecast, SequenceForecast
from memoserve.forecast.roles import describe
from memoserve.forecast.rules import BEST_FEATURE, BEST_LINE, PAPER_RULE
from memoserve.recommend.rules import Share
from memoserve.recommend.sentences import share_text

Part = Literal["forecasts", "differences", "reliability", "weights"]
_Table = tuple[tuple[str, ...], list[tuple[object, ...]]]

_FAR = 10
"""From how many times the largest role's size on a forecast warns of its distance."""

HELD_OUT, ON_TARGET, ON_UNSEEN = "smaller targets, held out", "the target", "the target, held out"


def table(forecast: SequenceForecast, part: Part) -> _Table:
    """(columns, rows) of a part: how good each forecast and rule is; differences; reliability; weights."""
    tables: dict[Part, Callable[[SequenceForecast], _Table]] = {
        "forecasts": _forecasts, "differences": _differences, "reliability": _reliability,
        "weights": _weights,
    }  # fmt: skip
    return tables[part](forecast)


_SHARES: tuple[tuple[str, Callable[[Judged], Share]], ...] = (
    ("precision", lambda j: j.precision),
    ("recall", lambda j: j.recall),
    ("average_precision", lambda j: j.average_precision),
    ("brier", lambda j: j.brier),
    ("calibration_slope", lambda j: j.calibration_slope),
)


def _forecasts(forecast: SequenceForecast) -> _Table:
    columns = (
        "target", "unit", "predicted_by", "rule", "training_flops", "flops_share", "judged_on", "expected",
        "flagged", "hits", *(f"{name}{end}" for name, _ in _SHARES for end in ("", "_low", "_high")),
        "calibration_error",
    )  # fmt: skip
    rows: list[tuple[object, ...]] = []
    target = forecast.target

    def add(by: str, rule: str | None, flops: float, on: str | None, judged: Judged | None) -> None:
        shares = [
            value
            for _, of in _SHARES
            for value in (
                (None,) * 3 if judged is None else (of(judged).value, of(judged).low, of(judged).high)
            )
        ]
        counts = (None,) * 3 if judged is None else (judged.expected, judged.flagged, judged.hits)
        rows.append((
            target.name, forecast.unit, by, rule, flops, flops / target.training_flops, on,
            *counts, *shares, None if judged is None else judged.calibration_error,
        ))  # fmt: skip

    for one in forecast.bases:
        flops = one.plan.training_flops
        rule = None if one.threshold is None else f"probability >= {one.threshold:.3f}"
        if one.judged is not None:
            add(one.basis, rule, flops, ON_TARGET, one.judged)
            add(one.basis, rule, flops, ON_UNSEEN, one.unseen)
        add(one.basis, "its own threshold", flops, HELD_OUT, one.held_out)
    for result in forecast.rules:
        on = None if result.judged is None else ON_TARGET
        add(result.name, result.rule, result.training_flops, on, result.judged)
    return columns, rows


def _differences(forecast: SequenceForecast) -> _Table:
    names = ("precision", "recall", "average_precision", "brier_skill")
    columns = ("basis", "against", *(f"{name}{end}" for name in names for end in ("", "_low", "_high")))
    rows: list[tuple[object, ...]] = []
    for (basis, rule), one in forecast.differences.items():
        shares = [share for name in names for share in _three(getattr(one, name))]
        rows.append((basis, rule, *shares))
    return columns, rows


def _reliability(forecast: SequenceForecast) -> _Table:
    columns = ("basis", "from", "to", forecast.unit, "promised", "observed", "observed_low", "observed_high")
    return columns, [
        (one.basis, bin_.low, bin_.high, bin_.items, bin_.promised, *_three(bin_.observed))
        for one in forecast.bases
        for bin_ in one.bins
    ]


def _weights(forecast: SequenceForecast) -> _Table:
    rows: list[tuple[object, ...]] = []
    for one in forecast.bases:
        inputs, weights = one.fitted.model.inputs, one.fitted.model.weights
        for number, weight in enumerate(weights):
            rows.append((one.basis, inputs.names[inputs.of[number]], inputs.kinds[number], float(weight),
                         float(inputs.mean[number]), float(inputs.scale[number])))  # fmt: skip
    return ("basis", "column", "input", "weight", "mean", "deviation"), rows


def _three(share: Share) -> tuple[float | None, float | None, float | None]:
    return share.value, share.low, share.high


def sentences(forecast: SequenceForecast) -> list[str]:
    """What was forecast, how good that is, what it costs, and what it can't know."""
    lines = [_summary(forecast, one) for one in forecast.bases]
    lines += _against(forecast)
    lines += [f"No forecast from {describe(basis)}: {why}." for basis, why in forecast.refused.items()]
    return [*lines, *_caveats(forecast)]


def _summary(forecast: SequenceForecast, one: BasisForecast) -> str:
    share = one.plan.training_flops / forecast.target.training_flops
    start = (
        f"From {describe(one.basis)}, {forecast.target.name} is expected to memorize "
        f"{one.expected:,.0f} of {forecast.items:,.0f} {forecast.unit}, for {share:.1%} of its compute "
        f"({names_of(one.plan.paid)}). "
    )
    if one.threshold is None:
        start += f"No {forecast.unit} are likely enough to promise a precision of {forecast.promised:g}."
    else:
        start += (
            f"A probability of at least {one.threshold:.3f} promises a precision of {forecast.promised:g} "
            f"and flags {one.flagged:,.0f}."
        )
    if one.judged is None:
        return start
    return (
        f"{start} Judged by the target's own labels, that finds {share_text(one.judged.recall)} of what it "
        f"memorizes at a precision of {share_text(one.judged.precision)}; average precision "
        f"{share_text(one.judged.average_precision)}."
    )


def _against(forecast: SequenceForecast) -> list[str]:
    """The richest basis against each rule, a sentence each."""
    basis = forecast.bases[-1].basis
    lines = []
    for rule in forecast.rules:
        one = forecast.differences.get((basis, rule.name))
        if one is not None and rule.judged is not None:
            named = f"the {rule.name}" if rule.name in (PAPER_RULE, BEST_LINE, BEST_FEATURE) else rule.name
            lines.append(
                f"Compared with {named} ({rule.rule}; recall {share_text(rule.judged.recall)}, precision "
                f"{share_text(rule.judged.precision)}), the recall from {describe(basis)} is "
                f"{_signed(one.recall)}, paired."
            )
    return lines


def _signed(share: Share) -> str:
    if share.value is None or share.low is None or share.high is None:
        return "unknown"
    return f"{share.value:+.3f} ({share.low:+.3f} to {share.high:+.3f})"


def _caveats(forecast: SequenceForecast) -> list[str]:
    one, target = forecast.bases[-1], forecast.target
    elsewhere = f", of suite {forecast.fit_on} in another store, whose runs are not counted"
    lines = [
        f"Learned from {'; '.join(map(str, one.plan.teachers))}{elsewhere if forecast.fit_on else ''}. "
        f"No label of {target.model} entered a fit, a threshold or a calibration. On windows of the smaller "
        "targets that a fit had not seen, the average precision is "
        f"{share_text(one.held_out.average_precision)}.",
        _base_rate(forecast, one.base_rate),
    ]
    if one.base_rate.extrapolated > _FAR:
        lines.append(
            f"{target.model} is {one.base_rate.extrapolated:.0f} times as large as the largest model learned "
            "from: the ranking is worth more than the probabilities."
        )
    if one.judged is not None and one.judged.calibration_slope.value is not None:
        error = one.judged.calibration_error
        where = f", mean error {error:.3f} where the probability is at least {LEAST_PROBABILITY:g}"
        lines.append(
            f"Calibration on {target.name}: slope {share_text(one.judged.calibration_slope)}, 1 being "
            f"right{'' if error is None else where}. Intervals are of a bootstrap over windows (over "
            "near-duplicate clusters where features say them), 95%."
        )
    return lines


def _base_rate(forecast: SequenceForecast, rate: BaseRate) -> str:
    seen = ", ".join(f"{share:.2%} at {parameters:,}" for parameters, share in rate.observed)
    return (
        f"How much a larger model memorizes no smaller one can show: {rate.share:.2%} of {forecast.unit} "
        f"({rate.low:.2%} to {rate.high:.2%} by sampling error alone) continues {seen} parameters, along a "
        "line through the last two of its power of 2/3 over the logarithm of the size, to "
        f"{rate.extrapolated:.1f} times the largest. If that line bends, all probabilities are off together; "
        "what other data, another optimizer or deduplication between the sizes would do is not foreseen."
    )


def names_of(runs: Sequence[StoredCheckpoint]) -> str:
    """The checkpoints that are paid for, of each model the latest; "no run" for none."""
    latest = {run.model: run for run in sorted(runs, key=lambda run: (run.order, run.step))}
    return ", ".join(run.name for run in latest.values()) or "no run"
