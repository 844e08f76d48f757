"""Asking a remote side again: which failures may pass, how long to wait, when to give up."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import tenacity

ATTEMPTS = 6
FIRST_PAUSE = 1.0
"""Seconds before asking again; twice as long, and a little by chance, before every further try."""

LONGEST_PAUSE = 120.0
"""A server that asks for more (Retry-After) is not waited for."""

# Too early, too many requests, and what servers and proxies say when they are overloaded or restarted.
PASSING_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})

T = TypeVar("T")


class MayPass(Exception):
    """A failure that another try could be spared. `pause`: how long the server wants us to wait, seconds."""

    def __init__(self, what: str, pause: float | None = None) -> None:
        super().__init__(what)
        self.pause = pause


def persistently(
    question: Callable[[], T], given_up: threading.Event | None = None, attempts: int = ATTEMPTS
) -> T:
    """Ask until there is an answer; MayPass is raised if none comes, at once when `given_up` is set."""
    from tenacity import Retrying, retry_if_exception_type, sleep_using_event

    given_up = given_up or threading.Event()

    def enough(state: tenacity.RetryCallState) -> bool:
        return given_up.is_set() or state.attempt_number >= attempts or _asked_for(state) > LONGEST_PAUSE

    return Retrying(
        retry=retry_if_exception_type(MayPass),
        stop=enough,
        wait=_pause,
        sleep=sleep_using_event(given_up),
        reraise=True,
    )(question)


def asked_again(question: Callable[[], T]) -> T:
    """What a file system of fsspec answers, asked again where it was only busy.

    Raises MayPass if it stays so, and whatever else the file system raises.
    """

    def once() -> T:
        try:
            return question()
        except Exception as error:
            if status_of(error) in PASSING_STATUS:
                behind = error.__cause__ or error
                raise MayPass(reason(behind), retry_after(getattr(behind, "headers", None) or {})) from error
            raise

    return persistently(once)


def status_of(error: BaseException) -> int | None:
    """The HTTP status behind an error of a web file system."""
    status = getattr(error.__cause__ or error, "status", None)
    return status if isinstance(status, int) else None


def reason(error: BaseException) -> str:
    """An error of a library on one line."""
    first = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, MayPass):
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a Retry-After header (a number or a date) asks for."""
    value = headers.get("Retry-After", "").strip()
    if value.isdecimal():
        return float(value)
    try:
        until = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max((until.astimezone(UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def _pause(state: tenacity.RetryCallState) -> float:
    from tenacity import wait_exponential, wait_random

    own = wait_exponential(FIRST_PAUSE, max=LONGEST_PAUSE) + wait_random(0, FIRST_PAUSE)
    return max(own(state), _asked_for(state))


def _asked_for(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome is not None else None
    return (error.pause or 0.0) if isinstance(error, MayPass) else 0.0
