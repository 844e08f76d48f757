"""How an engine is set up, derived from the model and the machine; each choice with its reason.

Nothing here imports torch: `memoserve doctor` shows it without starting an engine.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memoserve.domain import CONTINUATION
from memoserve.engines.settings import EngineSettings
from memoserve.engines.vllm.heads import field
from memoserve.errors import EngineFailed

FIXED_BATCH = 128
"""Windows in a batch when results must not depend on batches."""

OURS = "GPTNeoXForCausalLM"
"""The architecture that memoserve.engines.vllm.neox has in vLLM's layers; others go through requests."""

_PASS_TOKENS = {"cpu": 4096, "cuda": 65536}
_COMPARE_WINDOWS = {"cpu": 512, "cuda": 1024}
_DECODE_WINDOWS = 256
_KEPT_BYTES = 1 << 29
_ITEM_SIZE = {"float32": 4, "float16": 2, "bfloat16": 2}
_INSTRUCTIONS = {
    "float32": ("avx512f", "asimd"),
    "bfloat16": ("avx512_bf16", "amx_bf16", "bf16"),
    "float16": ("avx512_fp16", "amx_fp16", "asimdhp"),
}
"""Flags of /proc/cpuinfo, x86's and Arm's: with one of these vLLM's packed product is the faster one."""

PRODUCTS = "MEMOSERVE_CPU_PRODUCTS"
"""The environment variable that says how a CPU multiplies, `packed` or `torch`, whatever it can do."""


@dataclass(frozen=True)
class TuningChoice:
    """One choice, as `memoserve doctor` prints it."""

    name: str
    value: str
    reason: str


@dataclass(frozen=True)
class Tuning:
    """pass_tokens: tokens of one comparing pass. compare_windows: windows that are compared together, in
    several passes, of which what remains advances together. decode_windows: windows whose generations are
    decoded together after it, 0 where vLLM's scheduler decodes. by_requests: the comparison goes through
    vLLM's scheduler, window by window. sequences, batched_tokens, kv_cache_bytes: vLLM's max_num_seqs,
    max_num_batched_tokens, kv_cache_memory_bytes (None: vLLM measures). eager: neither compiled nor captured.
    """

    pass_tokens: int
    compare_windows: int
    decode_windows: int
    by_requests: bool
    sequences: int
    batched_tokens: int
    kv_cache_bytes: int | None
    eager: bool
    settings: tuple[TuningChoice, ...]


def tune(settings: EngineSettings, config: Mapping[str, Any]) -> Tuning:
    """The set-up for the model that `config` (its config.json) describes. Raises KeyError if it doesn't."""
    cpu = settings.device == "cpu"
    ours = (config.get("architectures") or [""])[0] == OURS
    window = _cache_of_window(settings, config.get("text_config") or config)
    notes = _of_processor(settings.dtype) if cpu else []
    compare_windows, pass_tokens = _comparison(settings, ours, window, notes)
    decode_windows = _decoding(settings, ours, window, notes) if settings.mode == "score" else 0
    # What vLLM's own scheduler gets. Saying the size of its cache spares the start-up a profiling run.
    sequences, tokens = (256, 8192) if cpu else (1024, 32768)
    if settings.deterministic:
        sequences, tokens = FIXED_BATCH, FIXED_BATCH * (settings.context + CONTINUATION)
    notes.append(
        _choice("max_num_seqs", sequences, "requests in flight in vLLM's scheduler, where it is used")
    )
    reason = "so many fit one step; more adds latency, not speed"
    notes.append(_choice("max_num_batched_tokens", tokens, reason))
    kv_cache_bytes = 1 << 30 if cpu else None
    if kv_cache_bytes:
        reason = "windows are short; saying it spares a profiling run at the start"
        notes.append(_choice("kv_cache_memory_bytes", kv_cache_bytes, reason))
    reason = (
        "compiling takes longer than a small model's whole evaluation"
        if cpu
        else "captured graphs pay on a GPU"
    )
    notes.append(_choice("enforce_eager", cpu, reason))
    return Tuning(
        pass_tokens,
        compare_windows,
        decode_windows,
        not ours and settings.mode == "extract",
        sequences,
        tokens,
        kv_cache_bytes,
        cpu,
        tuple(notes),
    )


def _choice(name: str, value: object, reason: str) -> TuningChoice:
    return TuningChoice(name, f"{value:,}" if type(value) is int else str(value), reason)


def _of_processor(dtype: str) -> list[TuningChoice]:
    threads = len(os.sched_getaffinity(0))
    return [
        _choice("threads", threads, "every core computes; vLLM would keep one for itself"),
        _choice("products", *_products(dtype)),
        _choice("freed memory", "kept", "given back and asked for again, every page of it costs a fault"),
    ]


def _cache_of_window(settings: EngineSettings, text: Mapping[str, Any]) -> int:
    """Bytes of the keys and values of one window. Raises KeyError."""
    layers = field(text, "num_hidden_layers", "n_layer", "num_layers", "n_layers")
    hidden = field(text, "hidden_size", "n_embd", "d_model")
    if layers is None or hidden is None:
        raise KeyError("num_hidden_layers" if layers is None else "hidden_size")
    return 2 * layers * hidden * (settings.context + CONTINUATION - 1) * _ITEM_SIZE[settings.dtype]


def _comparison(
    settings: EngineSettings, ours: bool, window: int, notes: list[TuningChoice]
) -> tuple[int, int]:
    """Windows compared together and tokens a pass, with the reasons added to `notes`."""
    cpu = settings.device == "cpu"
    pass_tokens = _PASS_TOKENS[settings.device]
    compare_windows = _COMPARE_WINDOWS[settings.device]
    if cpu:
        compare_windows = min(compare_windows, _kept(window))
    if settings.deterministic:
        reason = "--deterministic: rounding depends on a batch's shape, so all have one"
        notes.append(_choice("windows a pass", FIXED_BATCH, reason))
        return FIXED_BATCH, FIXED_BATCH * (settings.context + CONTINUATION)
    if ours:
        reason = "enough rows for full speed of the products"
        reason += ", whose results stay in the processor's cache" if cpu else ""
        notes.append(_choice("tokens a pass", pass_tokens, reason))
        reason = "what remains of several passes advances together, so that a stage has enough rows; "
        reason += f"keys and values take {window / 1e6:.1f} MB a window"
        notes.append(_choice("windows compared together", compare_windows, reason))
    elif settings.mode == "extract":
        reason = "this architecture runs through vLLM's scheduler, one request a window"
        notes.append(_choice("comparison", "by requests", reason))
    return compare_windows, pass_tokens


def _decoding(settings: EngineSettings, ours: bool, window: int, notes: list[TuningChoice]) -> int:
    """Windows decoded together, 0 where vLLM's scheduler decodes, with the reason added to `notes`."""
    if settings.device != "cpu" or not ours or settings.deterministic:
        reason = "--deterministic, another architecture, or a GPU with captured graphs"
        notes.append(_choice("decoding", "vLLM's scheduler", reason))
        return 0
    windows = min(_DECODE_WINDOWS, _kept(window))
    reason = f"one step reads all weights once; keys and values take {window / 1e6:.1f} MB a window, "
    reason += f"{_KEPT_BYTES >> 20} MiB at most"
    notes.append(_choice("windows decoded together", windows, reason))
    return windows


def _kept(window: int) -> int:
    return max(1, _KEPT_BYTES // window)


def packed_products(dtype: str) -> bool:
    """Whether a CPU multiplies by the product that vLLM packs weights for; else by torch's in float32.

    The environment variable MEMOSERVE_CPU_PRODUCTS, `packed` or `torch`, decides it otherwise than the
    processor does. Raises EngineFailed for another value.
    """
    forced = os.environ.get(PRODUCTS, "")
    if forced not in ("", "packed", "torch"):
        raise EngineFailed(f"{PRODUCTS} is {forced!r}: it may be packed or torch, or not set")
    if forced:
        return forced == "packed"
    cpu = Path("/proc/cpuinfo")
    flags = cpu.read_text(errors="replace").split() if cpu.exists() else []
    return any(flag in flags for flag in _INSTRUCTIONS[dtype])


def _products(dtype: str) -> tuple[str, str]:
    """In which precision a CPU multiplies, and why."""
    packed = packed_products(dtype)
    if os.environ.get(PRODUCTS):
        return f"{dtype}, packed" if packed else "float32, by torch", f"{PRODUCTS} says so"
    if packed:
        return f"{dtype}, packed", "this processor has the instructions"
    if dtype == "float32":
        return "float32, by torch", "without AVX-512 faster than the product that vLLM packs weights for"
    return (
        "float32, by torch",
        f"this processor has no {dtype} products; multiplied in float32, rounded to {dtype} once",
    )
