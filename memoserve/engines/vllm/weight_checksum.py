"""Are these the weights? A sum that doesn't care how an engine arranges them.

The bit patterns of all parameter elements, in the engine's dtype, added up modulo 2^64: exact, and equal
however tensors are fused, transposed, padded with zeros or renamed.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from memoserve.engines.weights.parameters import NOT_A_PARAMETER, check_finite

_MODULUS = 1 << 64


def checksums_of_model(model: Any, dtype: str) -> tuple[int, int]:
    """Of a torch module's parameters: with shared ones counted once, and as often as they are used.

    Files hold tied weights in either way. vLLM's CPU build packs the weights of linear layers for its matrix
    product and drops the original: of these, what was kept when they were packed. Where nothing was,
    what such a layer makes of the identity matrix is its weights again, exactly.
    """
    from memoserve.engines.vllm.products import packed_weight

    packed = 0
    for module in model.modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.numel() == 0 and hasattr(module, "quant_method"):
            original = packed_weight(module)
            packed += checksum(_unpacked(module, weight)) if original is None else original.checksum
    sums: dict[int, int] = {}
    every = 0
    for _, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) not in sums:
            sums[id(parameter)] = checksum(in_dtype(parameter.data, dtype))
        every += sums[id(parameter)]
    return (packed + sum(sums.values())) % _MODULUS, (packed + every) % _MODULUS


def checksum_of_file_weights(folder: Path, dtype: str, ignored: Collection[str] = ()) -> int:
    """Of all *.safetensors in `folder` but for tensors named in `ignored`, after conversion to `dtype`.

    Raises EngineFailed for one that isn't finite.
    """
    from safetensors import safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  (not a mapping)
                if not NOT_A_PARAMETER.search(name) and name not in ignored:
                    tensor = in_dtype(opened.get_tensor(name), dtype)
                    check_finite(name, tensor, dtype)
                    total += checksum(tensor)
    return total % _MODULUS


def in_dtype(tensor: Any, dtype: str) -> Any:
    """A weight as an engine of that dtype holds it."""
    import torch

    return tensor.to(getattr(torch, dtype)) if tensor.is_floating_point() else tensor


def checksum(tensor: Any) -> int:
    """The sum of a tensor's bit patterns, modulo 2^64."""
    import torch

    bits = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
    # Adding zero makes -0 into 0, as a product with the identity does.
    return int((tensor.detach().contiguous() + 0).view(bits).sum(dtype=torch.int64)) % _MODULUS


def _unpacked(module: Any, weight: Any) -> Any:
    """The weights [in, out] of a linear layer from which vLLM's CPU build has packed and dropped `weight`."""
    import torch

    identity = torch.eye(module.input_size_per_partition, dtype=weight.dtype, device=weight.device)
    return module.quant_method.apply(module, identity, None)
