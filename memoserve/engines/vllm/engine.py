"""vLLM, the default engine: one comparing forward pass, and greedy generation of what it leaves open."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.checks import Check
from memoserve.domain import CONTINUATION, Matches
from memoserve.engines.diagnosis import Diagnosis
from memoserve.engines.engine import Engine, NotFinite
from memoserve.engines.matches import concatenate, matches_of
from memoserve.engines.plugin import extracting, register
from memoserve.engines.settings import EngineSettings
from memoserve.engines.vllm.diagnosis import diagnose
from memoserve.engines.vllm.environment import set_environment
from memoserve.engines.vllm.ladder import choose_stages, remaining_shares
from memoserve.engines.vllm.memory import keep_freed_memory
from memoserve.engines.vllm.tuning import FIXED_BATCH, OURS, packed_products, tune
from memoserve.engines.vllm.weight_checksum import checksum_of_file_weights, checksums_of_model
from memoserve.engines.weights.complete import COMPLETE, Found, Wanted
from memoserve.engines.weights.config_identity import changed_fields, config_identity
from memoserve.errors import EngineFailed

_WHOLE = (CONTINUATION,)
_STAGE_IN_TOKENS = 1.0
_REQUEST_IN_TOKENS = 6.0
"""What one more stage costs a window beside its tokens, in tokens: copying kept keys and values, or a whole
further request (0.3 ms measured, where a token takes 0.05 ms)."""


class VllmEngine(Engine):
    """Matches by vLLM. Lives in an engine process, with vLLM's core in that same process."""

    def __init__(self, settings: EngineSettings, folder: Path) -> None:
        self.settings = settings
        self._checks: tuple[Check, ...] = ()
        set_environment(settings)
        if settings.device == "cpu":
            keep_freed_memory()
        from vllm import LLM

        from memoserve.engines.vllm.request_compare import CACHED_BLOCK

        register()
        self._config_identity = config_identity(folder)
        self._config = config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._wanted = None if settings.allow_pickle else Wanted(folder)
        found = self._look(folder)
        if settings.device == "cpu":
            from memoserve.engines.vllm import products, rotary

            products.install(packed_products(settings.dtype))
            rotary.install()
        architecture = config["architectures"][0]
        self._tuning = tuning = tune(settings, config)
        self._by_blocks = architecture == OURS
        options: dict[str, Any] = {}
        if tuning.kv_cache_bytes is not None:
            options["kv_cache_memory_bytes"] = tuning.kv_cache_bytes
        if self._by_blocks:
            options["worker_extension_cls"] = "memoserve.engines.vllm.compare.WorkerExtension"
        if tuning.by_requests:
            options |= {
                "runner": "pooling",
                "hf_overrides": {"architectures": extracting(architecture)},
                "additional_config": {
                    "context": settings.context,
                    "banned": settings.banned_token_id,
                    "loglik": settings.loglik,
                },
                "block_size": CACHED_BLOCK,
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
            enforce_eager=tuning.eager,
            # A stage of requests finds its window's context there. Nothing else is ever asked twice.
            enable_prefix_caching=tuning.by_requests and self._has_ladder,
            max_num_seqs=tuning.sequences,
            max_num_batched_tokens=tuning.batched_tokens,
            disable_log_stats=True,
            seed=0,
            **options,
        )
        self._arrived()
        self._reload_refusal = self._prove(folder, found)

    @property
    def _has_ladder(self) -> bool:
        settings = self.settings
        return settings.ladder and not settings.loglik and not settings.deterministic

    def load(self, folder: Path) -> None:
        """Put the weights of `folder` in place, and verify that they are in.

        Raises EngineFailed if they are not, if they are not whole, if they want another configuration than
        this engine was started with, or if this architecture can't be verified: then the caller starts a new
        engine.
        """
        if self._reload_refusal is not None:
            raise EngineFailed(f"weights can't be replaced in this engine: {self._reload_refusal}")
        if config_identity(folder) != self._config_identity:
            config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            raise EngineFailed(
                f"this engine was started with another config.json than {folder} has "
                f"({'; '.join(changed_fields(self._config, config))}): it takes a new engine"
            )
        found = self._look(folder)
        self._llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
        self._arrived()
        refusal = self._prove(folder, found)
        if refusal is not None:
            raise EngineFailed(f"the weights of {folder} did not arrive in the engine: {refusal}")

    @staticmethod
    def diagnose() -> Diagnosis:
        """See Engine."""
        return diagnose()

    @property
    def reload_refusal(self) -> str | None:
        """Why weights can't be replaced in this engine, or None if they can."""
        return self._reload_refusal

    def proved(self) -> tuple[Check, ...]:
        """What was checked of the weights that are loaded, without the checkpoint's name."""
        return self._checks

    def evaluate(self, windows: NDArray[np.uint32]) -> Matches:
        """Matches of u32[n, context + 32] windows."""
        if not self.settings.deterministic:
            return self._evaluate(windows)
        # Rounding depends on the shape of a batch, so all batches have one shape.
        padded = np.concatenate([windows, np.repeat(windows[-1:], -len(windows) % FIXED_BATCH, axis=0)])
        batches = [padded[i : i + FIXED_BATCH] for i in range(0, len(padded), FIXED_BATCH)]
        return concatenate([self._evaluate(batch) for batch in batches]).take(np.arange(len(windows)))

    def generate(self, contexts: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The greedy continuations u32[n, 32] of u32[n, context] contexts, by decoding."""
        return np.array(self._decode(contexts.tolist(), [CONTINUATION] * len(contexts)), dtype=np.uint32)

    def logliks(self, windows: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Log-likelihoods f64[n] of the continuations of u32[n, context + 32] windows, in nats.

        Whatever the settings ask for.
        """
        context = self.settings.context
        if self._by_blocks:
            likely = self._compare_blocks(windows, loglik=True)[2]
            assert likely is not None
            return likely
        if self._tuning.by_requests:
            from memoserve.engines.vllm.request_compare import advance

            likely = advance(self._llm, windows, context, _WHOLE, loglik=True)[1]
            assert likely is not None
            return likely
        return self._scheduled_logliks(windows)

    def _scheduled_logliks(self, windows: NDArray[np.uint32]) -> NDArray[np.float64]:
        """By vLLM's scheduler: the last token as what might be generated, those before it as a prompt's."""
        from vllm import SamplingParams

        outputs = self._llm.generate(
            [{"prompt_token_ids": row} for row in windows[:, :-1].tolist()],
            [
                SamplingParams(
                    temperature=0,
                    max_tokens=1,
                    ignore_eos=True,
                    detokenize=False,
                    prompt_logprobs=0,
                    logprob_token_ids=[last],
                )
                for last in windows[:, -1].tolist()
            ],
            use_tqdm=False,
        )
        self._check_watch()
        result = np.empty(len(windows))
        for row, (output, window) in enumerate(zip(outputs, windows.tolist(), strict=True)):
            before = range(self.settings.context, len(window) - 1)
            result[row] = sum(output.prompt_logprobs[at][window[at]].logprob for at in before)
            result[row] += output.outputs[0].logprobs[0][window[-1]].logprob
        return result

    def _evaluate(self, windows: NDArray[np.uint32]) -> Matches:
        context = self.settings.context
        if self.settings.mode == "extract":
            prefix, _, likely = self._compare(windows)
            return Matches(prefix, None, None if likely is None else likely.astype(np.float32))
        return matches_of(self.generations(windows), windows[:, context:])

    def generations(self, windows: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The greedy continuations u32[n, 32] of u32[n, context + 32] windows, as `score` finds them."""
        if self._by_blocks and not self.settings.deterministic:
            generate = self._generate_in_place if self._tuning.decode_windows else self._generate_rest
            return generate(windows)
        return self.generate(windows[:, : self.settings.context])

    def _generate_in_place(self, windows: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The greedy continuations u32[n, 32], decoded by blocks from where the comparison ends."""
        parts = []
        settings = self.settings
        size = self._tuning.decode_windows
        for start in range(0, len(windows), size):
            block = windows[start : start + size]
            arguments = (block, settings.context, settings.banned_token_id, self._stages(1, _STAGE_IN_TOKENS))
            prefix, generation = self._in_worker("compare_and_generate", start, arguments)
            self._learn(prefix)
            parts.append(generation)
        return np.concatenate(parts)

    def _generate_rest(self, windows: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The greedy continuations u32[n, 32], of which only what follows the first mismatch is decoded.

        Up to there it is the continuation itself; a memorized window costs no decoding at all.
        """
        prefix, wrong, _ = self._compare(windows)
        continuations = windows[:, self.settings.context :].copy()
        differing = np.flatnonzero(prefix < CONTINUATION)
        continuations[differing, prefix[differing]] = wrong[differing]
        left = CONTINUATION - 1 - prefix.astype(np.int64)
        rows = differing[left[differing] > 0]
        known = self.settings.context + CONTINUATION - left
        begun = np.concatenate([windows[:, : self.settings.context], continuations], axis=1)
        rests = self._decode([begun[row, : known[row]].tolist() for row in rows], left[rows].tolist())
        for row, rest in zip(rows, rests, strict=True):
            continuations[row, CONTINUATION - len(rest) :] = rest
        return continuations

    def _decode(self, prompts: list[list[int]], lengths: list[int]) -> list[list[int]]:
        """Greedy tokens, `lengths` of them, after each prompt."""
        from vllm import SamplingParams

        banned = self.settings.banned_token_id
        greedy = {
            length: SamplingParams(
                temperature=0,
                max_tokens=length,
                ignore_eos=True,
                detokenize=False,
                # vLLM masks stop tokens until min_tokens are out, which is all: the banned logit is -inf.
                min_tokens=length if banned is not None else 0,
                stop_token_ids=None if banned is None else [banned],
            )
            for length in set(lengths)
        }
        if not prompts:
            return []
        outputs = self._llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts],
            [greedy[length] for length in lengths],
            use_tqdm=False,
        )
        self._check_watch()
        return [output.outputs[0].token_ids for output in outputs]

    def _check_watch(self) -> None:
        from memoserve.engines.vllm.logits import check_watch

        self._llm.apply_model(check_watch)

    def _compare(
        self, windows: NDArray[np.uint32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.float64] | None]:
        """Matched prefixes, best tokens at the first mismatch (by blocks only), log-likelihoods."""
        settings = self.settings
        if self._tuning.by_requests:
            from memoserve.engines.vllm.request_compare import CACHED_BLOCK, advance

            stages = self._stages(CACHED_BLOCK, _REQUEST_IN_TOKENS)
            prefix, likely = advance(self._llm, windows, settings.context, stages)
            self._learn(prefix)
            return prefix, np.zeros(len(windows), np.uint32), likely
        return self._compare_blocks(windows, settings.loglik)

    def _compare_blocks(
        self, windows: NDArray[np.uint32], loglik: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.float64] | None]:
        settings = self.settings
        size = self._tuning.compare_windows
        parts = []
        for start in range(0, len(windows), size):
            stages = _WHOLE if loglik else self._stages(1, _STAGE_IN_TOKENS)
            arguments = (
                windows[start : start + size],
                settings.context,
                settings.banned_token_id,
                loglik,
                stages,
                self._tuning.pass_tokens,
            )
            parts.append(self._in_worker("compare", start, arguments))
            self._learn(parts[-1][0])
        prefixes, wrongs, likelihoods = zip(*parts, strict=True)
        return (
            np.concatenate(prefixes),
            np.concatenate(wrongs),
            np.concatenate(likelihoods) if loglik else None,
        )

    def _in_worker(self, method: str, start: int, arguments: tuple[Any, ...]) -> Any:
        """What the first worker's method says of windows from `start` on."""
        try:
            return self._llm.collective_rpc(method, args=arguments)[0]
        except NotFinite as error:
            raise NotFinite(start + error.row) from None

    def _stages(self, cached_block: int, overhead: float) -> tuple[int, ...]:
        """By how many windows matched so far; the first windows of a checkpoint are checked whole."""
        if not self._has_ladder or not self._seen:
            return _WHOLE
        return choose_stages(self._remaining / self._seen, self.settings.context, cached_block, overhead)

    def _learn(self, prefix: NDArray[np.uint8]) -> None:
        self._remaining += remaining_shares(prefix) * len(prefix)
        self._seen += len(prefix)

    def _arrived(self) -> None:
        """Prepare for weights just loaded; drop what belongs to those before.

        That is cached states, and how many windows matched how far.
        """
        if self.settings.device == "cpu":
            from memoserve.engines.vllm.products import multiply_anew

            self._llm.apply_model(multiply_anew)
        if not self._tuning.by_requests:
            from memoserve.engines.vllm.logits import watch

            self._llm.apply_model(watch)
        if self._tuning.by_requests and self._has_ladder and not self._llm.reset_prefix_cache():
            raise EngineFailed("vLLM did not clear its prefix cache")
        self._remaining = np.zeros(CONTINUATION + 1)
        self._seen = 0

    def _look(self, folder: Path) -> Found | None:
        """Raises EngineFailed if the weights of `folder` are not whole."""
        found = None if self._wanted is None else self._wanted.look(folder)
        if found is not None:
            found.check(folder)
        return found

    def _prove(self, folder: Path, found: Found | None) -> str | None:
        """Why it can't be shown that the engine holds the weights of `folder`; None if it does.

        Raises EngineFailed if some are not finite, or if the engine multiplies by others.
        """
        from memoserve.engines.vllm.products import check_products

        settings = self.settings
        if settings.allow_pickle:
            self._checks = (Check(COMPLETE, "", "not checked", "pickled weights have no names to look at"),)
            return "pickled weights can't be verified"
        complete = (
            found.as_check()
            if found is not None
            else Check(
                COMPLETE, "", "not checked", "Transformers can't say which tensors this architecture wants"
            )
        )
        ignored = found.ignored if found is not None else ()
        files = checksum_of_file_weights(folder, settings.dtype, ignored)
        count = self._llm.apply_model(check_products)[0]
        multiplied = Check(
            "products",
            "",
            "passed",
            f"known vectors times each of {count} layers, against the weights that were loaded into it",
            count,
        )
        refusal = None
        if settings.tensor_parallel > 1:
            # Replicated parameters would count once per rank.
            refusal = f"what {settings.tensor_parallel} devices share can't be held against the files"
        elif files not in self._llm.apply_model(partial(checksums_of_model, dtype=settings.dtype))[0]:
            refusal = "what the engine holds doesn't add up to what the files hold"
        held = Check(
            "weights in the engine",
            "",
            "passed" if refusal is None else "not checked",
            refusal or "the sum of all bits that the engine holds, against that of the files",
        )
        self._checks = (complete, held, multiplied)
        return refusal
