"""A folder behind a URL: any file system that fsspec knows.

An object is put in one request (or one completed multipart upload), so it is there whole or not at all.
Listings are never cached: another machine may have written since. Credentials and endpoints are fsspec's and
its file systems' own: their environment variables and ~/.config/fsspec. What is read is asked for again as
memoserve.files.retries says; repeating what is written is left to the file systems, which know how.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memoserve.errors import GOES_ON, BadInput, StorageFailed
from memoserve.files.base import Entry, Files
from memoserve.files.lease import Lease
from memoserve.files.local import LocalFiles
from memoserve.files.place import file_system, protocols
from memoserve.files.retries import asked_again, reason


def remote_folder(url: str) -> Files:
    """The folder at `url`. Raises BadInput if nothing can open it."""
    scheme = url.partition("://")[0]
    if "::" in scheme:
        raise BadInput(f"{url} is a chain of file systems: a store needs one, such as s3://bucket/store")
    # Cached listings would hide what others write; read-ahead would fetch what nobody asked for.
    system, base = file_system(url, use_listings_cache=False, default_cache_type="none")
    if "file" in protocols(system):
        return LocalFiles(Path(base))
    return RemoteFiles(url.rstrip("/"), system, base.rstrip("/"))


class RemoteFiles:
    """A folder on an fsspec file system."""

    def __init__(self, root: str, system: Any, base: str) -> None:
        self._root, self._system, self._base = root, system, base
        self._lease: Lease | None = None

    @property
    def root(self) -> str:
        """See Files."""
        return self._root

    def location(self, name: str) -> str:
        """See Files."""
        return f"{self._root}/{name}" if name else self._root

    def names(self, folder: str) -> list[str]:
        """See Files."""
        return sorted(bare for bare, _ in self._listed(folder))

    def entries(self, folder: str) -> dict[str, Entry]:
        """See Files."""
        return {bare: _entry(info) for bare, info in sorted(self._listed(folder)) if info["type"] == "file"}

    def below(self, folder: str) -> dict[str, Entry]:
        """See Files."""
        with self._asking(folder, "read"):
            found = asked_again(lambda: self._system.find(self._path(folder), detail=True))
            start = len(self._base) + 1
            return {path[start:]: _entry(info) for path, info in sorted(found.items()) if len(path) > start}

    def read(self, name: str) -> bytes:
        """See Files."""
        with self._asking(name, "read"):
            return bytes(asked_again(lambda: self._system.cat_file(self._path(name))))

    def read_range(self, name: str, first: int, stop: int) -> bytes:
        """See Files."""
        with self._asking(name, "read"):
            return bytes(asked_again(lambda: self._system.cat_file(self._path(name), start=first, end=stop)))

    def write(self, name: str, content: bytes) -> None:
        """See Files."""
        self._still_held()
        with self._asking(name, "written"):
            self._system.pipe_file(self._path(name), content)

    def create(self, name: str, content: bytes) -> None:
        """See Files. Where the file system has no conditional put, a look before has to do."""
        self._still_held()
        try:
            with self._asking(name, "written"):
                try:
                    self._system.pipe_file(self._path(name), content, mode="create")
                except (NotImplementedError, TypeError, ValueError):
                    if self._system.exists(self._path(name)):
                        raise FileExistsError(self.location(name)) from None
                    self._system.pipe_file(self._path(name), content)
        except FileExistsError:
            # A put that was repeated because its answer got lost finds itself.
            try:
                there = self.read(name)
            except FileNotFoundError:
                there = b""  # the other one was taken back
            if there != content:
                raise FileExistsError(self.location(name)) from None

    def remove(self, name: str) -> None:
        """See Files."""
        with self._asking(name, "removed"), suppress(FileNotFoundError):
            self._system.rm_file(self._path(name))

    def move(self, name: str, to: str) -> None:
        """See Files. First the new one, then the old one goes: a killed move leaves both."""
        self.write(to, self.read(name))
        self.remove(name)

    @contextmanager
    def held(self) -> Iterator[None]:
        """See Files. The hold is a lease: see there what happens when its holder dies."""
        with Lease(self) as lease:
            self._lease = lease
            try:
                yield
            finally:
                self._lease = None

    def _still_held(self) -> None:
        if self._lease is not None:
            self._lease.check()

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}" if name else self._base

    def _listed(self, folder: str) -> list[tuple[str, dict[str, Any]]]:
        """Bare names with what the file system says of them; a folder may list itself."""
        path = self._path(folder)
        with self._asking(folder, "read"):
            try:
                found = asked_again(lambda: self._system.ls(path, detail=True))
            except FileNotFoundError:
                return []
        inside = [(info["name"].strip("/"), info) for info in found]
        return [(name.rsplit("/", 1)[-1], info) for name, info in inside if name != path.strip("/")]

    @contextmanager
    def _asking(self, name: str, done: str) -> Iterator[None]:
        """Turn what a file system may raise into StorageFailed, but for a file that is or isn't there."""
        try:
            yield
        except (FileExistsError, StorageFailed):
            raise
        except Exception as error:  # each file system has exceptions of its own
            if isinstance(error, FileNotFoundError) and done != "written":
                raise
            denied = isinstance(error, PermissionError)
            advice = "the credentials must allow it" if denied else "check the address and the network"
            raise StorageFailed(
                f"{self.location(name)} could not be {done}: {reason(error)} ({advice}).\n{GOES_ON}"
            ) from error


def _entry(info: dict[str, Any]) -> Entry:
    keys = ("LastModified", "mtime", "updated", "created", "last_modified")
    modified = next((info[key] for key in keys if info.get(key)), None)
    if isinstance(modified, int | float):
        modified = datetime.fromtimestamp(modified, UTC)
    elif isinstance(modified, str):
        modified = datetime.fromisoformat(modified)
    return Entry(int(info.get("size") or 0), modified)
