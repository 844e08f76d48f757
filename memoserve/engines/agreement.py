"""Do an engine and Transformers' eager forward say the same? Where they may differ, and by how much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memoserve.engines.engine import Forward

ENOUGH = 100
"""Decisive positions from which on agreement means something."""


@dataclass(frozen=True)
class Tolerance:
    """near_tie: logits closer than this may come out in either order; loglik: nats by which the
    log-likelihood of a window may differ, and loglik_share: further, for each nat of it.
    """

    near_tie: float
    loglik: float
    loglik_share: float


# With weights that make every field of a configuration count, 15 architectures differ by up to 4e-4 nats in
# float32, and by 1.5 in bfloat16. Larger models have more layers to round in.
TOLERANCES = {
    "float32": Tolerance(0.01, 0.01, 1e-4),
    "float16": Tolerance(0.1, 0.1, 0.01),
    "bfloat16": Tolerance(0.8, 1.0, 0.05),
}


def tolerance_of(dtype: str, device: str) -> Tolerance:
    """What an engine in `dtype` on `device`, `cpu` or `cuda`, may differ by.

    GPUs may round the factors of float32 products to TF32, which has the precision of float16.
    """
    return TOLERANCES["float16" if device == "cuda" and dtype == "float32" else dtype]


@dataclass(frozen=True)
class Agreement:
    """positions: of continuations at which both sides chose a token; decisive: those where the reference's
    choice is no near-tie; disagreeing: decisive ones with another choice; largest: the largest lead, in
    logits, that the reference gives its own choice over the engine's; logliks: windows whose
    log-likelihoods were compared; loglik_difference: their largest difference in nats; loglik_beyond: how
    many differ by more than the tolerance.
    """

    positions: int
    decisive: int
    disagreeing: int
    largest: float
    logliks: int = 0
    loglik_difference: float = 0.0
    loglik_beyond: int = 0

    @property
    def holds(self) -> bool:
        """Whether nothing disagrees."""
        return not self.disagreeing and not self.loglik_beyond

    def and_also(self, other: Agreement) -> Agreement:
        """Both together."""
        return Agreement(
            self.positions + other.positions,
            self.decisive + other.decisive,
            self.disagreeing + other.disagreeing,
            max(self.largest, other.largest),
            self.logliks + other.logliks,
            max(self.loglik_difference, other.loglik_difference),
            self.loglik_beyond + other.loglik_beyond,
        )


def of_generations(forward: Forward, tolerance: Tolerance) -> Agreement:
    """Of an engine's greedy tokens, which `forward` was given as continuations."""
    near = tolerance.near_tie
    return _agreement(forward.gap, ~(forward.margin <= near) | ~(forward.gap <= near), ~(forward.gap <= near))


def of_prefixes(forward: Forward, matched_prefix: NDArray[np.uint8], tolerance: Tolerance) -> Agreement:
    """Of an engine's matched prefixes u8[n] in the windows that `forward` was given.

    Below its matched prefix an engine chose the given token, at it another one; of what comes after it says
    nothing.
    """
    near = tolerance.near_tie
    positions = np.arange(forward.gap.shape[1])
    chosen = positions < matched_prefix[:, None]
    refused = positions == matched_prefix[:, None]
    # By how much the reference prefers its choice to what the engine chose, at least.
    lead = np.where(refused, np.where(forward.gap == 0, forward.margin, 0), forward.gap)
    decisive = ~(np.where(refused & (forward.gap > 0), forward.gap, forward.margin) <= near) | ~(lead <= near)
    asked = chosen | refused
    return _agreement(lead[asked], decisive[asked], ~(lead[asked] <= near))


def of_logliks(forward: Forward, logliks: NDArray[np.float64], tolerance: Tolerance) -> Agreement:
    """Of an engine's log-likelihoods f64[n], in nats, of the windows that `forward` was given."""
    theirs = forward.loglik.sum(axis=1)
    difference = np.abs(logliks - theirs)
    beyond = ~(difference <= tolerance.loglik + tolerance.loglik_share * np.abs(theirs))
    return Agreement(0, 0, 0, 0.0, len(logliks), float(difference.max(initial=0.0)), int(beyond.sum()))


def _agreement(lead: NDArray[np.float32], decisive: NDArray[np.bool_], wrong: NDArray[np.bool_]) -> Agreement:
    return Agreement(lead.size, int(decisive.sum()), int(wrong.sum()), float(np.max(lead, initial=0.0)))
