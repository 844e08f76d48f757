"""Packs: the first tokens of every sequence, written once, with a checksum of every block.

A pack is a folder:

    manifest.json        what it is: counts, sizes, the identity of the sequences it was made of
    checksums.npy        u8[blocks, 32]: the sha256 of each block of rows
    tokens-00000.npy …   u16 (or u32) [rows, length], `rows_a_part` rows each, the last one fewer

Plain NumPy files, so that other programs read them too. The manifest holds the sha256 of the checksums and
of itself: every token is verified, by the block, whenever it is read, from a disk or over a network.
The folder gets its name when all of it is written; until then it is NAME.unfinished, which goes on after a
kill from the last whole part.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.errors import BadInput
from memoserve.files.byte_ranges import ByteRanges, read_small
from memoserve.files.place import Place
from memoserve.sequences.order import OrderEvidence
from memoserve.sequences.source import check_ids, check_length, check_long_enough, check_span

FORMAT = 1
MANIFEST = "manifest.json"
CHECKSUMS = "checksums.npy"
BEGUN = "begun.json"
"""In the folder of a pack that is not finished."""

AT_ONCE = 64 << 20
"""Bytes of blocks held at a time while sequences are picked from them."""

MANIFEST_LIMIT = 1 << 20
CHECKSUM = hashlib.sha256().digest_size


@dataclass(frozen=True)
class Manifest:
    """What a pack says of itself. `source` is the identity of what it was made of, `source_lengths` the
    fewest and the most tokens of its sequences (None in packs of versions that didn't write it).
    """

    count: int
    length: int
    dtype: str
    rows_a_part: int
    rows_a_block: int
    source: dict[str, str | int]
    checksums_sha256: str = ""
    source_lengths: tuple[int, int] | None = None

    @property
    def row(self) -> int:
        """Bytes of a row."""
        return self.length * np.dtype(self.dtype).itemsize

    @property
    def blocks_a_part(self) -> int:
        return -(-self.rows_a_part // self.rows_a_block)

    @property
    def parts(self) -> int:
        return -(-self.count // self.rows_a_part)

    @property
    def blocks(self) -> int:
        """Blocks of all parts; no block spans two."""
        return sum(-(-self.rows_of(part) // self.rows_a_block) for part in range(self.parts))

    def rows_of(self, part: int) -> int:
        """Rows of a part."""
        return min(self.rows_a_part, self.count - part * self.rows_a_part)

    def header_of(self, part: int) -> bytes:
        """The .npy header of a part."""
        return npy_header((self.rows_of(part), self.length), self.dtype)


def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """The bytes before the numbers in a .npy file of this shape."""
    npy_format: Any = np.lib.format  # without types
    stream = io.BytesIO()
    description = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": shape}
    npy_format.write_array_header_1_0(stream, description)
    return stream.getvalue()


class PackSequences:
    """A SequenceSource over a pack. Every block that is read is verified."""

    kind = "pack"
    cheap_lengths = 1 << 20
    whole_length: tuple[int, int] | None = None

    def __init__(self, folder: Place) -> None:
        """Open and check manifest, checksums and the sizes of the parts. Raises BadInput."""
        self._folder = folder
        name = str(folder)
        self._manifest = manifest = read_manifest(folder)
        self.count = manifest.count
        self._checksums = _read_checksums(folder, manifest)
        self._headers = [len(manifest.header_of(part)) for part in range(manifest.parts)]
        expected = [
            header + manifest.rows_of(part) * manifest.row for part, header in enumerate(self._headers)
        ]
        # The manifest says how large the parts are: no remote side is asked before one is read.
        places = [replace(_inside(folder, part_name(part)), size=size) for part, size in enumerate(expected)]
        self._data = ByteRanges(places, name=name) if places else None
        sizes = self._data.sizes if self._data is not None else ()
        for place, size in zip(places, sizes, strict=True):
            if size != place.size:
                raise BadInput(f"{place}: expected {place.size} bytes, found {size}: it is damaged")
        self._begins = np.cumsum([0, *sizes])[:-1] + np.array(self._headers, dtype=np.int64)
        self.total_bytes = sum(sizes)
        self.whole_length = manifest.source_lengths
        self.token_dtype = manifest.dtype
        self.description = (
            f"{name}: {self.count:,} sequences, the first {manifest.length} tokens, {manifest.dtype}, packed"
        )

    def order_evidence(self) -> OrderEvidence:
        """See SequenceSource.order_evidence: a pack doesn't keep what its sequences came with."""
        return OrderEvidence()

    def read(self, first: int, stop: int, length: int) -> NDArray[np.uint32]:
        """See SequenceSource.read."""
        return self._tokens(check_span(first, stop, self.count, str(self._folder)), length)

    def take(self, ids: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
        """See SequenceSource.take."""
        return self._tokens(check_ids(ids, self.count, str(self._folder)), length)

    def lengths(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """See SequenceSource.lengths: those of the pack; the sequences themselves may be longer."""
        return np.full(len(check_ids(ids, self.count, str(self._folder))), self._manifest.length, np.int64)

    def identity(self) -> dict[str, str | int]:
        """See SequenceSource.identity: that of the sequences which the pack was made of.

        A run on the pack and one on the original are the same run; what a pack can't give (more tokens
        of a sequence) it refuses.
        """
        return dict(self._manifest.source)

    def _tokens(self, ids: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
        check_length(length)
        if length > self._manifest.length:
            sizes = np.full(len(ids), self._manifest.length, np.int64)
            check_long_enough(sizes, ids, length, f"{self._folder} (a pack; make one with a longer context)")
        result = np.empty((len(ids), length), dtype=np.uint32)
        done = 0
        for rows, first, stop in self._blocks(ids):
            end = done + int(np.searchsorted(ids[done:], stop, side="left"))
            result[done:end] = rows[ids[done:end] - first, :length]
            done = end
        return result

    def _blocks(self, ids: NDArray[np.int64]) -> Iterator[tuple[NDArray[Any], int, int]]:
        """The verified blocks that hold these ascending ids, with the ids of their rows."""
        if not len(ids):
            return
        manifest = self._manifest
        parts, within = np.divmod(ids, manifest.rows_a_part)
        blocks = np.unique(parts * manifest.blocks_a_part + within // manifest.rows_a_block)
        some = max(AT_ONCE // (manifest.rows_a_block * manifest.row), 1)
        for start in range(0, len(blocks), some):
            yield from self._verified(blocks[start : start + some])

    def _verified(self, blocks: NDArray[np.int64]) -> Iterator[tuple[NDArray[Any], int, int]]:
        manifest = self._manifest
        assert self._data is not None
        parts, within = np.divmod(blocks, manifest.blocks_a_part)
        first_rows = within * manifest.rows_a_block
        rows = np.array([manifest.rows_of(int(part)) for part in parts], dtype=np.int64)
        sizes = np.minimum(manifest.rows_a_block, rows - first_rows)
        starts = self._begins[parts] + first_rows * manifest.row
        full = sizes == manifest.rows_a_block
        whole = iter(self._data.gather(starts[full], manifest.rows_a_block * manifest.row))
        for i, block in enumerate(blocks.tolist()):
            size = int(sizes[i])
            content = (
                memoryview(next(whole))
                if full[i]
                else memoryview(self._data.read(int(starts[i]), size * manifest.row))
            )
            first = int(parts[i]) * manifest.rows_a_part + int(first_rows[i])
            if hashlib.sha256(content).digest() != self._checksums[block].tobytes():
                raise BadInput(
                    f"{_inside(self._folder, part_name(int(parts[i])))} is damaged: the sequences {first} to "
                    f"{first + size - 1} are not what was packed (their checksum differs): get this file anew"
                )
            tokens = np.frombuffer(content, dtype=np.dtype(manifest.dtype).newbyteorder("<"))
            yield tokens.reshape(size, manifest.length), first, first + size


def is_pack(names: list[str]) -> bool:
    """Whether a folder that holds these names is a pack."""
    return MANIFEST in names and CHECKSUMS in names


def read_manifest(folder: Place) -> Manifest:
    """The manifest of a pack. Raises BadInput if it is missing, damaged or makes no sense."""
    place = _inside(folder, MANIFEST)
    content = read_small(place, MANIFEST_LIMIT, "the manifest of a pack")
    try:
        found = json.loads(content)
        expected = found.pop("sha256")
        if found.pop("format") != FORMAT:
            raise BadInput(f"{place}: packs of this format are not known: use the memoserve that wrote it")
        lengths = found.pop("source_lengths", None)
        manifest = Manifest(**found, source_lengths=None if lengths is None else (lengths[0], lengths[1]))
        numbers = (manifest.count, manifest.length, manifest.rows_a_part, manifest.rows_a_block)
        sound = (
            expected == digest(manifest)
            and all(type(number) is int for number in numbers)
            and 0 <= manifest.count < 2**40
            and min(numbers[1:]) >= 1
            and manifest.length <= 2**20
            and manifest.rows_a_part <= 2**30
            and manifest.parts <= 2**20
            and manifest.dtype in ("uint16", "uint32")
            and isinstance(manifest.source, dict)
            and manifest.source.get("count") == manifest.count
            and all(isinstance(value, str | int) for value in manifest.source.values())
            and all(type(number) is int for number in manifest.source_lengths or ())
        )
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise BadInput(f"{place} is damaged, or not the manifest of a pack")
    return manifest


def digest(manifest: Manifest) -> str:
    return hashlib.sha256(json.dumps(written(manifest), sort_keys=True).encode()).hexdigest()


def written(manifest: Manifest) -> dict[str, Any]:
    """What of a manifest stands in its file: without what isn't known."""
    found = {key: value for key, value in asdict(manifest).items() if value is not None}
    if manifest.source_lengths is not None:
        found["source_lengths"] = list(manifest.source_lengths)
    return found


def _read_checksums(folder: Place, manifest: Manifest) -> NDArray[np.uint8]:
    place = _inside(folder, CHECKSUMS)
    header = npy_header((manifest.blocks, CHECKSUM), "uint8")
    expected = len(header) + manifest.blocks * CHECKSUM
    content = read_small(place, expected, "the checksums of this pack")
    if len(content) != expected or hashlib.sha256(content).hexdigest() != manifest.checksums_sha256:
        raise BadInput(f"{place} is damaged: it is not the list of checksums that {MANIFEST} names")
    # Parts have as many blocks as the first, but for the last: block numbers are part * blocks_a_part + i.
    return np.frombuffer(content, dtype=np.uint8, offset=len(header)).reshape(manifest.blocks, CHECKSUM)


def _inside(folder: Place, name: str) -> Place:
    return folder.sibling(f"{folder.path.rstrip('/')}/{name}")


def part_name(part: int) -> str:
    return f"tokens-{part:05}.npy"
