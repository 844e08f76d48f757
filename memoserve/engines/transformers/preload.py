"""Imports what the reference engine needs: for the process that engines are forked from."""

from memoserve.engines.silence import silence

with silence(1, 2):
    import transformers
    from transformers import AutoModelForCausalLM, GPTNeoXForCausalLM

__all__ = ["AutoModelForCausalLM", "GPTNeoXForCausalLM", "transformers"]
