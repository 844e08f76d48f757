"""Files of this machine that are there whole or not at all, and errors about them for people."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memoserve.errors import GOES_ON, StorageFailed, advice_on

# `.NAME.PID.tmp`: hidden from every glob over parts, and the pid tells whose it is.
_TEMPORARY = re.compile(r"^\..+\.(\d+)\.tmp$")


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
        sync_to_disk(temporary)
        temporary.replace(path)
        sync_to_disk(path.parent)
    except OSError as error:
        raise storage_failed(error, path) from error
    finally:
        with reporting(path):
            temporary.unlink(missing_ok=True)


def sync_to_disk(path: Path) -> None:
    """Return when the content of a file, or the names in a folder, would outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
