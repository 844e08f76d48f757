"""How short text can be written: by itself, after its context, after a sample of the training data."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LEVEL = 9
DICTIONARY = 32 << 10
"""Bytes of the training data that zlib may look back at: it can't use more."""


def compressed(texts: Sequence[bytes]) -> NDArray[np.int64]:
    """Bytes of each text compressed by itself, i64[n]."""
    return np.array([len(zlib.compress(text, LEVEL)) for text in texts], np.int64)


def compressed_after(texts: Sequence[bytes], dictionary: bytes) -> NDArray[np.int64]:
    """Bytes of each text compressed with a dictionary, i64[n]."""
    fresh = zlib.compressobj(
        LEVEL, zlib.DEFLATED, zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zlib.Z_DEFAULT_STRATEGY, dictionary
    )
    sizes = []
    for text in texts:
        one = fresh.copy()
        sizes.append(len(one.compress(text)) + len(one.flush()))
    return np.array(sizes, np.int64)
