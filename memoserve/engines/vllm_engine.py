"""vLLM, the default engine: continuous batching of greedy generations from token ids alone."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.engines.checksum import checksum_of_file_weights, checksum_of_model
from memoserve.engines.matches import CONTINUATION, Matches, matches_of
from memoserve.engines.settings import EngineSettings
from memoserve.errors import EngineFailed

log = logging.getLogger("memoserve.engines.vllm")

_CPU_KV_CACHE = 1 << 30
"""Bytes of KV cache on a CPU. Generations are 64 tokens long, so that a full batch of the largest model
that a CPU is used for fits; saying it also spares the start-up its profiling run."""


class VllmEngine:
    """Greedy generation by vLLM. Lives in an engine process, with vLLM's core in that same process."""

    def __init__(self, settings: EngineSettings, folder: Path) -> None:
        self.settings = settings
        set_environment(settings)
        from vllm import LLM

        options: dict[str, Any] = {}
        if settings.device == "cpu":
            options["kv_cache_memory_bytes"] = _CPU_KV_CACHE
        self._llm: Any = LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            dtype=settings.dtype,
            max_model_len=settings.context + CONTINUATION,
            tensor_parallel_size=settings.tensor_parallel,
            load_format="auto" if settings.allow_pickle else "safetensors",
            trust_remote_code=False,
            # Compiling takes longer than a small model's whole evaluation; CUDA graphs pay on a GPU.
            enforce_eager=settings.device == "cpu",
            # No window shares a prefix worth keeping, and another checkpoint's cache must never be hit.
            enable_prefix_caching=False,
            max_num_seqs=256 if settings.device == "cpu" else 1024,
            max_num_batched_tokens=8192 if settings.device == "cpu" else 32768,
            disable_log_stats=True,
            seed=0,
            **options,
        )
        self._reload_is_verifiable = self._holds(folder)
        if not self._reload_is_verifiable:
            log.warning(
                "weights of this architecture can't be verified in place: each checkpoint starts anew"
            )

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

    def evaluate(self, windows: NDArray[np.uint32]) -> Matches:
        """Matches of u32[n, context + 32] windows."""
        context = self.settings.context
        return matches_of(self.generate(windows[:, :context]), windows[:, context:])

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
        prompts = [{"prompt_token_ids": row} for row in contexts.tolist()]
        outputs = self._llm.generate(prompts, greedy, use_tqdm=False)
        return np.array([output.outputs[0].token_ids for output in outputs], dtype=np.uint32)

    def _holds(self, folder: Path) -> bool:
        if self.settings.tensor_parallel > 1 or self.settings.allow_pickle:
            return False  # replicated parameters would count once per rank; pickles have no lazy tensors
        held = self._llm.apply_model(checksum_of_model)[0]
        return bool(held == checksum_of_file_weights(folder, self.settings.dtype))


def set_environment(settings: EngineSettings) -> None:
    """What vLLM reads from the environment, set before it is imported; the user's own values stay."""
    for name, value in {
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # The engine process is ours alone: a further process for vLLM's core only costs start-up.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # vLLM keeps one core for itself by default, half of a small machine.
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    }.items():
        os.environ.setdefault(name, value)
