"""An engine, and the forward that it is held against, each in a process of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memoserve.checks import Check
from memoserve.domain import Matches
from memoserve.engines.child import Child
from memoserve.engines.engine import Engine, Forward
from memoserve.engines.registry import make_engine
from memoserve.engines.settings import EngineSettings
from memoserve.engines.transformers.eager_forward import EagerForward
from memoserve.errors import EngineFailed

_PRELOAD = "memoserve.engines.transformers.preload"


class EngineProcess(Child[Engine]):
    """The engine that the settings name: see Child for starting and ending one, Engine for the methods."""

    def __init__(
        self,
        settings: EngineSettings,
        folder: Path,
        log_file: Path,
        verbose: bool = False,
        device: str = "",
    ) -> None:
        name = settings.engine
        preload = "memoserve.engines.vllm.preload" if name == "vllm" else _PRELOAD
        super().__init__(name, make_engine, preload, settings, folder, log_file, verbose, device)

    def load(self, folder: Path) -> None:
        """Replace the weights."""
        self.call(_load, folder)

    def evaluate(self, windows: NDArray[np.uint32]) -> Matches:
        """Matches of u32[n, context + 32] windows."""
        return self.call(_evaluate, windows)

    def generations(self, windows: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """What u32[n, context + 32] windows are continued with, u32[n, 32], where `evaluate` in `score` mode
        gives how that matches.
        """
        return self.call(_generations, windows)

    def logliks(self, windows: NDArray[np.uint32]) -> NDArray[np.float64]:
        """Log-likelihoods f64[n] of the continuations of u32[n, context + 32] windows, in nats.

        At temperature 1, whatever the settings ask for.
        """
        return self.call(_logliks, windows)

    @property
    def reload_refusal(self) -> str | None:
        """Why `load` always refuses, so that each checkpoint starts an engine anew; None: it doesn't."""
        return self.call(_reload_refusal, None)

    def proved(self) -> tuple[Check, ...]:
        """What was checked of the weights that are loaded; `subject`, `model` and `step` are the caller's."""
        return self.call(_proved, None)

    def generate(self, contexts: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """Of memoserve's own engines: the greedy continuations u32[n, 32] of u32[n, context] contexts, by
        decoding.
        """
        return self.call(_generate, contexts)

    def margins(self, prefixes: NDArray[np.uint32]) -> NDArray[np.float32]:
        """Of the reference engine: best minus second best logit after u32[n, m] prefixes, f32[n]."""
        return self.call(_margins, prefixes)


class ForwardProcess(Child[EagerForward]):
    """Transformers' eager forward of the weights in a folder."""

    def __init__(self, settings: EngineSettings, folder: Path, log_file: Path, device: str = "") -> None:
        super().__init__("eager", EagerForward, _PRELOAD, settings, folder, log_file, device=device)

    def forward(self, tokens: NDArray[np.uint32]) -> Forward:
        """What the model says of the continuations in u32[n, context + m] windows."""
        return self.call(_forward, tokens)


# What is asked there, of the engine itself.


def _load(engine: Engine, folder: Path) -> None:
    engine.load(folder)


def _evaluate(engine: Engine, windows: NDArray[np.uint32]) -> Matches:
    return engine.evaluate(windows)


def _generations(engine: Engine, windows: NDArray[np.uint32]) -> NDArray[np.uint32]:
    return engine.generations(windows)


def _logliks(engine: Engine, windows: NDArray[np.uint32]) -> NDArray[np.float64]:
    return engine.logliks(windows)


def _reload_refusal(engine: Engine, _: None) -> str | None:
    return engine.reload_refusal


def _proved(engine: Engine, _: None) -> tuple[Check, ...]:
    return engine.proved()


def _generate(engine: Engine, contexts: NDArray[np.uint32]) -> NDArray[np.uint32]:
    from memoserve.engines.transformers.engine import TransformersEngine
    from memoserve.engines.vllm.engine import VllmEngine

    if not isinstance(engine, TransformersEngine | VllmEngine):
        raise EngineFailed(f"{type(engine).__name__} is no engine of memoserve's own: it has no `generate`")
    return engine.generate(contexts)


def _margins(engine: Engine, prefixes: NDArray[np.uint32]) -> NDArray[np.float32]:
    from memoserve.engines.transformers.engine import TransformersEngine

    if not isinstance(engine, TransformersEngine):
        raise EngineFailed(f"{type(engine).__name__} is not the reference engine: it has no `margins`")
    return engine.margins(prefixes)


def _forward(forward: EagerForward, tokens: NDArray[np.uint32]) -> Forward:
    return forward.forward(tokens)
