"""Which sizes of attention heads vLLM can run on a device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""vLLM 0.32, CPUAttentionBackend.get_supported_head_sizes in vllm/v1/attention/backends/cpu_attn.py."""


def unsupported_head_size(config: Mapping[str, Any], device: str) -> str | None:
    """Why vLLM can't run a model on `device` (`cpu` or `cuda`), or None if its heads are no reason.

    config: of the text model. On GPUs some backend of vLLM takes any size that models have.
    """
    try:
        size = int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    if device != "cpu" or size in CPU_HEAD_SIZES:
        return None
    sizes = ", ".join(map(str, CPU_HEAD_SIZES))
    return f"its attention heads have {size} dimensions, and vLLM on a CPU has attention for {sizes}"
