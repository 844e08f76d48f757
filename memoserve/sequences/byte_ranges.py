"""Byte ranges of files, local (pread) or remote (fsspec), one file or several as if concatenated.

Everything that reads sequences by position goes through here, so that local files, buckets and unmerged
shards take one path, and no more than a few MiB of a file are in memory at a time. Local files are read
with pread rather than mapped: a mapped file that is truncated under the reader kills the process.
"""

from __future__ import annotations

import os
import stat
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.errors import BadInput, StorageFailed

SPAN = 4 << 20
"""Largest single read, bytes."""

REQUESTS = 16
"""Remote reads in flight at once."""

# Reading over a gap is cheaper than another read: a disk reads ahead anyway, and a request costs
# about as much time as some hundred KiB.
LOCAL_GAP = 16 << 10
REMOTE_GAP = 256 << 10

ATTEMPTS = 4
FIRST_PAUSE = 1.0
"""Seconds before a failed remote read is tried again; four times as long before every further try."""

KEPT_OPEN = 256
"""More local files than this are opened for every read: a process may hold only so many open."""


@dataclass(frozen=True)
class Place:
    """A path on a file system: `remote` is an fsspec file system, None for local files."""

    path: str
    remote: Any = None

    def __str__(self) -> str:
        return self.path if self.remote is None else str(self.remote.unstrip_protocol(self.path))

    def sibling(self, path: str) -> Place:
        """Another path on the same file system."""
        return Place(path, self.remote)

    @property
    def web(self) -> bool:
        """Whether it is an http(s) address: such have no folders, and `?` is no pattern there."""
        return self.remote is not None and not {"http", "https"}.isdisjoint(_protocols(self.remote))

    def exists(self) -> bool:
        """Whether there is something. Raises BadInput if the remote side doesn't answer."""
        if self.remote is None:
            return os.path.exists(self.path)
        if self.web:  # fsspec would begin to fetch the file; this asks for its headers
            return bool(_ask(self, self._answers))
        return bool(_ask(self, lambda: self.remote.exists(self.path)))

    def _answers(self) -> bool:
        try:
            return bool(self.remote.info(self.path))
        except FileNotFoundError as error:
            # fsspec calls every failure so: a server that refuses or is away is another matter.
            if error.__cause__ is None or getattr(error.__cause__, "status", None) in (404, 410):
                return False
            raise

    def is_folder(self) -> bool:
        """Whether it is a folder. Raises BadInput if the remote side doesn't answer."""
        if self.remote is None:
            return os.path.isdir(self.path)
        if self.web:  # fsspec would fetch the whole file to look for links in it
            return False
        return bool(_ask(self, lambda: self.remote.isdir(self.path)))

    def glob(self, pattern: str) -> list[str]:
        """Paths on this file system that match, sorted."""
        if self.remote is None:
            import glob

            return sorted(glob.glob(pattern))
        return sorted(_ask(self, lambda: self.remote.glob(pattern)))

    def names(self) -> list[str]:
        """Names of what the folder holds, sorted."""
        if self.remote is None:
            try:
                return sorted(os.listdir(self.path))
            except OSError as error:
                raise BadInput(f"{self.path} can't be read: {error.strerror or error}") from None
        listed = _ask(self, lambda: self.remote.ls(self.path, detail=False))
        return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in listed)


def locate(path: str) -> Place:
    """Where a path or URL (any that fsspec knows) points. Raises BadInput if nothing can open it."""
    if "\0" in path:
        raise BadInput(f"{path!r} is not a path")
    if "://" not in path:
        return Place(os.path.expanduser(path))
    import fsspec

    try:
        remote, inner = fsspec.core.url_to_fs(path)
    except ImportError as error:
        raise BadInput(f"{path} needs a package that is not installed: {error}") from None
    except Exception as error:  # each file system has exceptions of its own
        raise BadInput(f"{path} can't be opened: {_text(error)}") from None
    if "file" in _protocols(remote):
        return Place(inner)
    return Place(inner, remote)


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
        if self.remote is None:
            sizes = []
            for place in places:
                descriptor, size = _open_local(place.path)
                sizes.append(size)
                if len(places) > KEPT_OPEN:
                    os.close(descriptor)
                else:
                    self._descriptors.append(descriptor)
                    weakref.finalize(self, os.close, descriptor)
        else:
            sizes = [_remote_size(place) for place in places]
        self._ends = np.cumsum(np.array(sizes, dtype=np.int64))
        self.size = int(self._ends[-1])
        self.sizes = tuple(sizes)
        self.gap = LOCAL_GAP if self.remote is None else REMOTE_GAP

    def read(self, offset: int, length: int) -> bytes:
        """Exactly these bytes. Raises BadInput if the file ends before."""
        return next(self.spans([(offset, length)]))

    def spans(self, spans: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        """The bytes of each (offset, length), in order, some at a time. Raises as `read`."""
        if self.remote is None:
            for offset, length in spans:
                yield b"".join(self._pread(*piece) for piece in self._pieces(offset, length))
            return
        for start in range(0, len(spans), REQUESTS):
            wave = [self._pieces(offset, length) for offset, length in spans[start : start + REQUESTS]]
            fetched = iter(self._fetch([piece for pieces in wave for piece in pieces]))
            for pieces in wave:
                yield b"".join(next(fetched) for _ in pieces)

    def stream(self, block: int = SPAN) -> Iterator[bytes]:
        """All bytes from the first to the last."""
        spans = ((offset, min(block, self.size - offset)) for offset in range(0, self.size, block))
        while batch := list(islice(spans, REQUESTS)):
            yield from self.spans(batch)

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
        descriptor, _ = _open_local(self.places[file].path)
        try:
            return _read_fully(descriptor, offset, length, self.places[file])
        finally:
            os.close(descriptor)

    def _fetch(self, pieces: Sequence[tuple[int, int, int]]) -> list[bytes]:
        """Remote pieces, several requests at once; what fails is asked for again after a pause."""
        results: list[bytes | Exception] = [b""] * len(pieces)
        waiting = list(range(len(pieces)))
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(FIRST_PAUSE * 4 ** (attempt - 1))
            answers = self._request([pieces[i] for i in waiting])
            for i, answer in zip(waiting, answers, strict=True):
                results[i] = answer
            waiting = [i for i in waiting if _may_pass(results[i])]
            if not waiting:
                break
        whole: list[bytes] = []
        for (file, offset, length), answer in zip(pieces, results, strict=True):
            if isinstance(answer, FileNotFoundError):
                raise BadInput(f"{self.places[file]} is no longer there")
            if isinstance(answer, Exception):
                raise StorageFailed(f"{self.places[file]}: reading at byte {offset}: {_text(answer)}")
            if len(answer) != length:
                raise BadInput(
                    f"{self.places[file]}: {length} bytes at {offset} were asked for, {len(answer)} came: "
                    "the file changed, or its server doesn't answer range requests"
                )
            whole.append(answer)
        return whole

    def _request(self, pieces: Sequence[tuple[int, int, int]]) -> list[bytes | Exception]:
        def one(piece: tuple[int, int, int]) -> bytes | Exception:
            file, offset, length = piece
            try:
                # Without cache_type, a buffered file fetches some MiB ahead for 128 bytes.
                with self.remote.open(self.places[file].path, "rb", cache_type="none") as opened:
                    opened.seek(offset)
                    return bytes(opened.read(length))
            except Exception as error:  # each file system has exceptions of its own
                return error

        if not self.remote.async_impl:
            with ThreadPoolExecutor(REQUESTS) as threads:
                return list(threads.map(one, pieces))
        try:
            return list(
                self.remote.cat_ranges(
                    [self.places[file].path for file, _, _ in pieces],
                    [offset for _, offset, _ in pieces],
                    [offset + length for _, offset, length in pieces],
                    on_error="return",
                )
            )
        except Exception as error:
            return [error] * len(pieces)


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


def _may_pass(answer: bytes | Exception) -> bool:
    """Whether it is an error that another try could be spared."""
    return isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError | PermissionError)


def _open_local(path: str) -> tuple[int, int]:
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
    return descriptor, status.st_size


def _remote_size(place: Place) -> int:
    info = _ask(place, lambda: place.remote.info(place.path))
    size = info.get("size")
    if info.get("type") == "directory":
        raise BadInput(f"{place} is a folder, not a file")
    if not isinstance(size, int) or size < 0:
        raise BadInput(
            f"{place}: the server doesn't say how large it is; download it and give the local file"
        )
    if size and place.web:
        # A server that ignores ranges would send all of the file for every read; fsspec's file object
        # notices, its range calls do not.
        def last_byte() -> bytes:
            with place.remote.open(place.path, "rb", cache_type="none") as opened:
                opened.seek(size - 1)
                return bytes(opened.read(1))

        if len(_ask(place, last_byte)) != 1:
            raise BadInput(f"{place}: its server doesn't answer range requests; download it first")
    return size


def _protocols(remote: Any) -> tuple[str, ...]:
    return (remote.protocol,) if isinstance(remote.protocol, str) else tuple(remote.protocol)


def _ask(place: Place, question: Any) -> Any:
    try:
        return question()
    except FileNotFoundError as error:
        why = f" ({_text(error.__cause__)})" if error.__cause__ is not None else ""
        raise BadInput(
            f"{place} does not exist or doesn't answer{why}" if why else f"{place} does not exist"
        ) from None
    except Exception as error:  # each file system has exceptions of its own
        raise BadInput(f"{place} can't be read: {_text(error)}") from None


def _text(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def read_small(path: str, limit: int, what: str) -> bytes:
    """A whole small file. Raises BadInput if it is missing, unreadable or larger than `limit` bytes."""
    place = locate(path)
    if place.remote is None and Path(place.path).is_dir():
        raise BadInput(f"{path} is a folder, not {what}")
    data = ByteRanges([place])
    if data.size > limit:
        raise BadInput(f"{path} has {data.size} bytes: too large for {what}")
    return data.read(0, data.size) if data.size else b""
