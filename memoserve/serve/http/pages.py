"""The dashboard's files, and the page that asks for the token."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from jinja2 import Environment, FileSystemLoader
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from memoserve.serve.http.guard import COOKIE, is_token, session

STATIC = Path(__file__).parents[1] / "static"

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1] / "templates"), autoescape=True, trim_blocks=True
)

router = APIRouter(include_in_schema=False)

_WRONG_SECONDS = 1.0
_LONGEST_LOGIN = 4096


@router.get("/")
async def dashboard() -> Response:
    """The dashboard."""
    return FileResponse(STATIC / "index.html", headers={"Cache-Control": "no-cache"})


@router.get("/login")
async def login_page() -> Response:
    """The page that asks for the token."""
    return HTMLResponse(_login(wrong=False))


@router.post("/login")
async def login(request: Request) -> Response:
    """Take the token from the form, or from JSON {"token": ...}, and set the cookie."""
    token = request.app.state.settings.token
    given = _given(await request.body(), request.headers.get("content-type", ""))
    if token is not None and not is_token(given, token):
        await asyncio.sleep(_WRONG_SECONDS)
        return HTMLResponse(_login(wrong=True), 401)
    response = RedirectResponse("/", 303)
    if token is not None:
        response.set_cookie(
            COOKIE,
            session(token),
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
            path="/",
        )
    return response


def _login(*, wrong: bool) -> str:
    """The page that asks for the token; `wrong`: after one that wasn't it."""
    return _TEMPLATES.get_template("login.html").render(wrong=wrong)


def _given(body: bytes, kind: str) -> str:
    """The token in a form or in JSON, or nothing. Anybody may send it, so what is long isn't looked at."""
    if len(body) > _LONGEST_LOGIN:
        return ""
    if not kind.lower().startswith("application/json"):
        return parse_qs(body.decode("utf-8", "replace")).get("token", [""])[0]
    try:
        sent = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    return str(sent.get("token", "")) if isinstance(sent, dict) else ""
