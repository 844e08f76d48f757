"""Where things are in a store, and the file that marks it as one."""

from __future__ import annotations

import json

from memoserve.errors import StoreConflict
from memoserve.files.base import Files
from memoserve.files.local import LocalFiles

DEFAULT_STORE = "memoserve-out"
MARK = "memoserve.json"
FINGERPRINT = "fingerprint.json"

FORMAT = 2
"""Format 1 is read and continued. It has the same layout; its `checkpoints.parquet` lacks what runs found
out about checkpoints, and it holds no checks."""

MARK_FILE = (json.dumps({"format": FORMAT}) + "\n").encode()


def format_in(files: Files) -> int:
    """The format of the store in a folder.

    Raises StoreConflict, saying what is there instead, if it is none, or one of a later format.
    """
    try:
        content = json.loads(files.read(MARK))
        format_ = content["format"]
        if isinstance(format_, bool) or not isinstance(format_, int) or format_ < 1:
            raise TypeError(f"format {format_!r}")
    except FileNotFoundError:
        raise StoreConflict(no_store(files)) from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise StoreConflict(
            f'{files.location(MARK)} is damaged: it should say {{"format": {FORMAT}}}; `memoserve verify '
            "--repair` restores it"
        ) from None
    if format_ > FORMAT:
        raise StoreConflict(
            f"{files.root} is a store of format {format_}; this memoserve reads formats 1 to {FORMAT}: use "
            "the version of memoserve that wrote it"
        )
    return format_


def fingerprint_name(suite: str) -> str:
    """Where the fingerprint of a suite is in a store."""
    return f"suites/suite={suite}/{FINGERPRINT}"


def checkpoints_name(suite: str) -> str:
    """Where the checkpoints of a suite are in a store."""
    return f"suites/suite={suite}/checkpoints.parquet"


def suite_folder(suite: str) -> str:
    """Where the scores of a suite are in a store."""
    return f"scores/suite={suite}"


def scores_folder(suite: str, model: str, step: int) -> str:
    """Where the parts of a checkpoint are in a store."""
    return f"{suite_folder(suite)}/model={model}/step={step}"


def sequences_folder(suite: str) -> str:
    """Where the window numbers of a suite's sequences are in a store."""
    return f"sequences/suite={suite}"


def no_store(files: Files) -> str:
    """What is there instead of a store, for people."""
    names = files.names("")
    if isinstance(files, LocalFiles):
        if files.path.exists() and not files.path.is_dir():
            return f"{files.root} is a file, not the directory of a store"
        there = files.path.exists()
    else:
        there = bool(names)
    if not there:
        return f"there is no store at {files.root}: `memoserve run` makes one, or name another directory"
    return (
        f"{files.root} is not a store: it has no {MARK}. {holds(names)} `memoserve run` makes a store in an "
        "empty or new directory."
    )


def holds(names: list[str]) -> str:
    """What a folder has in it, for people."""
    if not names:
        return "It is empty."
    return f"It holds {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}."
