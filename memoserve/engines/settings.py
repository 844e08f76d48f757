"""What an engine is started with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verify = Literal["start", "every"]
Mode = Literal["score", "extract"]


@dataclass(frozen=True)
class EngineSettings:
    """Everything that shapes results or speed, but for the weights.

    engine: its name in memoserve.engines.registry. mode: `score` gives the full match mask, by greedy
    generation; `extract` the matched prefix alone, by one forward pass over the true tokens. context: tokens
    of context (k). dtype: `float32`, `float16` or `bfloat16`. banned_token_id: the one token that may never
    be generated, or None. device: `cpu` or `cuda`. loglik: also the continuation's log-likelihood (`extract`;
    it needs every token, so it switches the ladder off). ladder: check a few tokens of every window first.
    deterministic: results don't depend on how windows are batched. tensor_parallel: devices that share one
    engine. block: windows handed to the engine at a time. allow_pickle: also load `.bin` weights, which can
    run code of their author. verify: when a few windows also go through Transformers' eager forward: at an
    engine's start and first switch of weights, or at every switch.
    """

    engine: str
    mode: Mode
    context: int
    dtype: str
    banned_token_id: int | None
    device: str
    loglik: bool = False
    ladder: bool = True
    deterministic: bool = False
    tensor_parallel: int = 1
    block: int = 1024
    allow_pickle: bool = False
    verify: Verify = "start"
