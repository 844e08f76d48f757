"""The reference: Hugging Face `generate`, with cache, that every other engine must agree with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.checks import Check
from memoserve.domain import CONTINUATION, Matches
from memoserve.engines.diagnosis import Diagnosis, gpus, torch_companions, torch_missing, version_of
from memoserve.engines.engine import Engine, NotFinite
from memoserve.engines.matches import matches_of
from memoserve.engines.settings import EngineSettings
from memoserve.engines.weights.complete import Found
from memoserve.engines.weights.parameters import check_finite


class TransformersEngine(Engine):
    """Greedy generation by `transformers`, one batch at a time. Lives in an engine process."""

    batch = 256

    def __init__(self, settings: EngineSettings, folder: Path) -> None:
        self.settings = settings
        self.load(folder)

    def load(self, folder: Path) -> None:
        """Put the weights of `folder` in place of whatever was loaded, with their own config.json.

        Raises EngineFailed if they are not whole, or not finite.
        """
        import torch
        from transformers import AutoModelForCausalLM, GenerationConfig

        model: Any
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=getattr(torch, self.settings.dtype),
            use_safetensors=not self.settings.allow_pickle or None,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # then it says all of them
            output_loading_info=True,
        )
        found = Found.of(model, info)
        found.check(folder)
        for name, parameter in model.named_parameters():
            check_finite(name, parameter.detach(), self.settings.dtype)
        self._checks = (found.as_check(),)
        self._model = model
        # What is None in a generation's configuration is filled in from here: nothing may end one.
        self._model.generation_config = GenerationConfig()
        self._model.config.eos_token_id = None
        self._model.to(self.settings.device).eval()
        self._start = 0
        self._model.register_forward_hook(self._check_finite)

    @staticmethod
    def diagnose() -> Diagnosis:
        """See Engine."""
        torch, version = version_of("torch"), version_of("transformers")
        problems = torch_missing()
        if version is None:
            problems.append("transformers is not installed: pip install 'memoserve[cpu]' (or [cuda])")
        cuda = torch is not None and not torch.endswith("+cpu") and bool(gpus())
        return Diagnosis(
            "transformers",
            version or "",
            "cuda" if cuda else "cpu",
            (*problems, *torch_companions()),
            ("torch", "transformers"),
        )

    @property
    def reload_refusal(self) -> str | None:
        """See Engine: weights are always replaced."""
        return None

    def proved(self) -> tuple[Check, ...]:
        """What was checked of the weights that are loaded, without the checkpoint's name."""
        return self._checks

    def _check_finite(self, _: Any, __: Any, output: Any) -> None:
        """After every forward pass, before anything is banned. Raises NotFinite."""
        finite = output.logits.amax(dim=-1).isfinite().all(dim=1)
        if not finite.all():
            raise NotFinite(self._start + int(finite.byte().argmin()))

    def evaluate(self, windows: NDArray[np.uint32]) -> Matches:
        """Matches of u32[n, context + 32] windows."""
        context = self.settings.context
        if self.settings.mode == "extract":
            return self._extract(windows)
        return matches_of(self.generations(windows), windows[:, context:])

    def generations(self, windows: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The greedy continuations u32[n, 32] of u32[n, context + 32] windows."""
        return self.generate(windows[:, : self.settings.context])

    def generate(self, contexts: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The greedy continuations u32[n, 32] of u32[n, context] contexts."""
        import torch
        from transformers import GenerationConfig

        banned = self.settings.banned_token_id
        greedy = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=CONTINUATION,
            pad_token_id=0,
            suppress_tokens=None if banned is None else [banned],
        )
        generations = []
        with torch.inference_mode():
            for start in range(0, len(contexts), self.batch):
                self._start = start
                rows = torch.from_numpy(contexts[start : start + self.batch].astype(np.int64))
                rows = rows.to(self.settings.device)
                output = self._model.generate(
                    rows, attention_mask=torch.ones_like(rows), generation_config=greedy
                )
                generations.append(output[:, rows.shape[1] :].cpu().numpy().astype(np.uint32))
        return np.concatenate(generations)

    def logliks(self, windows: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Log-likelihoods f64[n] of the continuations of u32[n, context + 32] windows, in nats."""
        import torch

        with torch.inference_mode():
            return np.concatenate([self._likely(*batch) for batch in self._forward(windows)])

    def _extract(self, windows: NDArray[np.uint32]) -> Matches:
        """One forward pass over the true tokens; log-likelihoods are summed in float64."""
        import torch

        banned = self.settings.banned_token_id
        prefixes, sums = [], []
        with torch.inference_mode():
            for logits, truth in self._forward(windows):
                if self.settings.loglik:
                    sums.append(self._likely(logits, truth))
                if banned is not None:
                    logits[..., banned] = -torch.inf
                equal = (logits.argmax(dim=-1) == truth).to(torch.uint8)
                prefixes.append(equal.cumprod(dim=1).sum(dim=1).cpu().numpy())
        return Matches(
            np.concatenate(prefixes).astype(np.uint8),
            None,
            np.concatenate(sums).astype(np.float32) if sums else None,
        )

    def _forward(self, windows: NDArray[np.uint32]) -> Iterator[tuple[Any, Any]]:
        """By batch the logits [n, 32, vocabulary] that predict the continuations, and these, i64[n, 32]."""
        import torch

        context = self.settings.context
        for start in range(0, len(windows), self.batch):
            self._start = start
            tokens = torch.from_numpy(windows[start : start + self.batch].astype(np.int64))
            tokens = tokens.to(self.settings.device)
            yield self._model(tokens[:, :-1]).logits[:, context - 1 :], tokens[:, context:]

    def _likely(self, logits: Any, truth: Any) -> NDArray[np.float64]:
        """f64[n], in nats, of i64[n, 32] tokens by logits [n, 32, vocabulary]. Raises NotFinite."""
        likely = logits.double().log_softmax(dim=-1).gather(2, truth[..., None])[..., 0].sum(dim=1)
        values: NDArray[np.float64] = likely.cpu().numpy()
        if not np.isfinite(values).all():
            raise NotFinite(self._start + int(np.isfinite(values).argmin()))
        return values

    def margins(self, prefixes: NDArray[np.uint32]) -> NDArray[np.float32]:
        """f32[n]: by how much the best logit after u32[n, m] prefixes exceeds the second best."""
        import torch

        self._start = 0
        with torch.inference_mode():
            tokens = torch.from_numpy(prefixes.astype(np.int64)).to(self.settings.device)
            logits = self._model(tokens).logits[:, -1].float()
            if self.settings.banned_token_id is not None:
                logits[:, self.settings.banned_token_id] = -torch.inf
            best = logits.topk(2).values
            margin: NDArray[np.float32] = (best[:, 0] - best[:, 1]).cpu().numpy()
            return margin
