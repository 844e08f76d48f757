"""One range of one remote file: asked for again where that may help, and never other bytes than asked for.

A web server can answer a range request with the whole file, with another range, with a part of it, or with
an error page. All of that shows in the status, the headers and the length, which are compared with what was
asked for before a byte is used. What doesn't show there (a server that names the right range and sends other
bytes) is looked for once a file, see WebFile; only checksums, as packs of sequences have, exclude it.
"""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import nullcontext
from typing import Any, Protocol

from memoserve.errors import BadInput, StorageFailed
from memoserve.files.place import Place, protocols
from memoserve.files.retries import PASSING_STATUS, MayPass, persistently, reason, retry_after

STALL = 60.0
"""Seconds without a byte after which a connection is given up."""

EDGE = 16
CHUNK = 1 << 16

# A file system of fsspec that is not asynchronous may hold one connection, or one file object, for everybody
# who reads (ftp, memory): it is asked one thing at a time. The hub's makes its own request for every read.
_ONE_AT_A_TIME = threading.Lock()
_CONCURRENT = frozenset({"hf"})

_ADVICE = "download it and give the local file, or give another address"


class RemoteFile(Protocol):
    """A remote file of known size."""

    def read(self, offset: int, length: int, given_up: threading.Event) -> bytes:
        """Exactly these bytes.

        Raises BadInput if the file is gone, has changed or is not served by ranges, StorageFailed if the
        remote side refuses or keeps failing. Does not go on trying once `given_up` is set.
        """
        ...


def open_ranged(place: Place) -> RemoteFile:
    """The file at `place`, whose size has been looked up."""
    return WebFile(place) if place.web else StoredFile(place)


class StoredFile:
    """A file of a bucket, a hub or another store with an interface of its own, which fsspec speaks."""

    def __init__(self, place: Place) -> None:
        self._place = place

    def read(self, offset: int, length: int, given_up: threading.Event) -> bytes:
        """See RemoteFile.read."""
        with _failures(self._place, offset):
            return persistently(lambda: self._once(offset, length), given_up)

    def _once(self, offset: int, length: int) -> bytes:
        remote, path = self._place.remote, self._place.path
        try:
            if remote.async_impl:
                found = bytes(remote.cat_file(path, start=offset, end=offset + length))
            else:
                turn = nullcontext() if _CONCURRENT & set(protocols(remote)) else _ONE_AT_A_TIME
                # Without cache_type, a buffered file fetches some MiB ahead for 128 bytes.
                with turn, remote.open(path, "rb", cache_type="none") as opened:
                    opened.seek(offset)
                    found = bytes(opened.read(length))
        except (FileNotFoundError, PermissionError):
            raise
        except NotImplementedError:
            raise BadInput(f"{self._place}: its file system can't read ranges; {_ADVICE}") from None
        except Exception as error:  # each file system has exceptions of its own
            raise MayPass(reason(error)) from error
        if len(found) > length:
            raise BadInput(
                f"{self._place}: {length} bytes at {offset} were asked for, {len(found)} came: it is not "
                f"served by ranges; {_ADVICE}"
            )
        if len(found) < length:
            raise MayPass(f"{length} bytes were asked for, {len(found)} came: the file may have changed")
        return found


class WebFile:
    """A file on a web server, whose answers are checked against what was asked for.

    Before the first read its first and its last bytes are read: there is none before or after them, so a
    server whose ranges are off by any distance can't answer both.
    """

    def __init__(self, place: Place) -> None:
        assert place.size is not None
        self._place = place
        self._size = place.size
        self._versions: dict[str, str] = {}
        self._tried = False
        self._trying = threading.Lock()

    def read(self, offset: int, length: int, given_up: threading.Event) -> bytes:
        """See RemoteFile.read."""
        with _failures(self._place, offset):
            with self._trying:
                if not self._tried:
                    edge = min(EDGE, self._size)
                    for at in {0, self._size - edge}:
                        self._range(at, edge, given_up)
                    self._tried = True
            return self._range(offset, length, given_up)

    def _range(self, offset: int, length: int, given_up: threading.Event) -> bytes:
        import fsspec.asyn

        found = bytearray()

        def once() -> None:
            # What came before a connection broke was checked like the rest: only the rest is asked for.
            try:
                fsspec.asyn.sync(self._place.remote.loop, self._request, offset, length, found)
            except (BadInput, StorageFailed, FileNotFoundError, PermissionError, MayPass):
                raise
            except Exception as error:  # of aiohttp and of the network, none of them about the answer
                raise MayPass(reason(error)) from error

        persistently(once, given_up)
        return bytes(found)

    async def _request(self, begin: int, length: int, found: bytearray) -> None:
        """Ask for what is still missing in `found` of the range, and append what comes."""
        remote = self._place.remote
        session = await remote.set_session()
        offset, missing = begin + len(found), length - len(found)
        options = dict(remote.kwargs)
        options["headers"] = {
            **(options.get("headers") or {}),
            "Range": f"bytes={offset}-{offset + missing - 1}",
            "Accept-Encoding": "identity",  # ranges are those of the file, not of something packed
        }
        address = remote.encode_url(self._place.path)
        answer = await asyncio.wait_for(session.get(address, **options), STALL)
        try:
            self._check(answer.status, answer.headers, offset, missing)
            while missing:
                chunk = await asyncio.wait_for(answer.content.read(min(CHUNK, missing)), STALL)
                if not chunk:
                    raise MayPass(f"the connection ended {missing} bytes before the end of the range")
                found += chunk
                missing -= len(chunk)
        finally:
            if answer.content.at_eof():
                answer.release()
            else:
                answer.close()  # not read on: it could be the rest of a very large file

    def _check(self, status: int, headers: Any, offset: int, length: int) -> None:
        """Whether an answer is about these bytes of this file. Raises otherwise, before the body is read."""
        if status in (404, 410):
            raise FileNotFoundError
        if status in (401, 403, 407):
            raise PermissionError(f"the server answers {status}")
        if status in PASSING_STATUS:
            raise MayPass(f"the server answers {status}", retry_after(headers))
        if status == 416:
            raise BadInput(f"{self._place} is no longer {self._size} bytes long: open it anew")
        if status not in (200, 206):
            raise StorageFailed(f"{self._place}: reading at byte {offset}: the server answers {status}")
        if headers.get("Content-Encoding", "identity") not in ("", "identity"):
            raise BadInput(
                f"{self._place}: its server packs what it sends ({headers['Content-Encoding']}), so that "
                f"ranges mean nothing; {_ADVICE}"
            )
        if status == 200 and (offset, length) != (0, self._size):
            raise BadInput(f"{self._place}: its server doesn't answer range requests; {_ADVICE}")
        if status == 206:
            self._check_range(headers.get("Content-Range", ""), offset, length)
        if int(headers.get("Content-Length", length)) != length:
            raise BadInput(
                f"{self._place}: {length} bytes at {offset} were asked for, its server sends "
                f"{headers['Content-Length']}; {_ADVICE}"
            )
        # A weak ETag may be the same for other bytes; what was last modified then is at least not newer.
        name = "Last-Modified" if headers.get("ETag", "W/").startswith("W/") else "ETag"
        version = headers.get(name)
        if version:
            before = self._versions.setdefault(name, version)
            if version != before:
                raise BadInput(
                    f"{self._place} changed while it was being read (its {name} was {before}, is now "
                    f"{version}): open it anew"
                )

    def _check_range(self, named: str, offset: int, length: int) -> None:
        match = re.fullmatch(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", named.strip())
        if match is None or (int(match[1]), int(match[2])) != (offset, offset + length - 1):
            raise BadInput(
                f"{self._place}: bytes {offset}-{offset + length - 1} were asked for, its server sends "
                f"{named.strip()[:80] or 'an unnamed range'!r}; {_ADVICE}"
            )
        if match[3] != "*" and int(match[3]) != self._size:
            raise BadInput(
                f"{self._place} is now {match[3]} bytes long, it was {self._size}: it changed while it was "
                "being read"
            )


class _failures:  # noqa: N801 - reads as a statement: with _failures(place, offset):
    """What a remote side raises, as BadInput or StorageFailed naming the file."""

    def __init__(self, place: Place, offset: int) -> None:
        self._place = place
        self._offset = offset

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, FileNotFoundError):
            raise BadInput(f"{self._place} is no longer there") from None
        if isinstance(error, PermissionError):
            raise BadInput(f"{self._place} may not be read ({error}): check your credentials") from None
        if isinstance(error, MayPass):
            wanted = f" (and wants to be left alone for {error.pause:.0f} s)" if error.pause else ""
            raise StorageFailed(
                f"{self._place}: reading at byte {self._offset}: {error}{wanted}. It was asked repeatedly: "
                "try again later; what is whole is kept"
            ) from None
