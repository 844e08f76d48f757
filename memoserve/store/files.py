"""Where a store is: a folder of files that are there whole or not at all, local or behind a URL.

Everything the store reads or writes goes through `Files`, so that a folder and a bucket differ here only.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from memoserve.errors import GOES_ON, StorageFailed, StoreConflict, advice_on

LOCK = ".lock"

# `.NAME.PID.tmp`: hidden from every glob over parts, and the pid tells whose it is.
_TEMPORARY = re.compile(r"^\..+\.(\d+)\.tmp$")


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


def open_files(location: str | Path) -> Files:
    """The folder at a path or URL, which need not exist. Raises BadInput for a URL that nothing can open."""
    text = str(location)
    if "://" not in text:
        return LocalFiles(Path(location))
    from memoserve.store.remote_files import open_remote

    return open_remote(text)


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
                _sync(temporary)
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
                _sync(path.parent)
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
            _sync(target.parent)

    @contextmanager
    def held(self) -> Iterator[None]:
        """See Files. The operating system lets go of it even after kill -9.

        Removes the temporary files of dead runs.
        """
        file = self.path / LOCK
        with reporting(file):
            descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
                raise StoreConflict(
                    f"{self.path} is in use by another run (process {pid}): wait for it, or stop it"
                ) from None
            with reporting(file):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            for name in self.below(""):
                if temporary_owner(name) is not None:
                    self.remove(name)
            yield
        finally:
            os.close(descriptor)


def storage_failed(error: OSError, path: Path, done: str = "written") -> StorageFailed:
    """A StorageFailed that says which path, what went wrong, what is kept and what to do."""
    return StorageFailed(
        f"{path} could not be {done}: {error.strerror or error} ({advice_on(error)}).\n{GOES_ON}"
    )


@contextmanager
def reporting(path: Path, done: str = "written") -> Iterator[None]:
    """Turn any OSError inside into StorageFailed about `path`, but for a file that is or isn't there."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        if done == "read" and isinstance(error, NotADirectoryError):
            raise FileNotFoundError(error.errno, error.strerror, str(path)) from None
        raise storage_failed(error, path, done) from error


def temporary_beside(path: Path) -> Path:
    """The temporary name for `path`, in the same directory so that a rename is atomic."""
    return path.parent / f".{path.name}.{os.getpid()}.tmp"


def temporary_owner(name: str) -> int | None:
    """The process whose temporary file a name is, None for any other file."""
    match = _TEMPORARY.match(name.rsplit("/", 1)[-1])
    return int(match[1]) if match else None


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Write `path` whole or not at all: yields a temporary path to write to, then fsyncs and renames it.

    Nothing is left behind when the body raises. Raises StorageFailed for what the file system refuses.
    """
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise storage_failed(error, path) from error
    finally:
        with reporting(path):
            temporary.unlink(missing_ok=True)


def _entry(found: os.stat_result) -> Entry:
    return Entry(found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
