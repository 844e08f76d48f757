"""A stand-in for the Hugging Face hub on loopback: what a test says it answers, over real HTTP."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlparse

from command_line import command
from web_server import listening

HubAnswer = tuple[int, dict[str, str], bytes]
"""Status, headers and body."""


class Hub(Protocol):
    """Answers requests. `address`: where it listens, once it does."""

    address: str

    def answer(self, method: str, path: str, query: str, headers: dict[str, str]) -> HubAnswer:
        """The answer to a GET; of one to HEAD the body is not sent. `headers`: names in lower case."""


@contextmanager
def listening_hub(hub: Hub) -> Iterator[None]:
    """Let a hub answer at its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Silence."""

        def do_GET(self) -> None:
            asked = urlparse(self.path)
            given = {key.lower(): value for key, value in self.headers.items()}
            status, headers, body = hub.answer(self.command, unquote(asked.path), asked.query, given)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815

    with listening(Handler) as hub.address:
        yield


def ask_with_hub(
    hub: Hub, folder: Path, *arguments: str | Path, code: int = 0, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Call memoserve in a folder as somebody for whom `hub` is the hub, and who keeps what it fetches."""
    result = subprocess.run(
        command(*arguments),
        cwd=folder,
        env={
            **os.environ,
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(folder / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "COLUMNS": "160",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == code, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result
