"""The checkpoint that is to be predicted, and a budget of its compute."""

from __future__ import annotations

from memoserve.catalog import Catalog, StoredCheckpoint
from memoserve.errors import BadInput


def find_target(catalog: Catalog, suite: str | None, checkpoint: str | None) -> StoredCheckpoint:
    """The target, evaluated or not; by default the last evaluated step of the largest evaluated model.

    Raises BadInput, listing checkpoints, for one that the suite doesn't have.
    """
    every = catalog.checkpoints()
    empty = {one.suite for one in every} - {one.suite for one in every if one.evaluated}
    suites = sorted({one.suite for one in every}, key=lambda name: (name in empty, name))
    if not suites:
        raise BadInput("this store is empty: run memoserve run first")
    if suite is not None and suite not in suites:
        raise BadInput(f"suite {suite!r} is not in this store; it holds {', '.join(suites)}")
    chosen = suite or suites[0]
    targets = [
        one
        for one in every
        if one.suite == chosen and (one.same_weights_as is None or one.name == checkpoint)
    ]
    if checkpoint is None:
        evaluated = [target for target in targets if target.evaluated]
        if not evaluated:
            raise BadInput(f"nothing of suite {chosen} is evaluated in this store")
        found = evaluated[-1]
    else:
        named = [target for target in targets if target.name == checkpoint]
        if not named:
            last = list({target.model: target.name for target in targets}.values())
            raise BadInput(
                f"--target {checkpoint}: suite {chosen} has no such checkpoint; its models' last ones are "
                + ", ".join(last)
            )
        found = named[0]
    if found.training_flops <= 0:
        raise BadInput(f"--target {found.name} has zero training FLOPs, so nothing is cheaper")
    return found


def parse_budget(text: str, target: StoredCheckpoint) -> float:
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
