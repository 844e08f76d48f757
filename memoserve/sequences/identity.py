"""What a set of sequences is, wherever it lies: sizes and checksums for a run's fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from memoserve.files.byte_ranges import ByteRanges

BLOCK = 4096
BLOCKS = 64


def sampled_sha256(data: ByteRanges) -> str:
    """sha256 of the first and the last 4 KiB and 64 blocks of 4 KiB evenly between them, in order.

    Offsets depend on the size alone; data of up to 66 blocks are hashed whole. 600 GB take 66 reads.
    """
    digest = hashlib.sha256()
    if data.size <= BLOCK * (BLOCKS + 2):
        spans = [(0, data.size)] if data.size else []
    else:
        last = data.size - BLOCK
        spans = [(last * i // (BLOCKS + 1), BLOCK) for i in range(BLOCKS + 2)]
    for block in data.spans(spans):
        digest.update(block)
    return digest.hexdigest()


def sha256(blocks: Iterable[bytes]) -> str:
    """sha256 of the blocks, one after another."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block)
    return digest.hexdigest()
