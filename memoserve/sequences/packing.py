"""Making packs (memoserve.sequences.pack): block after block, whole or not at all, going on after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memoserve.errors import BadInput, StorageFailed
from memoserve.files.lock import try_lock
from memoserve.files.place import Place
from memoserve.files.whole import sync_to_disk, temporary_owner, writing
from memoserve.sequences.checks import length_range
from memoserve.sequences.pack import (
    BEGUN,
    CHECKSUM,
    CHECKSUMS,
    FORMAT,
    MANIFEST,
    Manifest,
    PackSequences,
    digest,
    is_pack,
    npy_header,
    part_name,
    read_manifest,
    written,
)
from memoserve.sequences.source import SequenceSource, check_length

UNFINISHED = ".unfinished"

ROWS_A_PART = 1 << 20

BLOCK_BYTES = 64 << 10
"""Of a block at most: what a single sequence costs to read and verify, less than a request takes anyway."""

AT_ONCE = 8 << 20
"""Bytes that are read, hashed and written together."""

Progress = Callable[[int, int], None]


def write_pack(
    opened: Callable[[], SequenceSource],
    folder: Path,
    length: int,
    rows_a_part: int = ROWS_A_PART,
    progress: Progress | None = None,
) -> Manifest:
    """Write the first `length` tokens of all sequences as a pack, whole or not at all.

    `opened` opens the sequences, at the beginning and once more at the end, to see that they are still the
    same. A pack that was begun goes on; one that is there already is left as it is. `progress` is told how
    many sequences of how many are done. Raises BadInput if the folder holds something else, another writer
    is at it, the sequences are not in training order (which a pack of them wouldn't show), or they changed
    meanwhile, StorageFailed if the disk refuses.
    """
    check_length(length)
    source = opened()
    if against := source.order_evidence().against:
        raise BadInput("; ".join(against))
    dtype = "uint16" if source.token_dtype in ("uint8", "int8", "int16", "uint16") else "uint32"
    rows_a_block = max(BLOCK_BYTES // (length * np.dtype(dtype).itemsize), 1)
    sizes = length_range(source)
    lengths = source.whole_length or (sizes.fewest, sizes.most)
    manifest = Manifest(
        source.count, length, dtype, rows_a_part, rows_a_block, source.identity(), source_lengths=lengths
    )
    if folder.exists():
        return _already(folder, manifest)
    work = folder.with_name(folder.name + UNFINISHED)
    with _file_system(work):
        work.mkdir(parents=True, exist_ok=True)
        with _alone(work):
            _begin(work, manifest)
            digests = _sound_parts(work, manifest)
            for part in range(len(digests), manifest.parts):
                digests.append(_write_part(work, source, manifest, part, progress))
            if opened().identity() != manifest.source:
                raise BadInput(
                    f"the sequences changed while they were packed: delete {work} and pack them again"
                )
            manifest = _finish(work, manifest, b"".join(digests))
            if folder.exists():
                raise BadInput(f"{folder} appeared meanwhile: {work} is whole and stays where it is")
            work.rename(folder)
            sync_to_disk(folder.parent)
    return manifest


def _already(folder: Path, wanted: Manifest) -> Manifest:
    place = Place(str(folder))
    if not folder.is_dir() or not is_pack(os.listdir(folder)):
        raise BadInput(f"{folder} exists and is not a pack: choose another place")
    there = read_manifest(place)
    if (there.source, there.length) != (wanted.source, wanted.length):
        raise BadInput(
            f"{folder} is a pack of other {'sequences' if there.source != wanted.source else 'lengths'} "
            f"({there.count:,} sequences, {there.length} tokens each): choose another place"
        )
    PackSequences(place)
    return there


def _begin(work: Path, manifest: Manifest) -> None:
    """Say what is being packed, or check that it is the same as what was begun."""
    header = work / BEGUN
    wanted = {"format": FORMAT, **written(manifest)}
    if not header.exists():
        _write(header, json.dumps(wanted).encode())
        return
    try:
        begun = json.loads(header.read_bytes())
    except ValueError:
        begun = None
    if begun != wanted:
        raise BadInput(
            f"{work} holds the beginning of another pack (other sequences, context or part size): delete it, "
            "or choose another place"
        )


def _sound_parts(work: Path, manifest: Manifest) -> list[bytes]:
    """The checksums of the parts that are there, whole, and what they were when they were written."""
    digests: list[bytes] = []
    for part in range(manifest.parts):
        noted, data = work / f"{part_name(part)}.sha256", work / part_name(part)
        if not noted.exists() or not data.exists():
            break
        expected = noted.read_bytes()
        header = manifest.header_of(part)
        with open(data, "rb") as content:
            sound = content.read(len(header)) == header
            block = manifest.rows_a_block * manifest.row
            found = b""
            while rows := content.read(block):
                found += hashlib.sha256(rows).digest()
        if not sound or found != expected:
            break
        digests.append(found)
    return digests


def _write_part(
    work: Path, source: SequenceSource, manifest: Manifest, part: int, progress: Progress | None
) -> bytes:
    """Write a part and the checksums of its blocks; the latter come second and say that it is whole."""
    first = part * manifest.rows_a_part
    stop = first + manifest.rows_of(part)
    block = manifest.rows_a_block * manifest.row
    step = max(AT_ONCE // block, 1) * manifest.rows_a_block
    noted, data = work / f"{part_name(part)}.sha256", work / part_name(part)
    noted.unlink(missing_ok=True)
    digests = []

    def read(begin: int) -> bytes:
        tokens = source.read(begin, min(begin + step, stop), manifest.length)
        return _narrow(tokens, begin, manifest.dtype)

    # The next rows are read while these are hashed and written.
    with (
        writing(data) as temporary,
        open(temporary, "wb") as file,
        ThreadPoolExecutor(1, "reader") as reader,
    ):
        file.write(manifest.header_of(part))
        upcoming = reader.submit(read, first)
        for begin in range(first, stop, step):
            content = upcoming.result()
            if begin + step < stop:
                upcoming = reader.submit(read, begin + step)
            digests += [
                hashlib.sha256(content[at : at + block]).digest() for at in range(0, len(content), block)
            ]
            file.write(content)
            if progress is not None:
                progress(min(begin + step, stop), manifest.count)
    _write(noted, b"".join(digests))
    return b"".join(digests)


def _narrow(tokens: NDArray[np.uint32], first: int, dtype: str) -> bytes:
    if dtype == "uint16" and len(tokens) and int(tokens.max()) > 0xFFFF:
        row = int(np.argmax((tokens > 0xFFFF).any(axis=1)))
        raise BadInput(f"sequence {first + row} has a token id above 65535, which its type can't hold")
    return tokens.astype(np.dtype(dtype).newbyteorder("<")).tobytes()


def _finish(work: Path, manifest: Manifest, digests: bytes) -> Manifest:
    """Write what makes the parts a pack, and remove what was only needed to go on."""
    checksums = npy_header((manifest.blocks, CHECKSUM), "uint8") + digests
    whole = replace(manifest, checksums_sha256=hashlib.sha256(checksums).hexdigest())
    _write(work / CHECKSUMS, checksums)
    content = {"format": FORMAT, **written(whole), "sha256": digest(whole)}
    _write(work / MANIFEST, json.dumps(content, indent=2).encode() + b"\n")
    expected = {MANIFEST, CHECKSUMS, *map(part_name, range(manifest.parts))}
    for name in os.listdir(work):
        if name not in expected:
            path = work / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    sync_to_disk(work)
    return whole


@contextmanager
def _alone(work: Path) -> Iterator[None]:
    """Hold the folder; the operating system lets go of it even after kill -9."""
    descriptor = os.open(work, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not try_lock(descriptor):
            raise BadInput(f"{work} is being written by another process: wait for it, or stop it")
        for name in os.listdir(work):
            if temporary_owner(name) is not None:
                (work / name).unlink()  # of a writer that was killed
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _file_system(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageFailed(
            f"{path} could not be written: {error.strerror or error}. What is written of the pack is kept; "
            "the same command goes on from there"
        ) from None


def _write(path: Path, content: bytes) -> None:
    with writing(path) as temporary:
        temporary.write_bytes(content)
