"""What can go wrong, in words for people, each with its documented exit code.

Raise these with a message that says what is wrong, where (file, row, checkpoint) and what to do.
The command line prints the message and exits with `exit_code`; it shows a traceback only when asked.
"""

from __future__ import annotations


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


class EngineNotStarted(EngineFailed):
    """An engine could not be started on a device or node; another one may do better."""


class RunIncomplete(MemoserveError):
    """The run ended, but at least one checkpoint failed; the others are whole."""

    exit_code = 6


class StorageFailed(MemoserveError):
    """The file system refused: disk full, no permission, device gone. Whole parts are kept."""

    exit_code = 7
