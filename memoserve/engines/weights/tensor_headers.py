"""What a safetensors file holds, read from its header: names, types, shapes and where the values lie.

Stricter than the library, and without torch: every byte of the file belongs to exactly one tensor, as the
format wants it (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}
"""Bits of an element, by the format's name of its type."""

LONGEST_HEADER = 100_000_000
"""Bytes, the library's own limit."""

LFS_POINTER = b"version https://git-lfs"
"""How a file begins that Git LFS left in place of the real one."""


class DamagedFile(ValueError):
    """A file that is not whole, or no safetensors file; the message says why."""


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: `dtype` as the format names it, values in bytes [start, stop) of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    stop: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def not_content(file: Path) -> str | None:
    """Why a file is none at all, whatever its format: empty, or a pointer to what Git LFS keeps."""
    with open(file, "rb") as opened:
        begin = opened.read(len(LFS_POINTER))
    if not begin:
        return "it is empty"
    if begin == LFS_POINTER:
        return "it is a Git LFS pointer, not the file that it stands for: run git lfs pull"
    return None


def read_tensors(file: Path) -> tuple[Tensor, ...]:
    """The tensors of a safetensors file, in the order of their bytes.

    Raises DamagedFile if the header is none, or doesn't account for every byte of the file; OSError.
    """
    if reason := not_content(file):
        raise DamagedFile(reason)
    size = os.stat(file).st_size
    with open(file, "rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            raise DamagedFile(f"its header should have {length:,} bytes, and the file has {size:,}")
        header = opened.read(length)
    if not header.startswith(b"{"):
        raise DamagedFile("its header is not a JSON object")
    try:
        entries = json.loads(header, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"its header can't be read: {error}") from None
    entries.pop("__metadata__", None)
    tensors = sorted(
        (_tensor(name, entry, file, 8 + length) for name, entry in entries.items()),
        key=lambda tensor: (tensor.start, tensor.stop),
    )
    at = 8 + length
    for tensor in tensors:
        if tensor.start != at:
            kind = "overlaps what stands before it" if tensor.start < at else "leaves bytes before it unused"
            raise DamagedFile(f"{tensor.name} {kind}")
        at = tensor.stop
    if at != size:
        raise DamagedFile(f"its tensors end at byte {at:,}, and the file has {size:,}")
    return tuple(tensors)


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} stands there twice")
        found[key] = value
    return found


def _tensor(name: str, entry: Any, file: Path, base: int) -> Tensor:
    try:
        dtype, shape, (first, last) = entry["dtype"], entry["shape"], entry["data_offsets"]
        counts = (*shape, first, last)
        if dtype not in BITS or any(type(count) is not int or count < 0 for count in counts):
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise DamagedFile(f"its header describes {name!r} in no known way") from None
    if (last - first) * 8 != math.prod(shape) * BITS[dtype]:
        raise DamagedFile(
            f"{name} has {last - first:,} bytes, and {dtype} of shape {list(shape)} needs"
            f" {math.prod(shape) * BITS[dtype] / 8:,.0f}"
        )
    return Tensor(name, dtype, tuple(shape), file, base + first, base + last)
