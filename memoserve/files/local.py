"""A folder of this machine."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from memoserve.errors import StoreConflict
from memoserve.files.base import Entry
from memoserve.files.lock import try_lock
from memoserve.files.whole import reporting, sync_to_disk, temporary_beside, temporary_owner, writing

LOCK = ".lock"


class LocalFiles:
    """A directory of this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def root(self) -> str:
        """See Files."""
        return str(self.path)

    def location(self, name: str) -> str:
        """See Files."""
        return str(self.path / name)

    def names(self, folder: str) -> list[str]:
        """See Files."""
        with reporting(self.path / folder, "read"):
            try:
                return sorted(os.listdir(self.path / folder))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def entries(self, folder: str) -> dict[str, Entry]:
        """See Files."""
        found = {}
        with reporting(self.path / folder, "read"):
            try:
                with os.scandir(self.path / folder) as scanned:
                    for one in scanned:
                        if one.is_file():
                            found[one.name] = _entry(one.stat())
            except (FileNotFoundError, NotADirectoryError):
                pass
        return dict(sorted(found.items()))

    def below(self, folder: str) -> dict[str, Entry]:
        """See Files."""
        found = {}
        for path in (self.path / folder).rglob("*"):
            with reporting(path, "read"):
                try:
                    if path.is_file():
                        found[path.relative_to(self.path).as_posix()] = _entry(path.stat())
                except FileNotFoundError:
                    continue  # a temporary file that has got its name since
        return dict(sorted(found.items()))

    def read(self, name: str) -> bytes:
        """See Files."""
        with reporting(self.path / name, "read"):
            return (self.path / name).read_bytes()

    def read_range(self, name: str, first: int, stop: int) -> bytes:
        """See Files."""
        with reporting(self.path / name, "read"), (self.path / name).open("rb") as file:
            file.seek(first)
            return file.read(stop - first)

    def write(self, name: str, content: bytes) -> None:
        """See Files."""
        with writing(self.path / name) as temporary:
            temporary.write_bytes(content)

    def create(self, name: str, content: bytes) -> None:
        """See Files."""
        path = self.path / name
        temporary = temporary_beside(path)
        with reporting(path):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary.write_bytes(content)
                sync_to_disk(temporary)
                try:
                    os.link(temporary, path)  # unlike a rename, it never replaces what is there
                except OSError as error:
                    if error.errno == errno.EEXIST:
                        if path.read_bytes() != content:
                            raise FileExistsError(str(path)) from None
                    elif error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                        temporary.replace(path)  # no hard links here; the store's lock has to be enough
                    else:
                        raise
                sync_to_disk(path.parent)
            finally:
                temporary.unlink(missing_ok=True)

    def remove(self, name: str) -> None:
        """See Files."""
        with reporting(self.path / name):
            (self.path / name).unlink(missing_ok=True)

    def move(self, name: str, to: str) -> None:
        """See Files."""
        target = self.path / to
        with reporting(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            (self.path / name).replace(target)
            sync_to_disk(target.parent)

    @contextmanager
    def held(self) -> Iterator[None]:
        """See Files. The operating system lets go of it even after kill -9.

        Removes the temporary files of dead runs.
        """
        file = self.path / LOCK
        with reporting(file):
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not try_lock(descriptor):
                pid = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
                raise StoreConflict(
                    f"{self.path} is in use by another run (process {pid}): wait for it, or stop it"
                )
            with reporting(file):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            for name in self.below(""):
                if temporary_owner(name) is not None:
                    self.remove(name)
            yield
        finally:
            os.close(descriptor)


def _entry(found: os.stat_result) -> Entry:
    return Entry(found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))
