"""From hidden states to the best tokens, and to how likely the true ones were. In an engine process only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

LOGITS_PER_SLICE = 1 << 22
"""Logits held at a time: positions pass the LM head in slices, so that logits never dominate memory."""


def best_tokens(
    compute_logits: Callable[[torch.Tensor], Any],
    hidden: torch.Tensor,
    truth: torch.Tensor,
    vocabulary_size: int,
    banned: int | None,
    loglik: bool,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of [m, hidden] states the best token, i64[m], and the true token's log-probability, f64[m] or None.

    truth: i64[m]. The banned token is never best; of equal logits the first index is, as in greedy decoding.
    """
    best = torch.empty_like(truth)
    likely = torch.empty(truth.shape, dtype=torch.float64, device=truth.device) if loglik else None
    step = max(1, LOGITS_PER_SLICE // vocabulary_size)
    for start in range(0, len(truth), step):
        rows = slice(start, start + step)
        logits = compute_logits(hidden[rows])
        if likely is not None:
            exact = logits.float()
            chosen = exact.gather(1, truth[rows, None])[:, 0]
            likely[rows] = (chosen - torch.logsumexp(exact, dim=1)).double()
        if banned is not None:
            logits[:, banned] = -torch.inf
        best[rows] = logits.argmax(dim=1)
    return best, likely
