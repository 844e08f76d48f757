"""Are the checkpoints of a model in the order of its training? By the path that its weights take."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from memoserve.checks import Check
from memoserve.domain import Checkpoint, Model
from memoserve.engines.weights.contents import Contents

MARGIN = 1.05
"""Training leads away from where it was: of three steps, the middle one lies nearer to each of the others
than these lie to each other. The ratio of the two distances is at most 0.85 for three neighbours among mini's
steps, and at least 1.07 for some once any two steps of a model are exchanged. A learning rate that falls
steeply can bring weights back by some per cent, which is why this is a warning."""


def check_step_order(
    model: Model, contents: Mapping[Checkpoint, Contents], chosen: Collection[Checkpoint]
) -> Check:
    """Of the steps of one model, by distances of sampled weights. Raises OSError."""
    steps = sorted(contents, key=lambda checkpoint: checkpoint.step)
    sizes = {len(contents[checkpoint].position) for checkpoint in steps}
    if len(steps) < 3 or len(sizes) != 1 or sizes == {0}:
        return Check(
            "step order", model.name, "not checked", "takes three steps of one shape", model=model.name
        )

    def apart(one: Checkpoint, other: Checkpoint) -> float:
        with np.errstate(invalid="ignore", over="ignore"):
            return float(np.linalg.norm(contents[one].position - contents[other].position))

    worst, description = 0.0, ""
    for first, middle, last in zip(steps, steps[1:], steps[2:], strict=False):
        if not {first, middle, last} & set(chosen):
            continue
        ends = apart(first, last)
        for end, far in ((first, last), (last, first)):
            ratio = apart(end, middle) / ends if ends else 0.0
            if ratio > worst:
                worst = ratio
                description = (
                    f"{end} is {ratio:.2f} times as far from {middle} as from {far}, though {middle} stands"
                    f" between them"
                )
    if worst > MARGIN:
        detail = (
            f"{description}: are folders of two steps exchanged, or did the learning rate fall steeply there?"
        )
        return Check("step order", model.name, "warning", detail, worst, model.name)
    detail = f"along {len(steps)} steps the weights move away from where they were"
    return Check("step order", model.name, "passed", detail, worst, model.name)
