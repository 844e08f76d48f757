"""Rotary embeddings on a CPU, where vLLM's kernel can't take the shape. In an engine process only."""

from __future__ import annotations

from typing import Any

import torch
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding

_VECTOR = 8
"""Elements that vLLM's kernel stores at a time; in 16 bit only at multiples of their 16 bytes."""

_by_kernel = RotaryEmbedding.forward_cpu


def kernel_takes(head_size: int, rotary_size: int, dtype: torch.dtype, is_neox_style: bool = True) -> bool:
    """Whether vLLM's CPU kernel rotates such heads.

    Its loop stores vectors behind the first half of the rotated part (csrc/cpu/pos_encoding.cpp): where that
    is an odd number of elements of 16 bit, as with a quarter of a head of 80, it is a segmentation fault.
    """
    aligned = rotary_size // 2 % _VECTOR == 0 and head_size % _VECTOR == 0
    return aligned or not is_neox_style or dtype.itemsize > 2


def rotate(
    positions: torch.Tensor, states: torch.Tensor, head_size: int, cache: torch.Tensor
) -> torch.Tensor:
    """What vLLM's kernel makes of [tokens, heads * head size] at [tokens] positions, in place.

    cache: [positions, rotated size], cosines and sines. Computed in float32 and rounded once, as there.
    """
    cosine, sine = cache.index_select(0, positions.flatten()).float()[:, None].chunk(2, dim=-1)
    heads = states.unflatten(-1, (-1, head_size))
    first, second = heads[..., : cache.shape[1]].float().chunk(2, dim=-1)
    half = cache.shape[1] // 2
    # Both before either is written: in float32 they are the states themselves.
    rotated = first * cosine - second * sine, second * cosine + first * sine
    heads[..., :half], heads[..., half : 2 * half] = rotated
    return states


def install() -> None:
    """Let every rotary embedding of vLLM's on a CPU rotate by torch what the kernel can't take."""

    def forward_cpu(
        self: Any, positions: torch.Tensor, query: torch.Tensor, key: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if kernel_takes(self.head_size, self.rotary_dim, query.dtype, self.is_neox_style):
            result: tuple[torch.Tensor, torch.Tensor | None] = _by_kernel(self, positions, query, key)
            return result
        cache = self._match_cos_sin_cache_dtype(query)
        rotate(positions, query, self.head_size, cache)
        return query, None if key is None else rotate(positions, key, self.head_size, cache)

    RotaryEmbedding.forward_cpu = forward_cpu
