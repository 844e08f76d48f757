"""The law behind forecasts as a table: its coefficients, and how well it would have forecast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from memoserve.catalog import Catalog
from memoserve.recommend.law import (
    MEASURES,
    RULE,
    HeldOut,
    Law,
    Measure,
    fit,
    hold_out,
    read_observations,
)
from memoserve.recommend.rehearsal import Rehearsal, rehearse_largest
from memoserve.recommend.rules import Bounds, Unit
from memoserve.recommend.sentences import backtest_sentence
from memoserve.recommend.target import find_target

REHEARSED = (0.1, 0.2, 0.5)
"""Budgets, as shares of a target's compute, for which a rehearsed recommendation is told."""

_COLUMNS = (
    "unit", "measure", "part", "name", "value", "value_low", "value_high", "observations", "pairs", "sizes",
)  # fmt: skip

_Row = tuple[object, ...]


@dataclass(frozen=True)
class Scaling:
    """The fitted laws and their errors: rows of `columns`, and what to say about them."""

    columns: tuple[str, ...]
    rows: list[_Row]
    sentences: list[str]


def scaling(
    catalog: Catalog,
    *,
    suite: str | None = None,
    step: int | None = None,
    unit: Unit = "sequences",
) -> Scaling:
    """Fit each measure over every model as target, at its last evaluated step up to `step`; then forecast the
    largest targets from smaller models alone. Raises BadInput where too little is evaluated for a law.
    """
    name = find_target(catalog, suite, None).suite
    observations = read_observations(catalog, name, unit, step=step)
    rehearsal = rehearse_largest(catalog, name, unit, step)
    rows: list[_Row] = []
    sentences: list[str] = []
    for measure in MEASURES:
        law = fit(observations, measure)
        held = hold_out(observations, measure)
        rows += [(unit, measure, *row) for row in (*_coefficients(law), *_errors(held))]
        sentences += _of_measure(measure, law, held)
    if rehearsal is not None:
        rows += [(unit, *row) for row in _rehearsed(rehearsal)]
        sentences += rehearsed_sentences(rehearsal, Bounds())
        sentences.append(f"Those recommendations keep to {Bounds()}, as far as the forecast can tell.")
    sentences.append(f"Extrapolation limits: {RULE}.")
    return Scaling(_COLUMNS, rows, sentences)


def rehearsed_sentences(rehearsal: Rehearsal, bounds: Bounds) -> list[str]:
    """What would have been recommended for the largest target without its scores, a sentence a budget."""
    return [backtest_sentence(rehearsal.choose(share, bounds)) for share in REHEARSED]


def _coefficients(law: Law) -> Iterator[_Row]:
    for index, coefficient in enumerate(law.terms):
        value = float(law.coefficients[index])
        yield "fit", coefficient, value, *law.interval(index), law.observations, law.pairs, law.sizes


def _errors(held: Sequence[HeldOut]) -> Iterator[_Row]:
    for one in held:
        for error, value in (
            ("mean absolute error", one.mean_absolute_error),
            ("mean error", one.bias),
            ("largest error", one.worst),
            ("share within 95% interval", one.covered),
        ):
            part = f"held out {one.target}"
            yield part, error, value, None, None, one.checked, None, len(one.fitted_to)


def _of_measure(measure: Measure, law: Law, held: Sequence[HeldOut]) -> Iterator[str]:
    for one in held:
        yield (
            f"Fitted to {', '.join(one.fitted_to)} as targets, the law forecasts {measure} for "
            f"{one.target} with a mean absolute error of {one.mean_absolute_error:.3f} over "
            f"{one.checked} checkpoints (largest {one.worst:.3f}, mean {one.bias:+.3f}); "
            f"{one.covered:.0%} lie in its interval."
        )
    if not held:
        yield f"Too few sizes to hold one out for {measure}: how well the law forecasts is unknown."
    low, high = law.compute_range
    yield f"{measure} is fitted to compute ratios from {low:.2g} to {high:.2g}."


def _rehearsed(rehearsal: Rehearsal) -> Iterator[_Row]:
    for line in rehearsal.errors():
        part = f"held out {rehearsal.target.name}: {line.line}"
        for measure, off in zip(MEASURES, (line.recall, line.precision), strict=True):
            yield measure, part, "mean absolute error", off, None, None, line.checked, None, None
