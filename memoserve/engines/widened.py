"""Matrix products of 16-bit weights on a CPU that has no 16-bit arithmetic.

Without AVX-512 BF16 or FP16 (or AMX) a product of 16-bit matrices falls back to a loop that reaches a
twentieth of the processor's speed. Multiplied in float32 and rounded once at the end it is what the missing
instructions do too: they add up in float32. The weights themselves stay, for vLLM to replace and the checksum
to see.

Imported inside an engine process only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def lacks_arithmetic(dtype: torch.dtype) -> bool:
    """Whether this processor has no matrix product for `dtype`, as oneDNN sees it."""
    if dtype == torch.bfloat16:
        return not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype == torch.float16 and not torch.ops.mkldnn._is_mkldnn_fp16_supported()


def widen(model: nn.Module) -> None:
    """Let the linear layers of a vLLM model on a CPU multiply in float32 where it has nothing narrower.

    To be called after every loading of weights, which makes vLLM choose each layer's product anew.
    """
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        weight = getattr(module, "weight", None)
        # Empty where vLLM has packed it: then it found a product for this dtype.
        if not isinstance(module, LinearBase | ParallelLMHead) or weight is None or weight.ndim != 2:
            continue
        if not weight.numel() or not lacks_arithmetic(weight.dtype):
            continue
        module.cpu_linear = _product(weight.data.float(), weight.dtype)


def _product(weight: torch.Tensor, dtype: torch.dtype) -> Any:
    from vllm import _custom_ops as ops

    handler = ops.create_onednn_mm(weight.t(), 32)

    def product(x: torch.Tensor, _: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return ops.onednn_mm(handler, x.float(), None if bias is None else bias.float()).to(dtype)

    return product
