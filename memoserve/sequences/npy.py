"""A .npy file: a two-dimensional array of integers, [sequences, tokens]."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.errors import BadInput
from memoserve.files.byte_ranges import ByteRanges
from memoserve.files.place import Place
from memoserve.sequences.identity import sampled_sha256, sha256
from memoserve.sequences.megatron_order import ORDER_FILE
from memoserve.sequences.order import OrderEvidence
from memoserve.sequences.source import as_token_ids, check_ids, check_length, check_long_enough, check_span

# NumPy writes headers of 128 bytes and itself refuses those above 10,000.
HEADER_LIMIT = 16 << 10


class NpySequences:
    """A SequenceSource over the rows of an array."""

    kind = "npy"
    cheap_lengths = 1 << 20
    whole_length: tuple[int, int] | None = None

    def __init__(self, place: Place) -> None:
        """Open and check. Raises BadInput for what is not an integer array of two dimensions, or known not to
        be whole sequences by its name.
        """
        _check_name(place)
        self._data = ByteRanges([place])
        name = self._data.name
        shape, dtype, self._begin = _header(self._data)
        if dtype.kind not in "iu":
            raise BadInput(f"{name} holds {dtype}, not integers: token ids are needed")
        if len(shape) != 2:
            raise BadInput(f"{name} has the shape {shape}: [sequences, tokens] is needed")
        self.count, self._length = shape
        if not 1 <= self._length <= 2**31:
            raise BadInput(f"{name}: sequences of {self._length} tokens")
        self._dtype = dtype
        expected = self._begin + self.count * self._length * dtype.itemsize
        if self._data.size != expected:
            raise BadInput(
                f"{name}: expected {expected} bytes for {shape} of {dtype}, found {self._data.size}: "
                "it is truncated or damaged"
            )
        self.total_bytes = self._data.size
        self.token_dtype = dtype.name
        self.description = f"{name}: {self.count:,} sequences of {self._length} tokens, {dtype.name}, NumPy"

    def order_evidence(self) -> OrderEvidence:
        """See SequenceSource.order_evidence: an array says nothing."""
        return OrderEvidence()

    def read(self, first: int, stop: int, length: int) -> NDArray[np.uint32]:
        """See SequenceSource.read."""
        return self._tokens(check_span(first, stop, self.count, self._data.name), length)

    def take(self, ids: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
        """See SequenceSource.take."""
        return self._tokens(check_ids(ids, self.count, self._data.name), length)

    def lengths(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """See SequenceSource.lengths."""
        ids = check_ids(ids, self.count, self._data.name)
        return np.full(len(ids), self._length, dtype=np.int64)

    def identity(self) -> dict[str, str | int]:
        """See SequenceSource.identity: the header is the index."""
        return {
            "kind": self.kind,
            "count": self.count,
            "bytes": self.total_bytes,
            "index_sha256": sha256([self._data.read(0, self._begin)]),
            "data_sha256": sampled_sha256(self._data),
        }

    def _tokens(self, ids: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
        check_length(length)
        check_long_enough(self.lengths(ids), ids, length, self._data.name)
        width = self._dtype.itemsize
        starts = self._begin + ids * (self._length * width)
        return as_token_ids(self._data.gather(starts, length * width).view(self._dtype), ids, self._data.name)


def _check_name(place: Place) -> None:
    """Raise BadInput for files that the field gives names of their own, and that hold something else."""
    folder, _, name = place.path.rpartition("/")
    if ORDER_FILE.fullmatch(name) or name == "global_indices.npy":
        raise BadInput(
            f"{place} says in which order training read its data, and holds no token ids: write the "
            "sequences in that order into a file, and give that"
        )
    for half, other in (("prefix", "suffix"), ("suffix", "prefix")):
        if half in name:
            beside = name.replace(half, other)
            if place.sibling(f"{folder}/{beside}" if folder else beside).exists():
                raise BadInput(
                    f"{place} holds one half of each sequence, {beside} beside it the other: join them "
                    "(numpy.concatenate([prefix, suffix], axis=1)) and numpy.save that"
                )


def _header(data: ByteRanges) -> tuple[tuple[int, ...], np.dtype[np.generic], int]:
    """Shape, dtype and where the numbers begin."""
    npy_format: Any = np.lib.format  # without types
    stream = io.BytesIO(data.read(0, min(data.size, HEADER_LIMIT)))
    if not stream.getvalue().startswith(b"\x93NUMPY"):
        raise BadInput(
            f"{data.name} is not a .npy file that can be read: it has no header. If it is raw numbers (a "
            "memmap, as OLMo's data are), it doesn't say their type, nor how they are cut: read it with "
            "numpy.fromfile, put it into training order as [sequences, tokens], and numpy.save that"
        )
    try:
        version = npy_format.read_magic(stream)
        if version == (1, 0):
            shape, fortran, dtype = npy_format.read_array_header_1_0(stream)
        elif version == (2, 0):
            shape, fortran, dtype = npy_format.read_array_header_2_0(stream)
        else:
            raise ValueError(f"format version {version}, which plain integer arrays don't use")
    except Exception as error:  # what NumPy raises on garbage is no closed list
        raise BadInput(f"{data.name} is not a .npy file that can be read: {error}") from None
    if any(size < 0 for size in shape):
        raise BadInput(f"{data.name}: a shape of {shape}")
    if fortran and len(shape) > 1:
        raise BadInput(
            f"{data.name} is stored column by column (Fortran order): save it again with "
            "numpy.save(file, numpy.ascontiguousarray(array))"
        )
    return shape, dtype, stream.tell()
