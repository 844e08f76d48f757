"""Are these the weights? A sum that doesn't care how an engine arranges them.

The bit patterns of all parameter elements, in the engine's dtype, added up modulo 2^64: exact, and equal
however tensors are fused, transposed, padded with zeros or renamed.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

# Buffers that older exports wrote among the weights (GPT-NeoX: the causal mask, rotary frequencies).
NOT_A_PARAMETER = re.compile(r"(rotary_emb\.inv_freq|attention\.(masked_)?bias)$")


def checksum_of_model(model: Any) -> int:
    """Of a torch module's parameters, shared ones once.

    vLLM's CPU build packs the weights of linear layers for its matrix product and drops the original;
    what such a layer makes of the identity matrix is its weights again, exactly.
    """
    total = sum(_checksum(parameter.data) for parameter in model.parameters())
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.numel() == 0 and hasattr(module, "quant_method"):
            total += _checksum(unpacked(module, weight))
    return total % (1 << 64)


def checksum_of_file_weights(folder: Path, dtype: str) -> int:
    """Of all *.safetensors in `folder`, after conversion to `dtype`."""
    import torch
    from safetensors import safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (not a mapping)
                if not NOT_A_PARAMETER.search(name):
                    total += _checksum(opened.get_tensor(name).to(getattr(torch, dtype)))
    return total % (1 << 64)


def unpacked(module: Any, weight: Any) -> Any:
    """The weights [in, out] of a linear layer from which vLLM's CPU build has packed and dropped `weight`."""
    import torch

    identity = torch.eye(module.input_size_per_partition, dtype=weight.dtype, device=weight.device)
    return module.quant_method.apply(module, identity, None)


def _checksum(tensor: Any) -> int:
    import torch

    bits = torch.int32 if tensor.element_size() == 4 else torch.int16
    # Adding zero makes -0 into 0, as a product with the identity does.
    return int((tensor.detach().contiguous() + 0).view(bits).sum(dtype=torch.int64))
