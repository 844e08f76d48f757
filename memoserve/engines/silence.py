"""Imports of torch and vLLM without their chatter, and without an end: an engine that fails says why."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def silence(*descriptors: int) -> Iterator[None]:
    """Drop what the body writes to these file descriptors, also from C, and what it raises."""
    kept = {number: os.dup(number) for number in descriptors}
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        for number in descriptors:
            os.dup2(null, number)
        with suppress(Exception):
            yield
    finally:
        for number, descriptor in kept.items():
            os.dup2(descriptor, number)
            os.close(descriptor)
        os.close(null)
