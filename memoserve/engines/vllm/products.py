"""How a model's layers multiply on a CPU, and the proof of what they multiply by.

vLLM packs the weights of linear layers and of the LM head for its matrix product and drops the original of
the former. Whatever is packed can be left behind when weights are replaced: so what was packed is kept
(its checksum, and its product with known vectors), everything is packed anew after each replacement, and then
each layer has to multiply the known vectors right.

Which way a CPU multiplies is decided in memoserve.engines.vllm.tuning; here it is carried out.

Imported inside an engine process only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear, one_hot

from memoserve.engines.vllm.weight_checksum import checksum
from memoserve.errors import EngineFailed

_PACKED = "memoserve_packed"
_UNITS, _SIGNS = 8, 2
_SLICE = 1 << 18
"""Elements that are multiplied at a time to know a product: they stay in the processor's cache."""


@dataclass(frozen=True)
class Product:
    """torch's product with a float32 weight [out, in], rounded to `dtype`; takes the place of vLLM's."""

    weight: torch.Tensor
    dtype: torch.dtype

    def __call__(self, x: torch.Tensor, _: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Of [m, in]; the weight that vLLM passes may be empty."""
        return linear(x.float(), self.weight, None if bias is None else bias.float()).to(self.dtype)


@dataclass(frozen=True)
class Known:
    """What a weight [out, in] must make of the known vectors of its size.

    exact: of unit vectors, columns of the weight, [8, out] in its dtype. near: of random signs, [2, out] in
    float32, right but for rounding up to `tolerance` [out].
    """

    exact: torch.Tensor
    near: torch.Tensor
    tolerance: torch.Tensor

    @staticmethod
    def of(weight: torch.Tensor) -> Known:
        """By reading the weight once."""
        out, size = weight.shape
        units, signs = _vectors(size)
        signs = signs.to(weight.device)
        near = torch.empty(_SIGNS, out, device=weight.device)
        absolute = torch.empty(out, device=weight.device)
        step = max(1, _SLICE // size)
        for start in range(0, out, step):
            rows = weight[start : start + step].float()
            near[:, start : start + step] = signs @ rows.t()
            absolute[start : start + step] = rows.abs().sum(dim=1)
        # Sums of `size` numbers in float32, in another order, then rounded to the weight's dtype.
        tolerance = absolute * (size**0.5 * 4 * torch.finfo(torch.float32).eps)
        return Known(weight[:, units.to(weight.device)].t().contiguous(), near, tolerance)

    def agrees(self, multiply: Callable[[torch.Tensor], torch.Tensor], size: int) -> bool:
        """Whether a product of [m, size] makes that of them."""
        units, signs = _vectors(size)
        vectors = torch.cat([one_hot(units, size).float(), signs]).to(self.exact)
        found = multiply(vectors)
        exact, near = found[: len(units)].float(), found[len(units) :].float()
        # Packed products of 16 bits take numbers below the smallest normal one of float32 as zero.
        smallest, rounding, slack = 2.0**-126, 0.0, 1.0
        if found.dtype.itemsize < 4:
            rounding = torch.finfo(found.dtype).eps
        if found.device.type != "cpu":
            # There nothing is packed, and sums may be rounded in between (to TF32, or to 16 bit).
            smallest, rounding, slack = float(self.exact.abs().max()) * 2.0**-9, 2.0**-6, 2.0**12
        same = (exact - self.exact.float()).abs() <= smallest
        close = (near - self.near).abs() <= slack * self.tolerance + rounding * self.near.abs()
        return bool(same.all()) and bool(close.all())


@dataclass(frozen=True)
class PackedWeight:
    """Of a weight [out, in] that vLLM packs and drops."""

    checksum: int
    known: Known
    size: int


def install(packed: bool) -> None:
    """Record what vLLM in this process packs, or with `packed` false multiply by torch in float32.

    On a processor without AVX-512 the product that it packs for is slower than torch's own in float32 and
    falls back to a loop in 16 bit. Multiplied in float32 and rounded once at the end a 16-bit product is what
    the missing instructions do too: they add up in float32.
    """
    from vllm.model_executor.layers import utils

    pack = getattr(utils.dispatch_cpu_unquantized_gemm, "__wrapped__", utils.dispatch_cpu_unquantized_gemm)

    @functools.wraps(pack)
    def dispatch(layer: Any, remove_weight: bool) -> None:
        weight = layer.weight.data
        if weight.is_meta or weight.ndim != 2:
            pack(layer, remove_weight)
            return
        if remove_weight:
            setattr(layer, _PACKED, PackedWeight(checksum(weight), Known.of(weight), weight.shape[1]))
        if packed:
            pack(layer, remove_weight)
            return
        layer.cpu_linear = Product(weight.float(), weight.dtype)
        if remove_weight:
            layer.weight = nn.Parameter(weight.new_empty(0), requires_grad=False)

    utils.dispatch_cpu_unquantized_gemm = dispatch


def multiply_anew(model: nn.Module) -> None:
    """Pack anew what vLLM packed and kept: a tied LM head has no weights of its own that a file would bring,
    and vLLM packs only what it loads.
    """
    from vllm.model_executor.layers import utils

    for module in model.modules():
        weight = getattr(module, "weight", None)
        if "cpu_linear" in vars(module) and weight is not None and weight.numel():
            utils.dispatch_cpu_unquantized_gemm(module, remove_weight=False)


def check_products(model: nn.Module) -> int:
    """Let every layer with a product of its own multiply known vectors: how many there are.

    Raises EngineFailed, naming those that don't multiply by the weights that were loaded.
    """
    wrong, count = [], 0
    with torch.inference_mode():
        for name, module, known, size in _products(model):
            count += 1
            apply = functools.partial(module.quant_method.apply, module)
            if not known.agrees(apply, size):
                wrong.append(name)
    if wrong:
        raise EngineFailed(
            "the engine does not multiply by the weights that were loaded, in "
            f"{len(wrong)} of {count} layers: {', '.join(wrong[:5])}{' …' if len(wrong) > 5 else ''}"
        )
    return count


def _products(model: nn.Module) -> Iterator[tuple[str, Any, Known, int]]:
    """Name, module, what it must make of known vectors, their size."""
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        apply: Callable[..., Any] | None = getattr(getattr(module, "quant_method", None), "apply", None)
        if apply is None or not isinstance(weight, torch.Tensor) or weight.is_meta:
            continue
        if weight.ndim == 2:
            if not _looked_up_only(module):
                yield name, module, Known.of(weight.data), weight.shape[1]
        elif weight.numel() == 0 and (packed := packed_weight(module)) is not None:
            yield name, module, packed.known, packed.size


def _looked_up_only(module: Any) -> bool:
    """Of an embedding on a device where nothing is packed, which has no product to check."""
    return module.quant_method.__class__.__name__ == "UnquantizedEmbeddingMethod" and (
        module.weight.device.type == "cpu" and "cpu_linear" not in vars(module)
    )


def packed_weight(module: Any) -> PackedWeight | None:
    """What is known of a layer whose weight was packed and dropped."""
    packed: PackedWeight | None = vars(module).get(_PACKED)
    return packed


@functools.lru_cache(maxsize=64)
def _vectors(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which unit vectors i64[8], and random signs f32[2, size]; the same for every product of a size."""
    generator = torch.Generator().manual_seed(size)
    columns = torch.randperm(size, generator=generator)[:_UNITS]
    signs = torch.randint(0, 2, (_SIGNS, size), generator=generator) * 2 - 1
    return columns, signs.float()


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
