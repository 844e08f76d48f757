"""From hidden states to the best tokens, and to how likely the true ones were. In an engine process only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from memoserve.engines.engine import NotFinite, not_finite
from memoserve.errors import EngineFailed

LOGITS_PER_SLICE = 1 << 22
"""Logits held at a time: positions pass the LM head in slices, so that logits never dominate memory."""


def best_tokens(
    compute_logits: Callable[[torch.Tensor], Any],
    hidden: torch.Tensor,
    vocabulary_size: int,
    banned: int | None,
    truth: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of [m, hidden] states the best token, i64[m], and the log-probability of `truth`, f64[m] or None.

    truth: i64[m]. The banned token is never best; of equal logits the first index is, as in greedy decoding.

    Raises NotFinite at the first row whose largest logit, before anything is banned, or whose log-probability
    of the truth isn't finite.
    """
    best = torch.empty(len(hidden), dtype=torch.int64, device=hidden.device)
    likely = None if truth is None else torch.empty(len(hidden), dtype=torch.float64, device=hidden.device)
    step = max(1, LOGITS_PER_SLICE // vocabulary_size)
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        logits = compute_logits(hidden[rows])
        finite = None
        if truth is not None and likely is not None:
            exact = logits.float()
            chosen = exact.gather(1, truth[rows, None])[:, 0]
            likely[rows] = (chosen - torch.logsumexp(exact, dim=1)).double()
            finite = likely[rows].isfinite()
        if banned is not None:
            # NaN and +inf would have been the largest; -inf is what it becomes.
            fine = logits[:, banned] < torch.inf
            finite = fine if finite is None else finite & fine
            logits[:, banned] = -torch.inf
        # On a CPU argmax of 16-bit numbers takes four times as long as widening them, which keeps ties.
        wide = logits.float() if logits.device.type == "cpu" else logits
        best[rows] = wide.argmax(dim=1)
        largest = wide.gather(1, best[rows, None])[:, 0].isfinite()
        finite = largest if finite is None else finite & largest
        if not finite.all():
            raise NotFinite(start + int(finite.to(torch.uint8).argmin()))
    return best, likely


class LogitsWatch:
    """Looks at all logits that a model computes, where somebody else picks the tokens.

    Nothing waits for a GPU until `check`, which says whether any row since the last one wasn't finite.
    """

    def __init__(self, compute_logits: Callable[[torch.Tensor], Any]) -> None:
        self.unwatched = compute_logits
        self._finite: torch.Tensor | None = None

    def __call__(self, hidden: torch.Tensor) -> Any:
        """The logits of [m, hidden], or None on a rank that doesn't have them."""
        logits = self.unwatched(hidden)
        if logits is not None and len(logits):
            finite = logits.amax(dim=1).isfinite().all()
            self._finite = finite if self._finite is None else self._finite & finite
        return logits

    def check(self) -> None:
        """Raises EngineFailed if a row wasn't finite."""
        finite, self._finite = self._finite, None
        if finite is not None and not finite:
            raise EngineFailed(not_finite("a window of the block, while decoding"))


def unwatched(compute_logits: Callable[[torch.Tensor], Any]) -> Callable[[torch.Tensor], Any]:
    """What a LogitsWatch looks at, for who looks at the logits anyway; anything else as it is."""
    return compute_logits.unwatched if isinstance(compute_logits, LogitsWatch) else compute_logits


def watch(model: Any) -> None:
    """Put a LogitsWatch on what a model computes."""
    if not isinstance(model.compute_logits, LogitsWatch):
        model.compute_logits = LogitsWatch(model.compute_logits)


def check_watch(model: Any) -> None:
    """Raises EngineFailed if a row of logits wasn't finite since the last call."""
    model.compute_logits.check()
