"""How much larger models memorize: the one thing that no window of a smaller model can say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memoserve.catalog import StoredCheckpoint
from memoserve.forecast.model import Taught, labels_of, weights_of

_Z = 1.959963984540054
_POWER = 2 / 3
"""Of a share, that is a straight line: see docs/forecast.md for where that was seen."""


@dataclass(frozen=True)
class BaseRate:
    """The share of what a target has seen that it is expected to memorize, and the roles that say so.

    The share to the power of 2/3 is taken as a straight line in the logarithm of the parameters, through the
    two largest roles: an empirical law, as good as its two points. `low` to `high`: the sampling error of
    those (95%), not the law's own. `extrapolated`: how many times larger than the largest role's the target's
    model is. `observed`: (parameters, share) of each role, ascending.
    """

    share: float
    low: float
    high: float
    extrapolated: float
    observed: tuple[tuple[int, float], ...]


def forecast_base_rate(target: StoredCheckpoint, taught: Sequence[Taught], unit: str) -> BaseRate | None:
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
    (small, _), (large, reached) = observed[-2:]
    beyond = math.log(target.parameters / large) / math.log(large / small)
    (low, low_error), (high, high_error) = (_powered(*shares[size]) for size in (small, large))
    value = high + beyond * (high - low)
    error = _Z * math.hypot((1 + beyond) * high_error, beyond * low_error)
    least = reached if beyond > 0 else 0.0
    share, lowest, highest = (
        min(max(max(one, 0.0) ** (1 / _POWER), least), 1 - 1e-9)
        for one in (value, value - error, value + error)
    )
    return BaseRate(share, lowest, highest, target.parameters / large, observed)


def _powered(share: float, clusters: int) -> tuple[float, float]:
    """(a share's power, its standard error), of a share of so many clusters."""
    # As if half a cluster more had been memorized: none that was is no proof of none.
    error = math.sqrt(max(share, 0.5 / clusters) * (1 - share) / clusters)
    return share**_POWER, _POWER * max(share, 0.5 / clusters) ** (_POWER - 1) * error
