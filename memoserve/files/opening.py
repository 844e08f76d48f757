"""The one door to a folder: by a path or a URL."""

from __future__ import annotations

from pathlib import Path

from memoserve.files.base import Files
from memoserve.files.local import LocalFiles


def open_files(location: str | Path) -> Files:
    """The folder at a path or URL, which need not exist. Raises BadInput for a URL that nothing can open."""
    text = str(location)
    if "://" not in text:
        return LocalFiles(Path(location))
    from memoserve.files.remote import remote_folder

    return remote_folder(text)
