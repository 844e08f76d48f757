"""What an engine is: one class, ours or another package's, of which an engine process makes one object."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from memoserve.checks import Check
from memoserve.domain import Matches
from memoserve.engines.diagnosis import Diagnosis
from memoserve.engines.settings import EngineSettings
from memoserve.errors import EngineFailed


class Engine(Protocol):
    """An engine that holds the weights of one checkpoint. It lives in a process of its own.

    Whatever a method raises is told to the user, an EngineFailed in its own words, and fails the checkpoint.
    At the end the process is killed: there is nothing to close. Module level imports of what is heavy belong
    into the methods, as the class is also imported to `diagnose` it.
    """

    def __init__(self, settings: EngineSettings, folder: Path) -> None:
        """Start with the weights of a model folder: config.json, *.safetensors, as Transformers has it."""

    @staticmethod
    def diagnose() -> Diagnosis:
        """Whether it can run on this machine, and as which version: scores name it, and are never mixed."""

    @property
    def reload_refusal(self) -> str | None:
        """Why `load` always refuses, so that each checkpoint starts an engine anew; None: it doesn't."""

    def load(self, folder: Path) -> None:
        """Put the weights of `folder` in place of whatever was loaded. Raises EngineFailed if it can't."""

    def proved(self) -> tuple[Check, ...]:
        """What was checked of the weights that are loaded; `subject`, `model` and `step` are the caller's."""

    def evaluate(self, windows: NDArray[np.uint32]) -> Matches:
        """Matches of u32[n, context + 32] windows, in the mode that the settings ask for.

        Greedy: of equal logits the first wins, settings.banned_token_id never does, and end of text ends
        nothing. In `score` mode the match mask too, with settings.loglik the log-likelihoods. Raises
        NotFinite for logits that aren't.
        """

    def generations(self, windows: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """What the contexts of u32[n, context + 32] windows are continued with, u32[n, 32]: what `evaluate`
        compares in `score` mode.
        """

    def logliks(self, windows: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Log-likelihoods f64[n] of the continuations of u32[n, context + 32] windows, in nats.

        At temperature 1, with no token banned, whatever the settings ask for.
        """


@dataclass(frozen=True)
class Forward:
    """What the model says at each position of n continuations of m tokens, arrays [n, m].

    margin: f32, the best logit minus the second best; gap: f32, the best logit minus the given token's, 0
    where that one is the best; loglik: f64, log-probability of the given token at temperature 1, in nats.
    The banned token is left out of margin and gap.
    """

    margin: NDArray[np.float32]
    gap: NDArray[np.float32]
    loglik: NDArray[np.float64]


class NotFinite(EngineFailed):
    """Logits of a window of which the largest isn't finite. `row` is its index among what was asked."""

    def __init__(self, row: int) -> None:
        super().__init__(not_finite(f"window {row} of the block (the first is 0)"))
        self.row = row

    def __reduce__(self) -> tuple[type, tuple[int]]:
        return type(self), (self.row,)


def not_finite(where: str) -> str:
    """What to tell of logits that are NaN or infinite."""
    return (
        f"the model's logits are not finite (NaN or infinity) for {where}: these weights are damaged or "
        "diverged, or too large for this dtype"
    )
