"""memoserve's models for vLLM's registry; vLLM calls `register` in each of its processes."""

from __future__ import annotations

import os

ENABLED = "MEMOSERVE_ENGINE"
"""Set in the environment of an engine process, so that no other use of vLLM gets these models."""

_EXTRACT = "TransformersExtract"


def register() -> None:
    """Register the models by name, without importing them."""
    if not os.environ.get(ENABLED):
        return
    from vllm import ModelRegistry

    ModelRegistry.register_model("GPTNeoXForCausalLM", "memoserve.engines.vllm.neox:GPTNeoXForCausalLM")
    ModelRegistry.register_model(_EXTRACT, f"memoserve.engines.vllm.extract_model:{_EXTRACT}")


def extracting(architecture: str) -> list[str]:
    """The `architectures` that make vLLM load a model as an extracting one.

    The original stays behind ours: vLLM looks up the mapping of weight names by it.
    """
    return [_EXTRACT, architecture]
