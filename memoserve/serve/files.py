"""Files that a request may name: suites and data in folders that the operator chose, by plain names."""

from __future__ import annotations

import re
from pathlib import Path

from memoserve.errors import BadInput
from memoserve.suites import load_suite, shipped_suites

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def suite_files(folder: Path | None) -> dict[str, Path]:
    """Name -> file: the shipped suites, and NAME.toml or NAME/suite.toml in the operator's folder."""
    files = shipped_suites()
    if folder is not None:
        for file in sorted([*folder.glob("*.toml"), *folder.glob("*/suite.toml")]):
            name = file.parent.name if file.name == "suite.toml" and file.parent != folder else file.stem
            if _NAME.fullmatch(name):
                files.setdefault(name, file)
    return files


def file_of_suite(folder: Path | None, name: str) -> str | None:
    """The file of the suite that calls itself `name`, or None."""
    for file in suite_files(folder).values():
        try:
            if load_suite(file).name == name:
                return str(file)
        except BadInput:
            continue  # another file of the folder, which is reported where it is used
    return None


def data_file(folder: Path | None, name: str) -> Path:
    """The file or folder of that relative path in the operator's folder of data.

    Raises BadInput if there is no such folder, or where the path leads outside it, by `..` or by a link.
    """
    if folder is None:
        raise BadInput("this service takes no data files: its operator names a folder with --data")
    root = folder.resolve()
    try:
        path = (root / name).resolve()
        inside = path.is_relative_to(root) and path != root
        there = inside and path.exists()
    except (OSError, ValueError):
        inside = there = False
    # The same words whatever is there: a request should not find out what lies outside.
    if not inside or not there:
        raise BadInput(f"data {name!r} is not a file in this service's folder of data")
    return path
