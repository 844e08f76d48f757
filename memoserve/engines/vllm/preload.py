"""Imports what a vLLM engine needs and starts nothing: for the process that engines are forked from."""

import os

from memoserve.engines.silence import silence

os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
with silence(1, 2):
    import vllm
    import vllm.entrypoints.llm
    import vllm.model_executor.models.transformers

__all__ = ["vllm"]
