"""Where a file is: a path on this machine or on a file system that fsspec knows."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from memoserve.errors import BadInput
from memoserve.files.retries import asked_again, reason, status_of

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """A path on a file system: `remote` is an fsspec file system, None for local files.

    `size` in bytes where it has been looked up.
    """

    path: str
    remote: Any = None
    size: int | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return self.path if self.remote is None else str(self.remote.unstrip_protocol(self.path))

    def sibling(self, path: str) -> Place:
        """Another path on the same file system."""
        return Place(path, self.remote)

    @property
    def web(self) -> bool:
        """Whether it is an http(s) address: such have no folders, and `?` is no pattern there."""
        return self.remote is not None and not {"http", "https"}.isdisjoint(protocols(self.remote))

    def look(self) -> Place | None:
        """The same with its size, None if there is nothing.

        Raises BadInput if it is a folder, the remote side doesn't answer, or doesn't say how large it is.
        """
        if self.remote is None:
            return _look_locally(self)
        info = ask(self, lambda: self.remote.info(self.path), missing=None)
        if info is None:
            return None
        size = info.get("size")
        if info.get("type") == "directory":
            raise BadInput(f"{self} is a folder, not a file")
        if not isinstance(size, int) or size < 0:
            raise BadInput(
                f"{self}: the server doesn't say how large it is; download it and give the local file"
            )
        return replace(self, size=size)

    def exists(self) -> bool:
        """Whether there is something. Raises BadInput if the remote side doesn't answer."""
        if self.remote is None:
            return os.path.exists(self.path)
        if self.web:  # fsspec's `exists` would begin to fetch the file; this asks for its headers
            return ask(self, lambda: self.remote.info(self.path), missing=None) is not None
        return bool(ask(self, lambda: self.remote.exists(self.path)))

    def is_folder(self) -> bool:
        """Whether it is a folder. Raises BadInput if the remote side doesn't answer."""
        if self.remote is None:
            return os.path.isdir(self.path)
        if self.web:  # fsspec would fetch the whole file to look for links in it
            return False
        return bool(ask(self, lambda: self.remote.isdir(self.path)))

    def glob(self, pattern: str) -> list[str]:
        """Paths on this file system that match, sorted."""
        if self.remote is None:
            import glob

            return sorted(glob.glob(pattern))
        return sorted(ask(self, lambda: self.remote.glob(pattern)))

    def names(self) -> list[str]:
        """Names of what the folder holds, sorted."""
        if self.remote is None:
            try:
                return sorted(os.listdir(self.path))
            except OSError as error:
                raise BadInput(f"{self.path} can't be read: {error.strerror or error}") from None
        listed = ask(self, lambda: self.remote.ls(self.path, detail=False))
        return sorted(str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in listed)


def locate(path: str) -> Place:
    """Where a path or URL (any that fsspec knows) points. Raises BadInput if nothing can open it."""
    if "\0" in path:
        raise BadInput(f"{path!r} is not a path")
    if "://" not in path:
        return Place(os.path.expanduser(path))
    remote, inner = file_system(path)
    if "file" in protocols(remote):
        return Place(inner)
    return Place(inner, remote)


def file_system(url: str, **options: Any) -> tuple[Any, str]:
    """The fsspec file system of a URL, opened with these options, and the path on it.

    Raises BadInput if nothing can open it.
    """
    import fsspec

    try:
        remote, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        raise BadInput(
            f"{url} needs a package that is not installed (pip install 'memoserve[remote]' has those for "
            f"http, s3 and gs): {error}"
        ) from None
    except Exception as error:  # each file system has exceptions of its own
        raise BadInput(f"{url} can't be opened: {reason(error)}") from None
    return remote, path


_REFUSE: Any = object()


def ask(place: Place, question: Callable[[], T], missing: Any = _REFUSE) -> T | Any:
    """The answer of a remote file system, asked again where that may help.

    `missing` is the answer where there is nothing; without, that is BadInput like every other failure.
    """
    try:
        return asked_again(question)
    except FileNotFoundError as error:
        # fsspec calls every failure of a web server so: one that refuses or is away is another matter.
        if error.__cause__ is not None and status_of(error) not in (404, 410):
            raise BadInput(f"{place} does not exist or doesn't answer ({reason(error.__cause__)})") from None
        if missing is not _REFUSE:
            return missing
        raise BadInput(f"{place} does not exist") from None
    except Exception as error:  # each file system has exceptions of its own
        raise BadInput(f"{place} can't be read: {reason(error)}") from None


def _look_locally(place: Place) -> Place | None:
    try:
        status = os.stat(place.path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadInput(f"{place.path} can't be read: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(status.st_mode):
        raise BadInput(f"{place.path} is not a file")
    return replace(place, size=status.st_size)


def protocols(remote: Any) -> tuple[str, ...]:
    """The names that an fsspec file system goes by."""
    return (remote.protocol,) if isinstance(remote.protocol, str) else tuple(remote.protocol)
