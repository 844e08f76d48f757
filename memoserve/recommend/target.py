"""A checkpoint of a suite: what is to be predicted, or what may predict it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from memoserve.errors import BadInput

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Target:
    """A checkpoint of a suite, with `evaluated` scores, of what may be none. order: of its model, by size."""

    suite: str
    checkpoint: str
    model: str
    step: int
    order: int
    parameters: int
    training_flops: float
    evaluated: int


def find_target(connection: duckdb.DuckDBPyConnection, suite: str | None, checkpoint: str | None) -> Target:
    """The target, evaluated or not; by default the last evaluated step of the largest evaluated model.

    Raises BadInput, listing checkpoints, for one that the suite doesn't have.
    """
    suites = [
        name
        for (name,) in connection.execute(
            "SELECT suite FROM checkpoints GROUP BY suite ORDER BY max(evaluated) = 0, suite"
        ).fetchall()
    ]
    if not suites:
        raise BadInput("this store is empty: run memoserve run first")
    if suite is not None and suite not in suites:
        raise BadInput(f"suite {suite!r} is not in this store; it holds {', '.join(suites)}")
    chosen = suite or suites[0]
    rows = connection.execute(
        """
        SELECT suite, checkpoint, model, step, model_order, parameters, training_flops, evaluated
        FROM checkpoints WHERE suite = $suite AND (same_weights_as IS NULL OR checkpoint = $checkpoint)
        ORDER BY model_order, step
        """,
        {"suite": chosen, "checkpoint": checkpoint},
    ).fetchall()
    targets = [Target(*row) for row in rows]
    if checkpoint is None:
        evaluated = [target for target in targets if target.evaluated]
        if not evaluated:
            raise BadInput(f"nothing of suite {chosen} is evaluated in this store")
        found = evaluated[-1]
    else:
        named = [target for target in targets if target.checkpoint == checkpoint]
        if not named:
            last = list({target.model: target.checkpoint for target in targets}.values())
            raise BadInput(
                f"--target {checkpoint}: suite {chosen} has no such checkpoint; its models' last ones are "
                + ", ".join(last)
            )
        found = named[0]
    if found.training_flops <= 0:
        raise BadInput(f"--target {found.checkpoint} has zero training FLOPs, so nothing is cheaper")
    return found


def parse_budget(text: str, target: Target) -> float:
    """A budget in FLOPs, from a number of FLOPs or a percentage of the target's own compute."""
    number = text.strip()
    share = number.endswith("%")
    try:
        value = float(number.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise BadInput(
            f"--budget takes FLOPs, such as 1e21, or a share of the target's, such as 10%; not {text!r}"
        )
    return value / 100 * target.training_flops if share else value
