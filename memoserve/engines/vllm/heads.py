"""Which attention heads an engine can't compute here, without importing any. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""What vLLM's attention on a CPU takes: CPUAttentionBackend.get_supported_head_sizes in
vllm/v1/attention/backends/cpu_attn.py of vLLM 0.32."""


def unsupported_head_size(config: Mapping[str, Any], device: str) -> str | None:
    """Why vLLM on `device`, `cpu` or `cuda`, can't run the model that `config` (its config.json) describes.

    None where none is known: on a GPU vLLM has a way for every size.
    """
    size = head_size(config)
    if device != "cpu" or size is None or size in CPU_HEAD_SIZES:
        return None
    return (
        f"its attention heads are {size} numbers wide, and vLLM on a CPU takes "
        f"{', '.join(map(str, CPU_HEAD_SIZES))}"
    )


def head_size(config: Mapping[str, Any]) -> int | None:
    """The size of an attention head, or None where config.json doesn't say it or heads have several."""
    text: Mapping[str, Any] = config.get("text_config") or config
    if "kv_lora_rank" in text:  # heads of multi-head latent attention have parts of several sizes
        return None
    if text.get("head_dim"):
        return int(text["head_dim"])
    hidden = field(text, "hidden_size", "n_embd", "d_model")
    heads = field(text, "num_attention_heads", "n_head", "num_heads", "n_heads")
    return hidden // heads if hidden and heads else None


def field(text: Mapping[str, Any], *names: str) -> int | None:
    """The first of these fields of a config.json that is there."""
    found = [text[name] for name in names if text.get(name) is not None]
    return int(found[0]) if found else None
