"""The second way: Transformers' own eager forward, which an engine is held against.

It shares nothing with an engine but the files. Attention is written out in plain products (`eager`), nothing
is cached, and numbers are float32 where the model fits in memory so, on the GPU if it has room beside the
engine, else on the CPU.

Imported inside an engine process only.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.engines.engine import Forward
from memoserve.engines.settings import EngineSettings
from memoserve.errors import EngineFailed

_PASS_LOGITS = 1 << 24
"""Logits computed at a time: 64 MiB of float32."""

_ROOM = 0.8
"""Of the free memory, what the weights may take; the rest is for what passes the model."""


class EagerForward:
    """Lives in an engine process of its own."""

    def __init__(self, settings: EngineSettings, folder: Path) -> None:
        self.settings = settings
        self.load(folder)

    def load(self, folder: Path) -> None:
        """Put the weights of `folder` in place of whatever was loaded.

        Raises EngineFailed if they fit in no memory here.
        """
        from transformers import AutoModelForCausalLM

        self._model: Any = None  # both at once may not fit
        device, dtype = self._where(_parameters(folder))
        self._model = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation="eager",
            use_safetensors=not self.settings.allow_pickle or None,
            trust_remote_code=False,
            local_files_only=True,
        )
        self._model.to(device).eval()
        self._device = device

    def forward(self, tokens: NDArray[np.uint32]) -> Forward:
        """What the model says of the continuations in u32[n, context + m] windows."""
        import torch

        context, banned = self.settings.context, self.settings.banned_token_id
        parts: list[tuple[Any, Any, Any]] = []
        rows = max(
            1, _PASS_LOGITS // (tokens.shape[1] * int(self._model.config.get_text_config().vocab_size))
        )
        with torch.inference_mode():
            for start in range(0, len(tokens), rows):
                block = torch.from_numpy(tokens[start : start + rows].astype(np.int64)).to(self._device)
                logits = self._model(block[:, :-1], use_cache=False).logits[:, context - 1 :].float()
                truth = block[:, context:, None]
                given = logits.gather(2, truth)[..., 0]
                likely = (given - logits.logsumexp(dim=-1)).double()
                if banned is not None:
                    logits[..., banned] = -torch.inf
                best, second = logits.topk(2, dim=-1).values.unbind(-1)
                given = logits.gather(2, truth)[..., 0]
                parts.append((best - second, best - given, likely))
        margin, gap, likely = (torch.cat(each).cpu().numpy() for each in zip(*parts, strict=True))
        return Forward(margin, gap, likely)

    def _where(self, parameters: int) -> tuple[str, Any]:
        """Device and dtype: float32 if the weights fit so, else 16 bits."""
        import psutil
        import torch

        for width, dtype in ((4, torch.float32), (2, torch.bfloat16)):
            needed = parameters * width
            if self.settings.device == "cuda" and needed < _ROOM * torch.cuda.mem_get_info()[0]:
                return "cuda", dtype
            if needed < _ROOM * psutil.virtual_memory().available:
                return "cpu", dtype
        raise EngineFailed(f"{parameters:,} parameters fit in no free memory beside the engine")


def _parameters(folder: Path) -> int:
    """How many numbers the weights in a folder hold; of pickles, which don't say, as if in 16 bits."""
    from safetensors import safe_open

    total = 0
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="np") as opened:
            total += sum(math.prod(opened.get_slice(name).get_shape()) for name in opened.keys())  # noqa: SIM118
    return total or sum(file.stat().st_size // 2 for file in folder.glob("*.bin"))
