"""How a model's linear layers multiply on a CPU.

Which way is decided in memoserve.engines.tuning; here it is carried out. vLLM's parameters stay as they are:
it replaces them in place.

Imported inside an engine process only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear

from memoserve.engines.checksum import unpacked


@dataclass(frozen=True)
class Product:
    """torch's product with a float32 weight [out, in], rounded to `dtype`; takes the place of vLLM's."""

    weight: torch.Tensor
    dtype: torch.dtype

    def __call__(self, x: torch.Tensor, _: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Of [m, in]; the weight that vLLM passes may be empty."""
        return linear(x.float(), self.weight, None if bias is None else bias.float()).to(self.dtype)


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
        whole = weight.data if weight.numel() else unpacked(module, weight).t().contiguous()
        if whole.ndim == 2:
            module.cpu_linear = Product(whole.float(), weight.dtype)


def add_product(states: torch.Tensor, module: Any, x: torch.Tensor) -> torch.Tensor:
    """`states` [m, out] plus what a layer of vLLM's makes of x [m, in]; in place where that is exact."""
    weight = in_place_weight(module)
    if weight is None:
        output: torch.Tensor = module(x)[0] + states
        return output
    if module.bias is not None:
        states += module.bias
    return states.addmm_(x, weight.t())


def in_place_weight(module: Any) -> torch.Tensor | None:
    """The float32 weight of a layer that is nothing but a product with it, nowhere rounded to less."""
    product = getattr(module, "cpu_linear", None)
    if not isinstance(product, Product) or product.dtype != torch.float32 or module.tp_size > 1:
        return None
    return product.weight
