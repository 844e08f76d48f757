"""The C library's memory, in an engine process."""

from __future__ import annotations

import ctypes

# mallopt's parameters, from glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 1 << 28


def keep_freed_memory() -> None:
    """Let glibc keep freed arrays of up to 256 MiB for the next ones; other C libraries stay as they are.

    Every layer's results are an array of some megabytes. By default these go back to the kernel when they are
    freed, and the next one's pages are faulted in and zeroed anew.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, (1 << 31) - 1)
        # glibc before 2.35 refuses more than 32 MiB.
        if not mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT):
            mallopt(_MMAP_THRESHOLD, 1 << 25)
