"""How much larger models memorize: the one thing that no window of a smaller model can say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memoserve.forecast.model import Taught, labels_of, weights_of
from memoserve.recommend.target import Target

_Z = 1.959963984540054


@dataclass(frozen=True)
class BaseRate:
    """The share of what a target has seen that it is expected to memorize, and the roles that say so.

    The square root of the share is taken as a straight line in the logarithm of the parameters, through the
    two largest roles: an empirical law, as good as its two points. `low` to `high`: the sampling error of
    those (95%), not the law's own. `extrapolated`: how many times larger than the largest role's the target's
    model is. `observed`: (parameters, share) of each role, ascending.
    """

    share: float
    low: float
    high: float
    extrapolated: float
    observed: tuple[tuple[int, float], ...]


def forecast_base_rate(target: Target, taught: Sequence[Taught], unit: str) -> BaseRate | None:
    """The law through the roles; None where the roles are of fewer than two sizes.

    Never below what the largest role memorized: that a larger model memorizes less has not been seen.
    """
    shares: dict[int, tuple[float, int]] = {}
    for one in taught:
        weight = weights_of(one.rows, unit)
        if weight.sum() > 0:
            share = float(weight @ labels_of(one.rows) / weight.sum())
            shares[one.role.target.parameters] = share, max(len(np.unique(one.rows.cluster)), 1)
    observed = tuple((parameters, share) for parameters, (share, _) in sorted(shares.items()))
    if len(observed) < 2:
        return None
    (small, low), (large, high) = observed[-2:]
    beyond = math.log(target.parameters / large) / math.log(large / small)
    root = math.sqrt(high) + beyond * (math.sqrt(high) - math.sqrt(low))
    error = _Z * math.hypot((1 + beyond) * _root_error(*shares[large]), beyond * _root_error(*shares[small]))
    least = math.sqrt(high) if beyond > 0 else 0.0
    share, lowest, highest = (
        min(max(value, least, 0.0) ** 2, 1 - 1e-9) for value in (root, root - error, root + error)
    )
    return BaseRate(share, lowest, highest, target.parameters / large, observed)


def _root_error(share: float, clusters: int) -> float:
    """The standard error of the square root of a share of so many clusters."""
    return 0.5 * math.sqrt((1 - share) / clusters)
