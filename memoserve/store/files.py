"""Files that are there whole or not at all, and file-system errors in words for people."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from memoserve.errors import StorageFailed

# `.NAME.PID.tmp`: hidden from every glob over parts, and the pid tells whose it is.
_TEMPORARY = re.compile(r"^\..+\.\d+\.tmp$")

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space or ask for a larger quota",
    errno.EFBIG: "the file would be larger than allowed here: raise the limit (ulimit -f)",
    errno.EACCES: "permission denied: give this user write access, or choose another directory",
    errno.EPERM: "permission denied: give this user write access, or choose another directory",
    errno.EROFS: "the file system is read-only: choose another directory",
    errno.EIO: "the device reports an input/output error: check the disk before going on",
}


def storage_failed(error: OSError, path: Path) -> StorageFailed:
    """A StorageFailed that says which path, what went wrong, what is kept and what to do."""
    advice = _ADVICE.get(error.errno or 0, "check the file system")
    return StorageFailed(
        f"{path} could not be written: {error.strerror or error} ({advice}).\n"
        "Everything written before it is whole and kept; run the same command again to go on from there."
    )


@contextmanager
def reporting(path: Path) -> Iterator[None]:
    """Turn any OSError inside into StorageFailed about `path`."""
    try:
        yield
    except OSError as error:
        raise storage_failed(error, path) from error


def temporary_beside(path: Path) -> Path:
    """The temporary name for `path`, in the same directory so that a rename is atomic."""
    return path.parent / f".{path.name}.{os.getpid()}.tmp"


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Write `path` whole or not at all: yields a temporary path to write to, then fsyncs and renames it.

    Nothing is left behind when the body raises. Raises StorageFailed for what the file system refuses.
    """
    temporary = temporary_beside(path)
    with reporting(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def remove_temporaries(directory: Path) -> list[Path]:
    """Remove what writers that were killed left behind. Only for the holder of the store's lock."""
    removed = []
    for path in sorted(directory.rglob(".*.tmp")):
        if _TEMPORARY.match(path.name) and path.is_file():
            with reporting(path):
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
