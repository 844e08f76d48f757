"""Between the network and the application: access control, from where, how much and how slowly."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Mapping
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from memoserve.serve.settings import Settings

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "memoserve_session"

MOST_BODY = 1 << 20
BODY_SECONDS = 15.0
SEND_SECONDS = 60.0
"""How long a client may leave what it asked for unread."""

_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}

# Vega draws with an interpreter of its own, so no script is ever made out of text.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = (
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    # Not no-referrer: then browsers say of a form, the one that logs in, that it comes from nowhere.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)


class _Refused(HTTPException):
    """Of this kind, since it may be raised inside the application, while that reads the body."""

    def __init__(self, status: int, error: str, **headers: str) -> None:
        # The rest of the request is not read.
        named = {name.replace("_", "-"): value for name, value in headers.items()} | {"connection": "close"}
        super().__init__(status, error, named)


def session(token: str) -> str:
    """The cookie of someone who has shown the token; the token can't be told from it."""
    return hmac.new(token.encode(), b"memoserve session", hashlib.sha256).hexdigest()


def is_token(given: str, token: str) -> bool:
    """Whether they are equal, in a time that doesn't tell how much of it is."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), token.encode())


class Guard:
    """ASGI middleware, the outermost."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what may pass, with a body that ends and headers that hold."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        began = False

        async def guarded_send(message: Message) -> None:
            nonlocal began
            if message["type"] == "http.response.start":
                began = True
                present = {name.lower() for name, _ in message["headers"]}
                extra = [header for header in _HEADERS if header[0] not in present]
                if b"cache-control" not in present:
                    extra.append((b"cache-control", b"no-store"))
                message = {**message, "headers": [*message["headers"], *extra]}
            await asyncio.wait_for(send(message), SEND_SECONDS)

        try:
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
            self._check_host(headers)
            self._check_origin(scope, headers)
            self._check_token(scope, headers)
            self._check_length(headers)
            await self._app(scope, _Body(receive).receive, guarded_send)
        except _Refused as refused:
            if began:
                raise
            response = JSONResponse({"error": refused.detail}, refused.status_code, refused.headers)
            await response(scope, receive, guarded_send)
        except asyncio.CancelledError:
            # The server is being stopped, and has waited for its answers as long as it does.
            if not began:
                stopping = JSONResponse({"error": "the service is being stopped"}, 503)
                await stopping(scope, receive, guarded_send)
                return
            with suppress(Exception):  # a file of which a part was sent can't be ended well
                await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _check_host(self, headers: Mapping[str, str]) -> None:
        """Against DNS rebinding: a page of evil.example whose name was led here says so in Host."""
        host = headers.get("host", "")
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            name = None
        if name is None or not self._settings.allows_host(name):
            raise _Refused(
                403, f"host {host!r} is not allowed: start the service with --allow-host, or use its address"
            )

    def _check_origin(self, scope: Scope, headers: Mapping[str, str]) -> None:
        """Against other sites' pages: they may lead a browser here, and do nothing else."""
        safe = scope["method"] in _SAFE_METHODS
        leads_here = safe and headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site") in {"cross-site", "same-site"} and not leads_here:
            raise _Refused(403, "pages of other sites may not use this service")
        if safe:
            return
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise _Refused(403, f"pages of {origin} may not use this service")
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        # A form of another site can't send JSON without asking first.
        if kind != "application/json" and not (scope["path"] == "/login" and kind in _FORMS):
            raise _Refused(415, "send application/json as Content-Type")

    def _check_token(self, scope: Scope, headers: Mapping[str, str]) -> None:
        token = self._settings.token
        path = scope["path"]
        if token is None or path == "/login" or path.startswith("/static/"):
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and is_token(given.strip(), token):
            return
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            cookie = None
        if cookie is not None and is_token(cookie.value, session(token)):
            return
        if path == "/":
            raise _Refused(303, "log in", location="/login")
        raise _Refused(
            401,
            "this service wants a token: send Authorization: Bearer TOKEN, or log in at /login",
            www_authenticate="Bearer",
        )

    def _check_length(self, headers: Mapping[str, str]) -> None:
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MOST_BODY:
            raise _Refused(413, f"the request is larger than {MOST_BODY >> 20} MiB")


_FORMS = {"application/x-www-form-urlencoded"}


class _Body:
    """A request's body that is neither too large nor too slow."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._size = 0
        self._whole = False
        self._deadline = asyncio.get_running_loop().time() + BODY_SECONDS

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        left = self._deadline - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, left))
        except TimeoutError:
            raise _Refused(408, f"the request's body took longer than {BODY_SECONDS:g} s") from None
        if message["type"] == "http.request":
            self._size += len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
            if self._size > MOST_BODY:
                raise _Refused(413, f"the request is larger than {MOST_BODY >> 20} MiB")
        return message
