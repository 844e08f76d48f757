"""How short text can be written: by itself, after its context, after what the training data taught."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVEL = 9

_DICTIONARY = 110 << 10
_ZSTD_LEVEL = 3


def compressed(texts: Sequence[bytes]) -> NDArray[np.int64]:
    """Bytes of each text compressed by zlib, i64[n]."""
    return np.array([len(zlib.compress(text, LEVEL)) for text in texts], np.int64)


@cache
def zstd() -> Any:
    """Python's own module for Zstandard (from 3.14 on), or its backport; None where neither is."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return import_module(name)
        except ImportError:
            continue
    return None


def zstd_version() -> str | None:
    """Of the library: another one may compress otherwise. None without one."""
    return None if zstd() is None else str(zstd().zstd_version)


def trained_on(sample: Sequence[bytes]) -> Any:
    """A dictionary for `compressed_after` that is trained on texts, None without the library."""
    if zstd() is None:
        return None
    size = min(_DICTIONARY, max(sum(map(len, sample)) // 8, 256))
    try:
        return zstd().train_dict(sample, size)
    except zstd().ZstdError:  # too few texts to learn from: they are the dictionary
        return zstd().ZstdDict(b"".join(sample)[-size:].rjust(8), is_raw=True)


def compressed_after(texts: Sequence[bytes], dictionary: Any) -> NDArray[np.int64]:
    """Bytes of each text compressed by Zstandard with a dictionary, i64[n]."""
    ready = dictionary.as_digested_dict
    return np.array([len(zstd().compress(text, _ZSTD_LEVEL, zstd_dict=ready)) for text in texts], np.int64)
