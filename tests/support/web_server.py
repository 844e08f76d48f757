"""A real web server of files that counts what it is asked for, and misbehaves as told."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from held_port import HeldPort

__all__ = ["Answer", "Fault", "HeldPort", "Request", "WebServer", "listening", "serving"]


@dataclass(frozen=True)
class Request:
    """One request: the file's name, the bytes asked for (None: all), bytes of body sent."""

    method: str
    name: str
    first: int | None
    last: int | None
    sent: int


@dataclass
class Answer:
    """What an honest server would answer; a fault changes it. `cut`: hang up after so many bytes."""

    status: int
    headers: dict[str, str]
    body: bytes
    cut: int | None = None


Fault = Callable[[Request, bytes, Answer], None]


@dataclass
class WebServer:
    """`fault(request, content, answer)` may change each answer to a GET; `concurrent` is the most at once."""

    folder: Path
    address: str = ""
    fault: Fault | None = None
    head_fault: Fault | None = None
    requests: list[Request] = field(default_factory=list)
    delay: float = 0.0
    concurrent: int = 0
    _now: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def gets(self, name: str | None = None) -> list[Request]:
        """The GET requests so far (of one file)."""
        return [r for r in self.requests if r.method == "GET" and name in (None, r.name)]

    def enter(self) -> None:
        with self.lock:
            self._now += 1
            self.concurrent = max(self.concurrent, self._now)

    def leave(self) -> None:
        with self.lock:
            self._now -= 1


@contextmanager
def listening(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on loopback that answers by `handler`."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving(folder: Path) -> Iterator[WebServer]:
    """Serve the files of `folder` on loopback."""
    state = WebServer(folder)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Silence."""

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            state.enter()
            try:
                time.sleep(state.delay)
                self.answer()
            finally:
                state.leave()

        def answer(self) -> None:
            name = self.path.lstrip("/")
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last = (int(match[1]), int(match[2])) if match else (None, None)
            file = folder / name
            content = file.read_bytes() if file.is_file() else b""
            if not file.is_file():
                answer = Answer(404, {}, b"nothing here")
            elif first is None or last is None:
                answer = Answer(200, {"ETag": '"1"'}, content)
            else:
                span = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
                answer = Answer(206, {"ETag": '"1"', "Content-Range": span}, content[first : last + 1])
            request = Request(self.command, name, first, last, 0)
            fault = state.fault if self.command == "GET" else state.head_fault
            if fault is not None and answer.status != 404:
                fault(request, content, answer)
            answer.headers.setdefault("Content-Length", str(len(answer.body)))
            self.send_response(answer.status)
            for key, value in answer.headers.items():
                if value:
                    self.send_header(key, value)
            if answer.cut is not None:
                self.send_header("Connection", "close")
                self.close_connection = True
            self.end_headers()
            sent = 0
            body = b"" if self.command == "HEAD" else answer.body[: answer.cut]
            try:
                while sent < len(body):
                    self.wfile.write(body[sent : sent + (16 << 10)])
                    sent += len(body[sent : sent + (16 << 10)])
            except OSError:  # the client hung up
                self.close_connection = True
            with state.lock:
                state.requests.append(Request(self.command, name, first, last, sent))

    with listening(Handler) as state.address:
        yield state
