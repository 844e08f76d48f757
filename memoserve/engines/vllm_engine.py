"""vLLM, the default engine: greedy generation, or one comparing forward pass, from token ids alone."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.engines.checksum import checksum_of_file_weights, checksum_of_model
from memoserve.engines.ladder import choose_rungs, survival
from memoserve.engines.matches import CONTINUATION, Matches, matches_of
from memoserve.engines.plugin import ENABLED, extracting, register
from memoserve.engines.settings import EngineSettings
from memoserve.errors import EngineFailed

log = logging.getLogger("memoserve.engines.vllm")

_CPU_KV_CACHE = 1 << 30
"""Bytes of KV cache on a CPU. Windows are short, so that a full batch of the largest model that a CPU is used
for fits; saying it also spares the start-up its profiling run."""

_CACHED_BLOCK = 32
"""Tokens in a block of the prefix cache: the CPU kernels want multiples of 32, and a context is one block."""

_REQUEST_IN_TOKENS = 6.0
"""What a request costs beside its tokens, in tokens: 0.3 ms measured, where a token takes 0.05 ms."""


class VllmEngine:
    """Matches by vLLM. Lives in an engine process, with vLLM's core in that same process."""

    def __init__(self, settings: EngineSettings, folder: Path) -> None:
        self.settings = settings
        set_environment()
        from vllm import LLM

        register()
        cpu = settings.device == "cpu"
        options: dict[str, Any] = {}
        if cpu:
            options["kv_cache_memory_bytes"] = _CPU_KV_CACHE
        if settings.mode == "extract":
            architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
            options |= {
                "runner": "pooling",
                "hf_overrides": {"architectures": extracting(architecture)},
                "additional_config": {
                    "context": settings.context,
                    "banned": settings.banned_token_id,
                    "loglik": settings.loglik,
                },
                "block_size": _CACHED_BLOCK,
                "enable_chunked_prefill": False,  # a window is compared whole
            }
        self._llm: Any = LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            dtype=settings.dtype,
            max_model_len=settings.context + CONTINUATION,
            tensor_parallel_size=settings.tensor_parallel,
            load_format="auto" if settings.allow_pickle else "safetensors",
            trust_remote_code=False,
            # Compiling takes longer than a small model's whole evaluation; CUDA graphs pay on a GPU.
            enforce_eager=cpu,
            # A rung of the ladder finds its window's context there. Nothing else is ever asked twice.
            enable_prefix_caching=self._has_ladder,
            max_num_seqs=256 if cpu else 1024,
            max_num_batched_tokens=8192 if cpu else 32768,
            disable_log_stats=True,
            seed=0,
            **options,
        )
        self._forget()
        self._reload_is_verifiable = self._holds(folder)
        if not self._reload_is_verifiable:
            log.warning("these weights can't be verified in place: each checkpoint starts an engine anew")

    @property
    def _has_ladder(self) -> bool:
        return self.settings.mode == "extract" and self.settings.ladder and not self.settings.loglik

    def load(self, folder: Path) -> None:
        """Put the weights of `folder` in place, and verify that they are in.

        Raises EngineFailed if they are not, or if this architecture can't be verified: then the caller
        starts a new engine.
        """
        if not self._reload_is_verifiable:
            raise EngineFailed("weights can't be replaced in this engine")
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        if not self._holds(folder):
            raise EngineFailed(f"the weights of {folder} did not arrive in the engine")
        self._forget()

    def _forget(self) -> None:
        """Drop what belongs to the weights before: cached states, and how many windows survived."""
        if self._has_ladder and not self._llm.reset_prefix_cache():
            raise EngineFailed("vLLM did not clear its prefix cache")
        self._survivals = np.zeros(CONTINUATION + 1)
        self._seen = 0

    def evaluate(self, windows: NDArray[np.uint32]) -> Matches:
        """Matches of u32[n, context + 32] windows."""
        context = self.settings.context
        if self.settings.mode == "score":
            return matches_of(self.generate(windows[:, :context]), windows[:, context:])
        if self.settings.loglik:
            result = self._compare(windows, 0)
            return Matches(result[:, 0].astype(np.uint8), None, result[:, 1].astype(np.float32))
        return Matches(self._climb(windows))

    def generate(self, contexts: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The greedy continuations u32[n, 32] of u32[n, context] contexts."""
        from vllm import SamplingParams

        banned = self.settings.banned_token_id
        greedy = SamplingParams(
            temperature=0,
            max_tokens=CONTINUATION,
            ignore_eos=True,
            detokenize=False,
            # vLLM masks stop tokens until min_tokens are out, which is all 32: the banned logit is -inf.
            min_tokens=CONTINUATION if banned is not None else 0,
            stop_token_ids=None if banned is None else [banned],
        )
        outputs = self._llm.generate(_prompts(contexts), greedy, use_tqdm=False)
        return np.array([output.outputs[0].token_ids for output in outputs], dtype=np.uint32)

    def _climb(self, windows: NDArray[np.uint32]) -> NDArray[np.uint8]:
        """Matched prefixes, rung by rung; the first windows of a checkpoint are checked whole."""
        context = self.settings.context
        rungs: tuple[int, ...] = (CONTINUATION,)
        if self._has_ladder and self._seen:
            rungs = choose_rungs(self._survivals / self._seen, context, _CACHED_BLOCK, _REQUEST_IN_TOKENS)
        prefix = np.zeros(len(windows), dtype=np.uint8)
        alive = np.arange(len(windows))
        matched = 0
        for rung in rungs:
            beginnings = windows[alive, : context + rung]
            found = self._compare(beginnings, matched)[:, 0]
            unknown = np.isnan(found)
            if unknown.any():
                found[unknown] = self._compare(beginnings[unknown], 0)[:, 0]
            prefix[alive] = found.astype(np.uint8)
            alive, matched = alive[found == rung], rung
            if not len(alive):
                break
        self._survivals += survival(prefix) * len(prefix)
        self._seen += len(prefix)
        return prefix

    def _compare(self, beginnings: NDArray[np.uint32], matched: int) -> NDArray[np.float64]:
        """f64[n, 1 or 2] of u32[n, m] beginnings of windows: matched prefix, and log-likelihood if asked.

        `matched` continuation tokens of each are known to match; with none, the prefix cache is not read.
        """
        from vllm import PoolingParams

        parameters = PoolingParams(
            task="plugin", skip_reading_prefix_cache=matched == 0, extra_kwargs={"matched": matched}
        )
        outputs = self._llm.encode(_prompts(beginnings), parameters, pooling_task="plugin", use_tqdm=False)
        return np.stack([output.outputs.data.numpy() for output in outputs])

    def _holds(self, folder: Path) -> bool:
        if self.settings.tensor_parallel > 1 or self.settings.allow_pickle:
            return False  # replicated parameters would count once per rank; pickles have no lazy tensors
        held = self._llm.apply_model(checksum_of_model)[0]
        return bool(held == checksum_of_file_weights(folder, self.settings.dtype))


def _prompts(tokens: NDArray[np.uint32]) -> list[dict[str, list[int]]]:
    return [{"prompt_token_ids": row} for row in tokens.tolist()]


def set_environment() -> None:
    """What vLLM reads from the environment, set before it is imported; the user's own values stay."""
    for name, value in {
        ENABLED: "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # The engine process is ours alone: a further process for vLLM's core only costs start-up.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # vLLM keeps one core for itself by default, half of a small machine.
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    }.items():
        os.environ.setdefault(name, value)
