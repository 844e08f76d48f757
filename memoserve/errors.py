"""What can go wrong, in words for people, each with its documented exit code.

Raise these with a message that says what is wrong, where (file, row, checkpoint) and what to do.
The command line prints the message and exits with `exit_code`; it shows a traceback only when asked.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class MemoserveError(Exception):
    """Base of every error that memoserve expects."""

    exit_code = 1


class BadInput(MemoserveError):
    """A suite, selector, sequence file, query or parameter that can't be used as it is."""

    exit_code = 3


class StoreConflict(MemoserveError):
    """A directory that is not a store, a store in use, or results of unlike runs."""

    exit_code = 4


class EngineFailed(MemoserveError):
    """No engine can run here, or one died, or the weights of a checkpoint can't be used."""

    exit_code = 5


class EngineStartFailed(EngineFailed):
    """An engine could not be started on a device or node; another one may do better."""


class EngineStorageFailed(EngineStartFailed):
    """An engine can't write its log or temporary files: if no other one can do better, StorageFailed."""

    exit_code = 7


class RunIncomplete(MemoserveError):
    """The run ended, but at least one checkpoint failed; the others are whole."""

    exit_code = 6


class StorageFailed(MemoserveError):
    """The file system refused: disk full, no permission, device gone. Whole parts are kept."""

    exit_code = 7


_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space or ask for a larger quota",
    errno.EFBIG: "the file would be larger than allowed here: raise the limit (ulimit -f)",
    errno.EACCES: "permission denied: give this user access, or choose another directory",
    errno.EPERM: "permission denied: give this user access, or choose another directory",
    errno.EROFS: "the file system is read-only: choose another directory",
    errno.EIO: "the device reports an input/output error: check the disk before going on",
}

GOES_ON = "Everything written before it is whole and kept; the same command goes on from there."


def advice_on(error: OSError) -> str:
    """What to do about what a file system refused."""
    return _ADVICE.get(error.errno or 0, "check the file system")


def as_user_error(error: Exception) -> Exception:
    """The error as one of memoserve's, if a full disk is behind it: that may show wherever something writes,
    be it the standard output.
    """
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFailed(f"{error} ({advice_on(error)}).\n{GOES_ON}")
    return error


@contextmanager
def in_python_words() -> Iterator[None]:
    """Errors name what is passed as Python does: target, where the command line says --target.

    Commands that a message names stay as they are typed.
    """
    try:
        yield
    except MemoserveError as error:
        error.args = tuple(_python_words(one) if isinstance(one, str) else one for one in error.args)
        raise


_COMMAND_OR_OPTION = re.compile(r"(`[^`]*`|\bmemoserve [a-z]+(?: --?[a-z-]+)*)|(?<![\w-])--([a-z][a-z_-]*)")


def _python_words(message: str) -> str:
    r"""The message with --max-flagged as max_flagged.

    >>> _python_words("--max-flagged 0: see `memoserve recommend --help`, or memoserve run --loglik")
    'max_flagged 0: see `memoserve recommend --help`, or memoserve run --loglik'
    """
    return _COMMAND_OR_OPTION.sub(lambda match: match[1] or match[2].replace("-", "_"), message)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known names that are most like this one, as what a message goes on with; nothing if none is."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
