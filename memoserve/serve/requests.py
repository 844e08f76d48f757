"""What every endpoint has: the settings of its application, and documented failures."""

from __future__ import annotations

from typing import Any

from fastapi import Request

from memoserve.serve import contract
from memoserve.serve.settings import Settings


def settings_of(request: Request) -> Settings:
    """The settings of the application."""
    settings: Settings = request.app.state.settings
    return settings


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Documented failures: those that every endpoint has, and these."""
    descriptions = {
        400: "what was asked can't be answered; the error says why",
        401: "no token, or a wrong one",
        403: "not from this site, or not allowed",
        404: "there is nothing of that name",
        408: "the request came too slowly",
        409: "it conflicts with what the store holds, or with the state of the run",
        413: "the request or the answer is too large",
        415: "not JSON",
        422: "a parameter has the wrong type or is out of range",
        503: "too busy, too long, or the machine can't do it",
    }
    chosen = {400, 401, 403, 409, 413, 422, 503, *codes}
    return {code: {"model": contract.Error, "description": descriptions[code]} for code in sorted(chosen)}
