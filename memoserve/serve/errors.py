"""What a service can't or won't do; the application has a status for each."""

from __future__ import annotations

from memoserve.errors import MemoserveError


class TooLong(MemoserveError):
    """An answer took longer than it may."""


class TooMuch(MemoserveError):
    """An answer is larger, or needs more memory, than it may."""


class Forbidden(MemoserveError):
    """What this service doesn't do."""


class NotThere(MemoserveError):
    """There is nothing of that name."""


class Busy(MemoserveError):
    """All readers were busy for too long."""
