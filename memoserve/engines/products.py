"""How a model's linear layers multiply on a CPU.

Which way is decided in memoserve.engines.tuning; here it is carried out. The weights themselves stay, for
vLLM to replace and the checksum to see.

Imported inside an engine process only.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from memoserve.engines.checksum import unpacked


def multiply_in_float32(model: nn.Module) -> None:
    """Let the linear layers of a vLLM model on a CPU multiply in float32, by torch.

    vLLM packs weights for oneDNN, which on a processor without AVX-512 is slower than torch's own product in
    float32 and falls back to a loop in 16 bit. Multiplied in float32 and rounded once at the end a 16-bit
    product is what the missing instructions do too: they add up in float32.

    To be called after every loading of weights, which makes vLLM choose each layer's product anew.
    """
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in model.modules():
        weight = getattr(module, "weight", None)
        if not isinstance(module, LinearBase | ParallelLMHead) or weight is None:
            continue
        if not weight.numel():
            weight.data = unpacked(module, weight).t().contiguous()
        if weight.ndim == 2:
            narrow = weight.dtype != torch.float32
            module.cpu_linear = _widened(weight.data.float(), weight.dtype) if narrow else linear


def has_plain_weights(module: Any) -> bool:
    """Whether a layer of vLLM's is nothing but a float32 product of a weight that it still has, on a CPU."""
    plain = getattr(module, "cpu_linear", None) is linear and module.tp_size == 1
    return plain and module.weight.dtype == torch.float32


def add_product(states: torch.Tensor, module: Any, x: torch.Tensor) -> torch.Tensor:
    """`states` [m, n] plus what a layer of vLLM's makes of x; in place where its weights are plain."""
    if not has_plain_weights(module):
        return module(x)[0] + states
    if module.bias is not None:
        states += module.bias
    return states.addmm_(x, module.weight.t())


def _widened(weight: torch.Tensor, dtype: torch.dtype) -> Any:
    def product(x: torch.Tensor, _: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        return linear(x.float(), weight, None if bias is None else bias.float()).to(dtype)

    return product
