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
    vocabulary_size: int,
    banned: int | None,
    truth: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Of [m, hidden] states the best token, i64[m], and the log-probability of `truth`, f64[m] or None.

    truth: i64[m]. The banned token is never best; of equal logits the first index is, as in greedy decoding.
    """
    best = torch.empty(len(hidden), dtype=torch.int64, device=hidden.device)
    likely = None if truth is None else torch.empty(len(hidden), dtype=torch.float64, device=hidden.device)
    step = max(1, LOGITS_PER_SLICE // vocabulary_size)
    for start in range(0, len(hidden), step):
        rows = slice(start, start + step)
        logits = compute_logits(hidden[rows])
        if truth is not None and likely is not None:
            exact = logits.float()
            chosen = exact.gather(1, truth[rows, None])[:, 0]
            likely[rows] = (chosen - torch.logsumexp(exact, dim=1)).double()
        if banned is not None:
            logits[:, banned] = -torch.inf
        # On a CPU argmax of 16-bit numbers takes four times as long as widening them, which keeps ties.
        best[rows] = (logits.float() if logits.device.type == "cpu" else logits).argmax(dim=1)
    return best, likely
