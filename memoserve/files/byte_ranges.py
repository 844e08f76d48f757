"""Byte ranges of files, local (pread) or remote (fsspec), one file or several as if concatenated.

Everything that reads sequences by position goes through here, so that local files, buckets and unmerged
shards take one path, and no more than a few MiB of a file are in memory at a time. Local files are read
with pread rather than mapped: a mapped file that is truncated under the reader kills the process.
"""

from __future__ import annotations

import os
import stat
import threading
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memoserve.errors import BadInput, StorageFailed
from memoserve.files.place import Place
from memoserve.files.ranged import RemoteFile, open_ranged

SPAN = 4 << 20
"""Largest single read, bytes."""

REQUESTS = 16
"""Remote reads in flight at once."""

# Reading over a gap is cheaper than another read: a disk reads ahead anyway, and a request costs
# about as much time as some hundred KiB.
LOCAL_GAP = 16 << 10
REMOTE_GAP = 256 << 10

KEPT_OPEN = 256
"""More local files than this are opened for every read: a process may hold only so many open."""


@dataclass(frozen=True)
class FileState:
    """What tells a local file from another of its name, or from itself before it was written to."""

    size: int
    device: int
    inode: int
    modified_ns: int


class ByteRanges:
    """Files that are read as one run of bytes.

    `name` is for messages, `size` the bytes in all, `gap` the distance below which two reads are one.
    """

    def __init__(self, places: Sequence[Place], name: str | None = None) -> None:
        """Open the files. Raises BadInput if one is missing, not a file, or can't be read."""
        self.places = tuple(places)
        self.name = name or str(places[0])
        self.remote = places[0].remote
        self._descriptors: list[int] = []
        self._states: list[FileState] = []
        self._files: list[RemoteFile] = []
        if self.remote is None:
            sizes = []
            for place in places:
                descriptor, state = _open_local(place.path)
                sizes.append(state.size)
                self._states.append(state)
                if len(places) > KEPT_OPEN:
                    os.close(descriptor)
                else:
                    self._descriptors.append(descriptor)
                    weakref.finalize(self, os.close, descriptor)
        else:
            with ThreadPoolExecutor(REQUESTS) as threads:
                sized = list(threads.map(_sized, places))
            sizes = [place.size or 0 for place in sized]
            self._files = [open_ranged(place) for place in sized]
        self._ends = np.cumsum(np.array(sizes, dtype=np.int64))
        self.size = int(self._ends[-1])
        self.sizes = tuple(sizes)
        self.gap = LOCAL_GAP if self.remote is None else REMOTE_GAP

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises BadInput if the file ends before."""
        return next(self.spans([(offset, length)]))

    def spans(self, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """The bytes of each (offset, length), in order, some at a time. Raises as `read`."""
        if self.remote is not None:
            yield from self._remote_spans(spans)
            return
        for offset, length in spans:
            yield b"".join(self._pread(*piece) for piece in self._pieces(offset, length))

    def stream(self, begin: int = 0, stop: int | None = None, block: int = SPAN) -> Iterator[bytes]:
        """The bytes begin..stop-1 (all of them) in order, in blocks of one size and a rest."""
        stop = self.size if stop is None else stop
        return self.spans((offset, min(block, stop - offset)) for offset in range(begin, stop, block))

    def gather(self, starts: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
        """The `width` bytes at each of the ascending offsets: u8[n, width]. Near ones share a read."""
        result = np.empty((len(starts), width), dtype=np.uint8)
        if not len(starts) or not width:
            return result
        cuts = self._cuts(starts, width)
        bounds = list(zip([0, *cuts], [*cuts, len(starts)], strict=True))
        spans = [(int(starts[a]), int(starts[b - 1]) + width - int(starts[a])) for a, b in bounds]
        for (a, b), data in zip(bounds, self.spans(spans), strict=True):
            every = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, dtype=np.uint8), width)
            result[a:b] = every[starts[a:b] - starts[a]]
        return result

    def _cuts(self, starts: NDArray[np.int64], width: int) -> list[int]:
        """Where to start another read: after a wide gap, and before a read would exceed SPAN."""
        gaps = np.flatnonzero(np.diff(starts) > self.gap + width) + 1
        cuts: list[int] = []
        for a, b in zip([0, *gaps.tolist()], [*gaps.tolist(), len(starts)], strict=True):
            if a:
                cuts.append(a)
            begin = a
            while int(starts[b - 1]) + width - int(starts[begin]) > SPAN:
                fits = np.searchsorted(starts[begin:b], starts[begin] + max(SPAN - width, 0), side="right")
                begin += max(int(fits), 1)
                if begin >= b:
                    break
                cuts.append(begin)
        return cuts

    def _pieces(self, offset: int, length: int) -> list[tuple[int, int, int]]:
        """(file, offset in it, length) of a range. Raises BadInput if it leaves the files."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise BadInput(
                f"{self.name} has {self.size} bytes, but bytes {offset} to {offset + length} are needed: "
                "it is truncated or damaged"
            )
        pieces = []
        while length:
            file = int(np.searchsorted(self._ends, offset, side="right"))
            inner = offset - int(self._ends[file]) + self.sizes[file]
            here = min(length, self.sizes[file] - inner)
            pieces.append((file, inner, here))
            offset, length = offset + here, length - here
        return pieces

    def _pread(self, file: int, offset: int, length: int) -> bytes:
        if self._descriptors:
            return _read_fully(self._descriptors[file], offset, length, self.places[file])
        descriptor, state = _open_local(self.places[file].path)
        try:
            self._check_same(file, state)
            return _read_fully(descriptor, offset, length, self.places[file])
        finally:
            os.close(descriptor)

    def check_unchanged(self, file: int) -> None:
        """Raise BadInput if a local file (its position) is another now than when it was opened."""
        if self.remote is None:
            descriptor, state = _open_local(self.places[file].path)
            os.close(descriptor)
            self._check_same(file, state)

    def _check_same(self, file: int, state: FileState) -> None:
        if state != self._states[file]:
            raise BadInput(f"{self.places[file]} changed while it was being read: open it anew")

    def _remote_spans(self, spans: Iterable[tuple[int, int]]) -> Iterator[bytes]:
        """Several requests at once, no more bytes waiting to be taken than those of so many requests."""
        given_up = threading.Event()
        ahead: deque[list[Future[bytes]]] = deque()
        under_way = 0
        threads = ThreadPoolExecutor(REQUESTS, "ranges")
        try:
            for offset, length in spans:
                pieces = self._pieces(offset, length)
                while ahead and under_way + len(pieces) > REQUESTS:
                    under_way -= len(ahead[0])
                    yield b"".join(piece.result() for piece in ahead.popleft())
                ahead.append(
                    [threads.submit(self._files[file].read, at, some, given_up) for file, at, some in pieces]
                )
                under_way += len(pieces)
            for waiting in ahead:
                yield b"".join(piece.result() for piece in waiting)
        finally:
            given_up.set()
            threads.shutdown(wait=False, cancel_futures=True)


def _read_fully(descriptor: int, offset: int, length: int, place: Place) -> bytes:
    chunks = []
    while length:
        try:
            chunk = os.pread(descriptor, length, offset)
        except OSError as error:
            raise StorageFailed(f"{place}: reading at byte {offset}: {error}") from None
        if not chunk:
            raise BadInput(f"{place} was truncated while it was being read, at byte {offset}")
        chunks.append(chunk)
        offset, length = offset + len(chunk), length - len(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _open_local(path: str) -> tuple[int, FileState]:
    try:
        # O_NONBLOCK: a named pipe must not hang here.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise BadInput(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} can't be read: {getattr(error, 'strerror', None) or error}") from None
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise BadInput(f"{path} is not a file")
    return descriptor, FileState(status.st_size, status.st_dev, status.st_ino, status.st_mtime_ns)


def _sized(place: Place) -> Place:
    found = place if place.size is not None else place.look()
    if found is None:
        raise BadInput(f"{place} does not exist")
    return found


def read_small(place: Place, limit: int, what: str) -> bytes:
    """A whole small file. Raises BadInput if it is missing, unreadable or larger than `limit` bytes."""
    if place.remote is None and Path(place.path).is_dir():
        raise BadInput(f"{place} is a folder, not {what}")
    data = ByteRanges([place])
    if data.size > limit:
        raise BadInput(f"{place} has {data.size} bytes: too large for {what}")
    return data.read(0, data.size) if data.size else b""
