r"""Megatron / GPT-NeoX indexed datasets: an .idx file and a .bin file, or its unmerged shards.

.idx, little endian: magic `MMIDIDX\0\0`, version u64 = 1, dtype code u8, sequence count u64, document
count u64, sizes i32[count] (tokens), pointers i64[count] (bytes into the data), document index
i64[documents], and in a multimodal one a mode i8[count]. .bin: the token ids. Source: MMapIndexedDataset in
GPT-NeoX, IndexedDataset in Megatron-LM.
"""

from __future__ import annotations

import re
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from memoserve.errors import BadInput
from memoserve.files.byte_ranges import REQUESTS, ByteRanges
from memoserve.files.place import Place
from memoserve.sequences.foreign import foreign_kind
from memoserve.sequences.identity import sampled_sha256
from memoserve.sequences.megatron_order import ADVICE, IndexFacts, IndexReader, order_files
from memoserve.sequences.order import OrderEvidence
from memoserve.sequences.source import as_token_ids, check_ids, check_length, check_long_enough, check_span

MAGIC = b"MMIDIDX\0\0"
HEADER = struct.Struct("<9sQBQQ")
DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
FLOATS = {6: "float32", 7: "float64"}

# document-00003-of-00020.bin. What follows `of` is the last number in the shards that were published
# for Pythia (21 files, 00000 to 00020), the number of shards elsewhere.
SHARD = re.compile(r"(?P<prefix>.*)-(?P<number>\d{5})-of-(?P<of>\d{5})\.bin", re.DOTALL)


class MegatronSequences:
    """A SequenceSource over an .idx file and its data. See the module for the format."""

    kind = "megatron"
    cheap_lengths = 1 << 20
    whole_length: tuple[int, int] | None = None

    def __init__(self, index: Place, data: list[Place]) -> None:
        """Open and check: header, length of the index, size of the data. Raises BadInput."""
        self._index = ByteRanges([index])
        self._data = ByteRanges(data, name=_data_name(data))
        self.count, self._documents, code = self._header()
        self._dtype = np.dtype(DTYPES[code])
        self._sizes_at = HEADER.size
        self._pointers_at = HEADER.size + 4 * self.count
        expected = HEADER.size + 12 * self.count + 8 * self._documents
        self._modes_at = expected
        if self._index.size not in (expected, expected + self.count):
            raise BadInput(
                f"{self._index.name}: its header says {self.count:,} sequences and {self._documents:,} "
                f"documents, which take {expected} bytes (with a mode each, {expected + self.count}), but "
                f"{self._index.size} bytes were found: it is truncated or damaged"
            )
        self.total_bytes = self._data.size
        self.token_dtype = self._dtype.name
        self._check_data_size()
        self.description = f"{self._data.name}: {self.count:,} sequences, {self.token_dtype}, Megatron index"
        self._identity: dict[str, str | int] | None = None
        self._facts: IndexFacts | None = None  # where the whole index has passed

    def order_evidence(self) -> OrderEvidence:
        """See SequenceSource.order_evidence: an index of documents, files that say another order."""
        found = [f"{self._index.name}: {sentence}" for sentence in self._read_index().contradictions()]
        beside = list(order_files(self._index.places[0]))
        if beside:
            names = ", ".join(beside[:3]) + (" ..." if len(beside) > 3 else "")
            found.append(
                f"beside {self._index.name} lie {names}, which say in which order training read it; they are "
                "not read yet"
            )
        if found:
            return OrderEvidence(against=(*found, ADVICE))
        return OrderEvidence(support="the index is of sequences of one length, not of documents")

    def read(self, first: int, stop: int, length: int) -> NDArray[np.uint32]:
        """See SequenceSource.read."""
        return self._tokens(check_span(first, stop, self.count, self._index.name), length)

    def take(self, ids: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
        """See SequenceSource.take."""
        return self._tokens(check_ids(ids, self.count, self._index.name), length)

    def lengths(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """See SequenceSource.lengths."""
        return self._entries(check_ids(ids, self.count, self._index.name))[0]

    def identity(self) -> dict[str, str | int]:
        """See SequenceSource.identity: `index_sha256` is that of the whole .idx."""
        if self._identity is None:
            self._identity = {
                "kind": self.kind,
                "count": self.count,
                "bytes": self.total_bytes,
                "index_sha256": self._read_index().sha256,
                "data_sha256": sampled_sha256(self._data),
            }
        return dict(self._identity)

    def _header(self) -> tuple[int, int, int]:
        name = self._index.name
        if self._index.size < HEADER.size:
            raise BadInput(
                f"{name} is not a Megatron index: a header has {HEADER.size} bytes, it has {self._index.size}"
            )
        magic, version, code, count, documents = HEADER.unpack(self._index.read(0, HEADER.size))
        if magic != MAGIC:
            raise BadInput(
                f"{name} is not a Megatron index: expected {MAGIC!r} at its start, found {magic!r}"
                + (" (the older TNTIDX format is not read)" if magic.startswith(b"TNTIDX") else "")
            )
        if version != 1:
            raise BadInput(f"{name}: Megatron index version {version}; only version 1 is known")
        if code in FLOATS:
            raise BadInput(f"{name} holds {FLOATS[code]} numbers (dtype code {code}), not token ids")
        if code not in DTYPES:
            raise BadInput(f"{name}: dtype code {code} is not one of {', '.join(map(str, sorted(DTYPES)))}")
        return count, documents, code

    def _read_index(self) -> IndexFacts:
        """What the whole .idx says, read once.

        Where all sequences are of one size, no entry has to be read again: a remote sample costs one request
        a sequence and not three.
        """
        if self._facts is None:
            index = self._index
            reader = IndexReader(index.read(0, self._sizes_at), self.count, self._dtype.itemsize)
            for block in index.stream(self._sizes_at, self._pointers_at):
                reader.sizes(block)
            for block in index.stream(self._pointers_at, self._pointers_at + 8 * self.count):
                reader.pointers(block)
            for block in index.stream(self._pointers_at + 8 * self.count, self._modes_at):
                reader.documents(block)
            for block in index.stream(self._modes_at):
                reader.modes(block)
            self._facts = reader.facts()
        return self._facts

    def _check_data_size(self) -> None:
        """The last sequence must end where the data end."""
        expected = 0
        if self.count:
            last = np.array([self.count - 1], dtype=np.int64)
            size, pointer = self._raw_entries(last)
            expected = int(pointer[0]) + int(size[0]) * self._dtype.itemsize
            if size[0] < 0 or pointer[0] < 0:
                raise BadInput(f"{self._index.name}: its last entry is damaged (negative size or pointer)")
        if expected != self._data.size:
            raise BadInput(
                f"{self._data.name}: expected {expected} bytes by {self._index.name}, "
                f"found {self._data.size}: it is truncated, shards are missing, or it belongs elsewhere"
            )

    def _raw_entries(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        sizes = self._index.gather(self._sizes_at + 4 * ids, 4).view("<i4")[:, 0].astype(np.int64)
        pointers = self._index.gather(self._pointers_at + 8 * ids, 8).view("<i8")[:, 0].astype(np.int64)
        return sizes, pointers

    def _entries(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Sizes in tokens and pointers of ascending ids, checked against their neighbours.

        In this format every sequence begins where the one before it ends, so a damaged entry shows.
        """
        if not len(ids):
            return ids, ids
        uniform = self._facts.uniform if self._facts is not None else None
        if uniform is not None:
            return np.full(len(ids), uniform, np.int64), ids * (uniform * self._dtype.itemsize)
        around = np.unique(np.clip(np.concatenate([ids - 1, ids, ids + 1]), 0, self.count - 1))
        sizes, pointers = self._raw_entries(around)
        width = self._dtype.itemsize
        wrong = (sizes < 0) | (pointers < 0) | (pointers > self._data.size - sizes * width)
        if around[0] == 0:
            wrong[0] |= pointers[0] != 0
        follows = np.diff(around) == 1
        wrong[1:] |= follows & (pointers[1:] != pointers[:-1] + sizes[:-1] * width)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise BadInput(
                f"{self._index.name} is damaged: sequence {int(around[at])} has {int(sizes[at])} tokens "
                f"at byte {int(pointers[at])}, which doesn't follow on the sequence before it or leaves the "
                f"{self._data.size} bytes of {self._data.name}"
            )
        at_ids = np.searchsorted(around, ids)
        return sizes[at_ids], pointers[at_ids]

    def _tokens(self, ids: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
        check_length(length)
        sizes, pointers = self._entries(ids)
        check_long_enough(sizes, ids, length, self._index.name)
        found = self._data.gather(pointers, length * self._dtype.itemsize).view(self._dtype)
        return as_token_ids(found, ids, self._data.name)


def open_megatron(place: Place) -> MegatronSequences:
    """Open the dataset of which `place` is the .idx, the .bin, one of the shards, or the prefix.

    Raises BadInput if a file is missing or they don't fit.
    """
    path = place.path
    shard = SHARD.fullmatch(path)
    prefix = shard["prefix"] if shard is not None else re.sub(r"\.(idx|bin)$", "", path)
    index = place.sibling(prefix + ".idx")
    if not index.exists():
        raise BadInput(_without_index(place, index))
    merged = place.sibling(prefix + ".bin")
    if shard is None and merged.exists():
        return MegatronSequences(index, [merged])
    return MegatronSequences(index, _shards(place, prefix, shard["of"] if shard is not None else None))


def _without_index(place: Place, index: Place) -> str:
    missing = f"{index} does not exist: {place} needs its index beside it"
    if not place.path.endswith(".bin") or not place.exists():
        return missing
    folder, _, name = place.path.rpartition("/")
    if place.sibling(f"{folder}/index.json" if folder else "index.json").exists():
        foreign = foreign_kind(name, ("index.json",))
        if foreign is not None:
            return f"{place} {foreign}"
    return (
        f"{missing}; if it is raw token ids (numpy.tofile, a memmap), it doesn't say how it is cut: "
        "read it with numpy.fromfile and the type it was written with, cut it as training did, "
        "reshape(-1, LENGTH), and numpy.save that as a .npy"
    )


def _shards(place: Place, prefix: str, of: str | None) -> list[Place]:
    """The shards of `prefix`.bin in order. `of` as the name of one says, None: look for it."""
    if of is None:
        pattern = re.sub(r"([*?[])", r"[\1]", prefix)
        digits = "[0-9]" * 5
        try:
            found = place.glob(f"{pattern}-{digits}-of-{digits}.bin")
        except BadInput:  # a plain web server has no listing
            found = []
        totals = {match["of"] for match in map(SHARD.fullmatch, found) if match is not None}
        if not totals:
            raise BadInput(
                f"neither {place.sibling(prefix + '.bin')} nor shards of it ({prefix.rsplit('/', 1)[-1]}"
                "-00000-of-….bin) were found; if they lie on a web server, give the address of one shard"
            )
        if len(totals) > 1:
            raise BadInput(
                f"{place.sibling(prefix)}: shards of different sets (of {', '.join(sorted(totals))}) "
                "lie side by side: give one shard of the set that is meant"
            )
        of = totals.pop()
    names = [f"{prefix}-{number:05}-of-{of}.bin" for number in range(int(of) + 1)]
    with ThreadPoolExecutor(REQUESTS) as threads:
        found_there = list(threads.map(lambda name: place.sibling(name).look(), names))
    # Numbered 0..of (Pythia) or 0..of-1; which one, and whether the last is missing, the sizes tell.
    missing = [name for name, shard in zip(names, found_there[:-1], strict=False) if shard is None]
    if missing:
        raise BadInput(
            f"{len(missing)} shards (-of-{of}.bin) are missing: "
            + ", ".join(str(place.sibling(name)) for name in missing[:3])
            + (" ..." if len(missing) > 3 else "")
        )
    shards = [shard for shard in found_there if shard is not None]
    if not shards:
        raise BadInput(f"{place}: a set of 0 shards")
    return shards


def _data_name(data: list[Place]) -> str:
    return str(data[0]) if len(data) == 1 else f"{data[0]} and the {len(data) - 1} shards after it"
