"""What an engine is started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

EngineName = Literal["vllm", "transformers"]
Mode = Literal["score"]


@dataclass(frozen=True)
class EngineSettings:
    """Everything that shapes results or speed, but for the weights.

    context: tokens of context (k). dtype: `float32`, `float16` or `bfloat16`. banned_token_id: the one
    token that may never be generated, or None. tensor_parallel: devices that share one engine.
    block: windows handed to the engine at a time. device: `cpu` or `cuda`. allow_pickle: also load
    `.bin` weights, which can run code of their author.
    """

    engine: EngineName
    mode: Mode
    context: int
    dtype: str
    banned_token_id: int | None
    device: str
    tensor_parallel: int = 1
    block: int = 1024
    allow_pickle: bool = False
