"""Megatron indexed datasets, written from the description of the format."""

from __future__ import annotations

import struct
from itertools import pairwise
from pathlib import Path

import numpy as np

CODES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}


def write_dataset(prefix: Path, sequences: list[list[int]], code: int = 8) -> None:
    """The format as its description says it, by struct and nothing of memoserve."""
    dtype = CODES[code]
    data = b"".join(np.array(tokens, dtype=dtype).tobytes() for tokens in sequences)
    pointers = [0]
    for tokens in sequences:
        pointers.append(pointers[-1] + len(tokens) * np.dtype(dtype).itemsize)
    documents = [0, len(sequences)]
    index = b"MMIDIDX\x00\x00" + struct.pack("<QB", 1, code)
    index += struct.pack("<QQ", len(sequences), len(documents))
    index += struct.pack(f"<{len(sequences)}i", *map(len, sequences))
    index += struct.pack(f"<{len(sequences)}q", *pointers[:-1])
    index += struct.pack(f"<{len(documents)}q", *documents)
    prefix.with_name(prefix.name + ".idx").write_bytes(index)
    prefix.with_name(prefix.name + ".bin").write_bytes(data)


def shard(prefix: Path, cuts: list[int], last_is_count: bool) -> None:
    """Cut the .bin at these bytes; `-of-` the last number (as Pythia's) or the number of shards."""
    data = prefix.with_name(prefix.name + ".bin")
    content = data.read_bytes()
    data.unlink()
    bounds = [0, *sorted(cuts), len(content)]
    of = len(bounds) - 1 if last_is_count else len(bounds) - 2
    for number, (a, b) in enumerate(pairwise(bounds)):
        data.with_name(f"{prefix.name}-{number:05}-of-{of:05}.bin").write_bytes(content[a:b])
