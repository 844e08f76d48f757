"""How much larger models memorize: the one thing that no window of a smaller model can say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memoserve.forecast.model import Taught, labels_of, weights_of
from memoserve.recommend.target import Target


@dataclass(frozen=True)
class BaseRate:
    """The share of what a target has seen that it is expected to memorize, and the roles that say so.

    The square root of the share is a straight line in the logarithm of the parameters (least squares, a size
    weighing as much as it has parameters: nearer ones say more): an empirical law, as good as its points. `extrapolated`: how many times larger than the largest role's
    the target's model is. `observed`: (parameters, share) of each role, ascending.
    """

    share: float
    extrapolated: float
    observed: tuple[tuple[int, float], ...]


def forecast_base_rate(target: Target, taught: Sequence[Taught], unit: str) -> BaseRate | None:
    """The law through the roles; None where the roles are of fewer than two sizes.

    Between 0 and 1, and never below the largest role's: a larger model that memorizes less has not been seen.
    """
    shares: dict[int, float] = {}
    for one in taught:
        weight = weights_of(one.rows, unit)
        if weight.sum() > 0:
            shares[one.role.target.parameters] = float(weight @ labels_of(one.rows) / weight.sum())
    observed = tuple(sorted(shares.items()))
    if len(observed) < 2:
        return None
    size = np.log([parameters for parameters, _ in observed])
    root = np.sqrt([share for _, share in observed])
    slope, intercept = np.polyfit(size, root, 1, w=np.exp((size - size[-1]) / 2))
    reached = max(0.0, float(slope * math.log(target.parameters) + intercept)) ** 2
    largest = observed[-1]
    share = min(max(reached, largest[1] if target.parameters > largest[0] else 0.0), 1 - 1e-9)
    return BaseRate(share, target.parameters / largest[0], observed)
