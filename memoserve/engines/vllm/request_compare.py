"""The comparison by requests, for every causal model that vLLM runs: stage by stage through its scheduler.

The model is a pooling model (memoserve.engines.vllm.extract_model); a later stage finds its window's context
in vLLM's prefix cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

CACHED_BLOCK = 32
"""Tokens in a block of the prefix cache: the CPU kernels want multiples of 32, and a context is one block."""


def advance(
    llm: Any, windows: NDArray[np.uint32], context: int, stages: tuple[int, ...], loglik: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.float64] | None]:
    """Matched prefixes u8[n] of u32[n, context + 32] windows, and log-likelihoods f64[n] if it has them.

    `loglik` asks an engine for them that doesn't give them to all, with the single stage 32.
    """
    prefix = np.zeros(len(windows), dtype=np.uint8)
    likely = np.zeros(len(windows), dtype=np.float64)
    alive = np.arange(len(windows))
    matched = 0
    for stage in stages:
        beginnings = windows[alive, : context + stage]
        found = _compare(llm, beginnings, alive, matched, loglik)
        unknown = np.isnan(found[:, 0])
        if unknown.any():
            found[unknown] = _compare(llm, beginnings[unknown], alive[unknown], 0, loglik)
        prefix[alive] = found[:, 0].astype(np.uint8)
        likely[alive] = found[:, -1]
        with_likelihood = found.shape[1] == 2
        alive, matched = alive[found[:, 0] == stage], stage
        if not len(alive):
            break
    return prefix, likely if with_likelihood else None


def _compare(
    llm: Any, beginnings: NDArray[np.uint32], numbers: NDArray[np.int64], matched: int, loglik: bool
) -> NDArray[np.float64]:
    """f64[n, 1 or 2] of u32[n, m] beginnings of windows i64[n]: matched prefix, and log-likelihood.

    `matched` continuation tokens of each are known to match; with none, the prefix cache is not read.
    """
    from vllm import PoolingParams

    parameters = [
        PoolingParams(
            task="plugin",
            skip_reading_prefix_cache=matched == 0,
            extra_kwargs={"matched": matched, "window": number, "loglik": loglik},
        )
        for number in numbers.tolist()
    ]
    prompts = [{"prompt_token_ids": row} for row in beginnings.tolist()]
    outputs = llm.encode(prompts, parameters, pooling_task="plugin", use_tqdm=False)
    return np.stack([output.outputs.data.numpy() for output in outputs])
