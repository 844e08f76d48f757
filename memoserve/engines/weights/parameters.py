"""Which tensors of a file are parameters, and whether their numbers can be used."""

from __future__ import annotations

import re
from typing import Any

from memoserve.errors import EngineFailed

# Buffers that older exports wrote among the weights (GPT-NeoX: the causal mask, rotary frequencies).
NOT_A_PARAMETER = re.compile(r"(rotary_emb\.inv_freq|attention\.(masked_)?bias)$")


def check_finite(name: str, tensor: Any, dtype: str) -> None:
    """Raises EngineFailed if a weight is NaN or infinite. A bias may be -inf: that bans a token."""
    if not tensor.is_floating_point() or not tensor.numel():
        return
    low, high = (float(value) for value in tensor.aminmax())
    if not high < float("inf") or (low == -float("inf") and tensor.ndim > 1):
        wrong = int((~tensor.isfinite()).sum())
        raise EngineFailed(
            f"{wrong} of {tensor.numel()} numbers of the tensor {name} are not finite (NaN or infinity) in "
            f"{dtype}: these weights are damaged or diverged, or too large for this dtype"
        )
