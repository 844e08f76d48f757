"""vLLM, the default engine, and all that only it needs."""
