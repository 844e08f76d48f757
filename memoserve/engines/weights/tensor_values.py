"""The values of tensors in files: sampled, and compared across precisions. Without torch.

What was sampled is kept for as long as the process lives, and read anew when its file changes.
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.engines.weights.tensor_headers import BITS, Tensor

_BLOCKS, _BLOCK = 4, 256
_CHUNK = 1 << 22
"""Elements: four sampled blocks of 256 from a tensor, and as many as are compared at a time."""

_ROUNDED, _SMALLEST_F16 = 2.0**-8, 2.0**-24
"""As a share, twice what rounding to bfloat16 changes a number by at most (to float16: an eighth of that, and
below its normal numbers half of the smallest one)."""

FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
"""Types whose values are read as numbers; of others the bytes are compared."""

FileState = tuple[str, int, int, int, int]


def state_of(file: Path) -> FileState:
    """What changes when a file does: path, inode, size and times (a copy may keep the one, never both)."""
    status = os.stat(file)
    return str(file), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@dataclass(frozen=True)
class Sample:
    """Of one tensor: a digest of its sampled values, and whether they are all one value."""

    digest: bytes
    constant: bool


def sampled_values(tensor: Tensor) -> NDArray[np.float32]:
    """The values behind a sample, of a tensor of floating-point numbers. Raises OSError."""
    return _float32(_read(tensor, *_spans(tensor)), tensor.dtype)


_samples: dict[tuple[FileState, str], Sample] = {}
_lock = threading.Lock()


def sampled(tensor: Tensor) -> Sample:
    """Of one tensor. Raises OSError."""
    key = state_of(tensor.file), tensor.name
    with _lock:
        if key in _samples:
            return _samples[key]
    values = _unsigned_zero(_read(tensor, *_spans(tensor)), tensor.dtype)
    sample = Sample(hashlib.sha256(values.tobytes()).digest(), bool(len(values)) and np.ptp(values) == 0)
    with _lock:
        _samples[key] = sample
    return sample


def _spans(tensor: Tensor) -> list[tuple[int, int]]:
    """Ranges of elements, the same for tensors of one size in whatever file and by whatever name."""
    count = tensor.elements
    if count <= _BLOCKS * _BLOCK or BITS[tensor.dtype] < 8:
        return [(0, count)]
    chance = random.Random(count)
    inner = sorted(chance.randrange(0, count - _BLOCK) for _ in range(_BLOCKS - 2))
    return [(first, first + _BLOCK) for first in (0, *inner, count - _BLOCK)]


def _read(tensor: Tensor, *spans: tuple[int, int]) -> NDArray[Any]:
    """Ranges of elements as unsigned numbers of their width; of types below a byte, all bytes."""
    bits = BITS[tensor.dtype]
    with open(tensor.file, "rb") as opened:
        if bits < 8:
            opened.seek(tensor.start)
            return np.frombuffer(opened.read(tensor.stop - tensor.start), np.uint8)
        parts = []
        for first, last in spans:
            opened.seek(tensor.start + first * bits // 8)
            parts.append(opened.read((last - first) * bits // 8))
    return np.frombuffer(b"".join(parts), f"<u{bits // 8}")


def _unsigned_zero(bits: NDArray[Any], dtype: str) -> NDArray[Any]:
    if dtype not in FLOATS:
        return bits
    negative = bits.dtype.type(1 << (BITS[dtype] - 1))
    return np.where(bits == negative, bits.dtype.type(0), bits)


def values_digest(tensors: Iterable[Tensor]) -> bytes:
    """SHA-256 of all values, tensor by tensor; the sign of zero doesn't count. Raises OSError."""
    digest = hashlib.sha256()
    for tensor in tensors:
        for span in _chunks(tensor):
            digest.update(_unsigned_zero(_read(tensor, span), tensor.dtype).data)
    return digest.digest()


def equal_values(one: Tensor, other: Tensor, sampled: bool = False) -> bool:
    """Whether two tensors are equal, value by value or in the sampled blocks alone.

    The sign of zero doesn't count; of two precisions, one may be what rounding makes of the other.
    Raises OSError.
    """
    if one.shape != other.shape:
        return False
    if one.dtype != other.dtype and not {one.dtype, other.dtype} <= FLOATS:
        return False
    if one.dtype == other.dtype and one.start == other.start and os.path.samefile(one.file, other.file):
        return True
    for first, last in _spans(one) if sampled else _chunks(one):
        mine = _unsigned_zero(_read(one, (first, last)), one.dtype)
        theirs = _unsigned_zero(_read(other, (first, last)), other.dtype)
        if one.dtype == other.dtype:
            if not np.array_equal(mine, theirs):
                return False
        elif not _equal_rounded(mine, one.dtype, theirs, other.dtype):
            return False
    return True


def _chunks(tensor: Tensor) -> Iterator[tuple[int, int]]:
    if BITS[tensor.dtype] < 8:
        yield 0, tensor.elements
        return
    for first in range(0, tensor.elements, _CHUNK):
        yield first, min(first + _CHUNK, tensor.elements)


def _equal_rounded(one: NDArray[Any], dtype: str, other: NDArray[Any], other_dtype: str) -> bool:
    """Whether either is what rounding makes of the other, or both what it makes of the same numbers."""
    mine, theirs = _float32(one, dtype), _float32(other, other_dtype)
    if {dtype, other_dtype} == {"F16", "BF16"}:
        with np.errstate(invalid="ignore"):
            near = np.abs(mine - theirs) <= _ROUNDED * np.abs(mine) + _SMALLEST_F16
        return bool((near | (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))).all())
    return np.array_equal(_rounded(mine, other_dtype), theirs, equal_nan=True) or np.array_equal(
        mine, _rounded(theirs, dtype), equal_nan=True
    )


def _float32(bits: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":
        return (bits.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        return bits.view({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def _rounded(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """To the nearest number of `dtype`, ties to even, as float32."""
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).astype(np.float32)
    if dtype == "BF16":
        bits = values.view(np.uint32)
        rounded = (bits + (((bits >> 16) & 1) + 0x7FFF)) & np.uint32(0xFFFF0000)
        return np.where(np.isnan(values), values, rounded.view(np.float32))
    return values
