"""memoserve measures memorization in language models, and forecasts it from cheaper runs."""

__version__ = "0.1.0"
