"""A folder of files that are there whole or not at all, wherever it is.

Everything a store reads or writes goes through `Files`, so that a folder and a bucket differ here only.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True)
class Entry:
    """What a listing says of a file: its size in bytes, and when it was written (None: not told)."""

    size: int
    modified: datetime | None


class Files(Protocol):
    """A folder. Names are relative to it, with slashes; they end in a file's own name.

    Every method raises StorageFailed where the file system refuses, FileNotFoundError for a file that isn't
    there.
    """

    @property
    def root(self) -> str:
        """The folder itself, as its user named it: a path or a URL, without a slash at the end."""

    def location(self, name: str) -> str:
        """The full path or URL of a name."""

    def names(self, folder: str) -> list[str]:
        """The bare names of what a folder holds directly, sorted; none for a folder that isn't there."""

    def entries(self, folder: str) -> dict[str, Entry]:
        """The files directly in a folder, by bare name; none for a folder that isn't there."""

    def below(self, folder: str) -> dict[str, Entry]:
        """All files in a folder and in what is in it, by name, in order."""

    def read(self, name: str) -> bytes:
        """A whole file."""

    def read_range(self, name: str, first: int, stop: int) -> bytes:
        """The bytes first..stop-1 of a file, fewer where it ends earlier."""

    def write(self, name: str, content: bytes) -> None:
        """Put a file there, in place of what is there: whole or not at all, and lasting."""

    def create(self, name: str, content: bytes) -> None:
        """Like `write`, but raises FileExistsError if another file is there, whoever was faster.

        A file with the same content is none: then it is there already.
        """

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def move(self, name: str, to: str) -> None:
        """Give a file another name, in place of what is there."""

    def held(self) -> AbstractContextManager[None]:
        """Hold the folder for one run. Raises StoreConflict, naming the other process, if it is held."""
