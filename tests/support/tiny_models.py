"""Tiny models of every family that is claimed, with random weights at which each field of a configuration
counts, and what Transformers makes of them in float64.

At the usual initialization attention is nearly uniform and the residual stream is little but the embedding:
a wrong rope base, window or scale is then below any tolerance. Here queries and keys are large enough for
attention to choose, and norms, biases and embeddings are of the order of what they add to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VOCABULARY = 512
HIDDEN = 64


@dataclass(frozen=True)
class Family:
    """A family of models that is claimed.

    config: the name of Transformers' configuration class; fields: what makes it tiny; mutations: by name
    fields that change results and no shape; refused: why vLLM 0.32 doesn't run it so, by (mode, tied); anew:
    whether it is tied that vLLM can't replace the weights in place, so that a fresh engine takes them;
    unsupported: what vLLM's own class of the family, which scores, says to a mutation that it refuses;
    ignored: (mode, mutation) that vLLM takes no notice of, so that the proof at an engine's start must;
    rounding: how much further than of others 16 bits lead away (Transformers' own forward as well).
    """

    name: str
    config: str
    fields: dict[str, Any] = field(default_factory=dict)
    mutations: dict[str, dict[str, Any]] = field(default_factory=dict)
    refused: dict[tuple[str, bool], str] = field(default_factory=dict)
    anew: bool | None = None
    unsupported: dict[str, str] = field(default_factory=dict)
    ignored: frozenset[tuple[str, str]] = frozenset()
    rounding: float = 1.0


_TINY = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GROUPED = _TINY | {"num_key_value_heads": 1}


def _rope(**changes: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, **changes}}


_SILU_ALONE = {"activation": "Only silu is supported"}

_BASE: dict[str, dict[str, Any]] = {"rope base": _rope(rope_theta=50.0)}
_ACT: dict[str, dict[str, Any]] = {"activation": {"hidden_act": "relu"}}
_EPS = {"eps": {"rms_norm_eps": 0.3}}
_LLAMA = (
    _BASE
    | _ACT
    | _EPS
    | {
        "rope scaling": _rope(rope_type="linear", factor=4.0),
        "llama3 rope": _rope(
            rope_type="llama3",
            factor=8.0,
            low_freq_factor=1.0,
            high_freq_factor=4.0,
            original_max_position_embeddings=32,
        ),
    }
)
_LAYER_NORM = {"eps": {"layer_norm_eps": 0.3}}
_WINDOW: dict[str, dict[str, Any]] = {"window": {"sliding_window": 8}}
_GEMMA = _BASE | {"eps": {"rms_norm_eps": 0.3}, "activation": {"hidden_activation": "relu"}}
_LAYERS = ["sliding_attention", "full_attention"]
_GEMMA2: dict[str, Any] = _GROUPED | {
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": 16,
    "layer_types": _LAYERS,
}

FAMILIES = {
    family.name: family
    for family in (
        Family(
            "gpt_neox",
            "GPTNeoXConfig",
            _TINY | _rope(partial_rotary_factor=0.25),
            {
                "rope base": _rope(partial_rotary_factor=0.25, rope_theta=50.0),
                "rotary share": _rope(partial_rotary_factor=1.0),
                "parallel residual": {"use_parallel_residual": False},
                "eps": {"layer_norm_eps": 0.3},
                "activation": {"hidden_act": "relu"},
            },
        ),
        Family("llama", "LlamaConfig", _GROUPED, _LLAMA, unsupported=_SILU_ALONE),
        Family(
            "mistral",
            "MistralConfig",
            _GROUPED | {"sliding_window": None},
            _BASE | _ACT | _EPS | _WINDOW,
            unsupported=_SILU_ALONE,
        ),
        Family("qwen2", "Qwen2Config", _GROUPED, _BASE | _ACT | _EPS, unsupported=_SILU_ALONE),
        Family(
            "qwen3",
            "Qwen3Config",
            _GROUPED | {"head_dim": 32},
            _BASE | _ACT | _EPS,
            unsupported=_SILU_ALONE,
        ),
        Family(
            "gemma2",
            "Gemma2Config",
            _GEMMA2,
            _GEMMA
            | _WINDOW
            | {
                "attention scale": {"query_pre_attn_scalar": 4},
                "attention cap": {"attn_logit_softcapping": 1.0},
                "logit cap": {"final_logit_softcapping": 2.0},
                "layer types": {"layer_types": _LAYERS[::-1]},
            },
            {("score", False): "no module or parameter named 'lm_head'"},
            unsupported={"activation": "Gemma2 uses `gelu_pytorch_tanh`"},
        ),
        Family(
            "gemma3",
            "Gemma3TextConfig",
            _GEMMA2,
            {
                "rope base": {
                    "rope_parameters": {
                        "full_attention": {"rope_type": "default", "rope_theta": 50.0},
                        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                    }
                },
                "local rope base": {
                    "rope_parameters": {
                        "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
                        "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
                    }
                },
                "eps": {"rms_norm_eps": 0.3},
                "activation": {"hidden_activation": "relu"},
                "attention scale": {"query_pre_attn_scalar": 4},
                "layer types": {"layer_types": _LAYERS[::-1]},
                **_WINDOW,
            },
            unsupported={"activation": "Activation function 'relu' is not supported"},
        ),
        Family(
            "opt",
            "OPTConfig",
            {
                "vocab_size": VOCABULARY,
                "hidden_size": HIDDEN,
                "word_embed_proj_dim": HIDDEN,
                "ffn_dim": 128,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "max_position_embeddings": 128,
                "bos_token_id": 0,
                "eos_token_id": 0,
                "pad_token_id": 0,
            },
            {"activation": {"activation_function": "gelu"}},
        ),
        Family(
            "gpt2",
            "GPT2Config",
            {
                "vocab_size": VOCABULARY,
                "n_embd": HIDDEN,
                "n_layer": 2,
                "n_head": 2,
                "n_positions": 128,
                "bos_token_id": 0,
                "eos_token_id": 0,
            },
            {
                "eps": {"layer_norm_epsilon": 0.3},
                "activation": {"activation_function": "relu"},
                "attention scale": {"scale_attn_weights": False},
                "attention scale by layer": {"scale_attn_by_inverse_layer_idx": True},
            },
            {
                ("extract", tied): "not initialized from checkpoint"  # of its fused Conv1D
                for tied in (False, True)
            },
            unsupported={"attention scale by layer": "scale_attn_by_inverse_layer_idx"},
            ignored=frozenset({("score", "attention scale")}),
        ),
        Family(
            "smollm3",
            "SmolLM3Config",
            _GROUPED | {"no_rope_layers": [1, 0]},
            _BASE | _ACT | _EPS | {"layers without rope": {"no_rope_layers": [0, 1]}},
        ),
        Family("olmo", "OlmoConfig", _GROUPED, _BASE | _ACT | {"clip": {"clip_qkv": 0.5}}),
        Family("olmo2", "Olmo2Config", _GROUPED, _BASE | _ACT | _EPS),
        Family(
            "phi",
            "PhiConfig",
            _TINY | _rope(partial_rotary_factor=0.5),
            {
                "rope base": _rope(partial_rotary_factor=0.5, rope_theta=50.0),
                "rotary share": _rope(partial_rotary_factor=1.0),
            }
            | _ACT
            | _LAYER_NORM,
            anew=True,  # its head has a bias of its own, with which vLLM overwrites the tied weight
        ),
        Family(
            "stablelm",
            "StableLmConfig",
            _GROUPED | _rope(partial_rotary_factor=0.25),
            {"rotary share": _rope(partial_rotary_factor=1.0)} | _ACT | _LAYER_NORM,
            ignored=frozenset({("score", "activation")}),
        ),
        Family(
            "granite",
            "GraniteConfig",
            _GROUPED,
            _BASE
            | _ACT
            | _EPS
            | {
                "attention scale": {"attention_multiplier": 0.5},
                "embedding scale": {"embedding_multiplier": 3.0},
                "residual scale": {"residual_multiplier": 0.4},
                "logits scale": {"logits_scaling": 3.0},
            },
            unsupported=_SILU_ALONE,
            ignored=frozenset({("extract", "logits scale")}),
            rounding=2.0,
        ),
    )
}


def make(
    family: str, folder: Path, seed: int = 1, tied: bool = False, changes: dict[str, Any] | None = None
) -> Path:
    """A model of that family in `folder`, with `changes` in its config.json. Equal seeds, equal weights."""
    import torch
    import transformers

    kind = FAMILIES[family]
    fields = kind.fields | (changes or {}) | {"tie_word_embeddings": tied}
    config = getattr(transformers, kind.config)(**fields)
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    embeddings = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            random = torch.randn(parameter.shape, generator=generator)
            if id(parameter) in embeddings:
                random *= 0.3 if tied else 0.5
            elif parameter.ndim > 1:
                random *= 1.6 / math.sqrt(HIDDEN)
            elif "norm" in name or "ln_" in name:
                # Gemma's norms add one to their weight.
                one = 0.0 if family.startswith("gemma") or name.endswith("bias") else 1.0
                random = one + 0.3 * random
            else:
                random *= 0.3
            parameter.copy_(random)
    model.save_pretrained(folder)
    return folder


def windows(number: int = 24, seed: int = 0) -> NDArray[np.uint32]:
    """Random windows u32[n, 64] without token 0."""
    return np.random.default_rng(seed).integers(1, VOCABULARY, (number, 64), dtype=np.uint32)


def logliks(folder: Path, rows: NDArray[np.uint32], dtype: str = "float32") -> NDArray[np.float64]:
    """Log-likelihoods f64[n] of the last 32 tokens, in nats, by Transformers' eager attention in float64.

    The weights are rounded to `dtype` first.
    """
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=getattr(torch, dtype), attn_implementation="eager"
    )
    model = model.double().eval()
    tokens = torch.from_numpy(rows.astype(np.int64))
    with torch.no_grad():
        chances = model(tokens[:, :-1]).logits.double().log_softmax(dim=-1)
    truth = tokens[:, -32:, None]
    return np.asarray(chances[:, -32:].gather(2, truth)[..., 0].sum(dim=1).numpy(), dtype=np.float64)
