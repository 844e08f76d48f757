"""What vLLM reads from the environment in an engine process."""

from __future__ import annotations

import os

from memoserve.engines.plugin import ENABLED
from memoserve.engines.settings import EngineSettings


def set_environment(settings: EngineSettings) -> None:
    """What vLLM reads from the environment, set before it is imported; the user's own values stay."""
    for name, value in {
        ENABLED: "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
        # The engine process is ours alone: a further process for vLLM's core only costs start-up.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # vLLM keeps one core for itself by default, half of a small machine.
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        **({"VLLM_BATCH_INVARIANT": "1"} if settings.deterministic else {}),
    }.items():
        os.environ.setdefault(name, value)
