"""The ladder: check a few continuation tokens of every window first, go on with those that match.

Most windows fail within the first tokens. How many tokens a stage checks follows from how many windows were
measured to match that far, not from taste.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from memoserve.domain import CONTINUATION


def remaining_shares(matched_prefix: NDArray[np.uint8]) -> NDArray[np.float64]:
    """f64[33]: the share of windows whose matched prefix is at least i."""
    counts = np.bincount(matched_prefix, minlength=CONTINUATION + 1)
    shares: NDArray[np.float64] = counts[::-1].cumsum()[::-1] / max(1, len(matched_prefix))
    return shares


def choose_stages(
    remaining: NDArray[np.float64], context: int, cached_block: int, overhead: float
) -> tuple[int, ...]:
    """The cheapest stages, ascending, the last one 32: how many continuation tokens each one checks.

    `remaining` is f64[33], the share of windows that match at least i tokens. A request costs its tokens
    that are not in the prefix cache, which holds whole blocks of `cached_block` tokens, and `overhead`,
    the cost of a request in tokens. Exact, by dynamic programming over the 32 possible ends of a stage.
    """

    def cost(done: int, end: int) -> float:
        cached = 0 if done == 0 else min((context + done) // cached_block * cached_block, context + end - 1)
        return float(remaining[done]) * (overhead + context + end - cached)

    cheapest: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for end in range(1, CONTINUATION + 1):
        cheapest.append(
            min((cheapest[done][0] + cost(done, end), (*cheapest[done][1], end)) for done in range(end))
        )
    return cheapest[CONTINUATION][1]
