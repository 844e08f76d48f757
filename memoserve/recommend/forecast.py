"""Rules for a target that has no scores yet: their recall and precision from the law over smaller targets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memoserve.errors import BadInput
from memoserve.recommend.law import Law, fit, read_observations
from memoserve.recommend.rules import Bounds, Share, Unit

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Target:
    """The checkpoint to predict."""

    suite: str
    checkpoint: str
    model: str
    step: int
    order: int
    parameters: int
    training_flops: float
    evaluated: int


@dataclass(frozen=True)
class Forecast:
    """The paper's rule with one checkpoint, and what to expect. `flagged` is None before it is evaluated."""

    predictor: str
    training_flops: float
    recall: Share
    precision: Share
    flagged: int | None


@dataclass(frozen=True)
class Forecasts:
    """What could be forecast, and why the rest could not."""

    laws: tuple[Law, Law]
    rules: tuple[Forecast, ...]
    refused: dict[str, str]


def forecast_rules(
    connection: duckdb.DuckDBPyConnection, store: str | Path, target: Target, unit: Unit
) -> Forecasts:
    """Forecast every checkpoint of the suite that costs less than the target, evaluated or not.

    The law is fitted to models smaller than the target, at the target's step or the last evaluated one before
    it; no score of the target's model enters. Raises BadInput if there is too little to fit to.
    """
    seen = read_observations(
        connection, store, target.suite, unit, smaller_than=target.model, step=target.step
    )
    recall, precision = fit(seen, "recall_corpus"), fit(seen, "precision")
    rows = connection.execute(
        """
        SELECT checkpoint, training_flops, parameters,
               CASE WHEN evaluated > 0 AND model_order < $order THEN coalesce(m.n, 0) END
        FROM checkpoints c LEFT JOIN (
            SELECT m.model, m.step, count(*) AS n
            FROM memorized m JOIN checkpoints s USING (suite, model, step)
            WHERE m.suite = $suite AND m.sequence_id < least(s.sequences_seen, s.trained) GROUP BY ALL
        ) m USING (model, step)
        WHERE suite = $suite AND training_flops > 0 AND training_flops < $flops AND model_order <= $order
        ORDER BY training_flops, model_order
        """,
        {"suite": target.suite, "flops": target.training_flops, "order": target.order},
    ).fetchall()
    rules, refused = [], {}
    for checkpoint, flops, parameters, flagged in rows:
        at = (flops / target.training_flops, parameters / target.parameters)
        why = next(
            (why for law in (recall, precision) if (why := law.refusal(*at, target.training_flops))), None
        )
        if why is not None:
            refused[checkpoint] = why
            continue
        known = flagged if unit == "sequences" else None
        rules.append(
            Forecast(
                checkpoint,
                flops,
                recall.forecast(*at, target.training_flops),
                precision.forecast(*at, target.training_flops),
                known,
            )
        )
    if not rules:
        reasons = "; ".join(dict.fromkeys(refused.values())) or "the suite has no checkpoint that costs less"
        raise BadInput(f"no forecast for {target.checkpoint}: {reasons}")
    return Forecasts((recall, precision), tuple(rules), refused)


def choose_forecast(
    rules: tuple[Forecast, ...], budget: float, bounds: Bounds, *, without: frozenset[str] = frozenset()
) -> Forecast | None:
    """The highest forecast recall within the budget (FLOPs) and the bounds; of equals the cheapest."""
    return max(
        (
            r
            for r in rules
            if r.training_flops <= budget
            and r.flagged != 0
            and _keeps(r, bounds)
            and r.predictor not in without
        ),
        key=lambda r: (r.recall.value or 0.0, -r.training_flops),
        default=None,
    )


def cheapest_forecast(rules: tuple[Forecast, ...], recall: float, bounds: Bounds) -> Forecast | None:
    """The cheapest whose forecast recall reaches `recall` within the bounds."""
    return min(
        (r for r in rules if r.flagged != 0 and _keeps(r, bounds) and (r.recall.value or 0.0) >= recall),
        key=lambda r: (r.training_flops, -(r.recall.value or 0.0)),
        default=None,
    )


def _keeps(rule: Forecast, bounds: Bounds) -> bool:
    if bounds.min_precision is not None and (rule.precision.value or 0.0) < bounds.min_precision:
        return False
    return bounds.max_flagged is None or (rule.flagged is not None and rule.flagged <= bounds.max_flagged)
