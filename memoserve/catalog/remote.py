"""A remote store as DuckDB reads it: a file system that shows the store's files, and only to readers."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fsspec import AbstractFileSystem
from fsspec.utils import glob_translate

from memoserve.files.base import Entry, Files

if TYPE_CHECKING:
    import duckdb

LISTED_FOR = 10.0
"""Seconds before the store is listed again. One query asks for the same files many times."""


def register(connection: duckdb.DuckDBPyConnection, files: Files) -> StoreFileSystem:
    """Let a connection read the files of a remote store by their URLs."""
    system = StoreFileSystem(files)
    connection.register_filesystem(system)
    return system


class StoreFileSystem(AbstractFileSystem):
    """The few methods that DuckDB calls. There is none that writes."""

    cachable = False

    def __init__(self, files: Files) -> None:
        super().__init__()
        self._files = files
        self.protocol = files.root.partition("://")[0]
        self._found: dict[str, Entry] = {}
        self._listed = -LISTED_FOR

    def glob(self, path: str, **_: Any) -> list[str]:
        """The URLs that match, without their scheme."""
        pattern = re.compile(glob_translate(self._name(path)))
        start = self._files.root.partition("://")[2]
        return [f"{start}/{name}" for name in self._entries() if pattern.match(name)]

    def open(self, path: str, mode: str = "rb", **_: Any) -> _Reader:
        """A file to read."""
        if mode != "rb":
            raise PermissionError(f"{path} is only read here")
        return _Reader(self._files, self._name(path), self.size(path))

    def size(self, path: str) -> int:
        """Bytes of a file."""
        return self._entry(path).size

    def modified(self, path: str) -> datetime:
        """When a file was written: what DuckDB keeps of it in memory is kept only as long as that stays."""
        return self._entry(path).modified or datetime.now(UTC)

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is such a file."""
        return self._name(path) in self._entries()

    isfile = exists

    def isdir(self, path: str) -> bool:
        """Folders are no files of a store."""
        return False

    def _entry(self, path: str) -> Entry:
        name = self._name(path)
        try:
            return self._entries()[name]
        except KeyError:
            raise FileNotFoundError(f"{path} is not in the store") from None

    def _entries(self) -> dict[str, Entry]:
        if time.monotonic() - self._listed > LISTED_FOR:
            self._found = {name: entry for top in _TOPS for name, entry in self._files.below(top).items()}
            self._listed = time.monotonic()
        return self._found

    def _name(self, path: str) -> str:
        """A path or URL relative to the store."""
        bare = path.partition("://")[2] or path
        start = self._files.root.partition("://")[2] + "/"
        if not bare.startswith(start):
            raise FileNotFoundError(f"{path} is outside the store")
        return bare[len(start) :]


_TOPS = ("scores", "sequences", "suites", "checks")


class _Reader:
    """An open file: what DuckDB asks for is one request."""

    def __init__(self, files: Files, name: str, size: int) -> None:
        self._files, self._name, self.size, self._offset = files, name, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to an offset in bytes."""
        self._offset = offset + (0, self._offset, self.size)[whence]
        return self._offset

    def tell(self) -> int:
        """The offset in bytes."""
        return self._offset

    def read(self, length: int = -1) -> bytes:
        """The next bytes."""
        stop = self.size if length < 0 else min(self.size, self._offset + length)
        if stop <= self._offset:
            return b""
        content = self._files.read_range(self._name, self._offset, stop)
        self._offset += len(content)
        return content

    def close(self) -> None:
        """Nothing is held open."""
