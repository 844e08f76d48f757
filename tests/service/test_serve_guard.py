"""Who may ask a service, from where, how much, and how slowly."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from serving import Server, mini_store, serving

pytestmark = pytest.mark.thorough

TOKEN = "0123456789abcdef0123456789abcdef"
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(mini_store(tmp_path_factory.mktemp("guarded") / "store", 50)) as one:
        yield one


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a token, on every address."""
    store = mini_store(tmp_path_factory.mktemp("closed") / "store", 50)
    with serving(store, "--host", "0.0.0.0", env={"MEMOSERVE_TOKEN": TOKEN}) as one:
        one.client.close()
        one.url = f"http://127.0.0.1:{one.port}"
        one.client = httpx.Client(base_url=one.url, timeout=60)
        yield one


def spoken(server: Server, request: bytes, seconds: float = 30.0) -> bytes:
    """What comes back for raw bytes, until the connection closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer


# Token


def test_without_the_token_nothing_is_said(closed: Server) -> None:
    for path in ("/api/store", "/api/openapi.json", "/api/runs", "/nowhere"):
        answer = closed.client.get(path)
        assert answer.status_code == 401, path
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "token" in answer.json()["error"]
    assert closed.client.post("/api/sql", json={"sql": "SELECT 1"}).status_code == 401
    assert closed.client.get("/api/store", headers={"Authorization": f"Bearer {TOKEN}x"}).status_code == 401
    assert closed.client.get("/api/store", headers={"Authorization": f"Basic {TOKEN}"}).status_code == 401
    assert closed.client.get(f"/api/store?token={TOKEN}").status_code == 401
    page = closed.client.get("/", follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (303, "/login")


def test_with_the_token(closed: Server) -> None:
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert closed.client.get("/api/store", headers=bearer).status_code == 200
    assert closed.client.post("/api/sql", json={"sql": "SELECT 1"}, headers=bearer).status_code == 200


def test_logging_in_sets_a_cookie_that_is_not_the_token(closed: Server) -> None:
    assert "password" in closed.client.get("/login").text
    wrong = closed.client.post("/login", data={"token": "wrong"})
    assert wrong.status_code == 401
    assert "set-cookie" not in wrong.headers
    for body in ({"data": {"token": TOKEN}}, {"json": {"token": TOKEN}}):
        answer = httpx.post(f"{closed.url}/login", timeout=60, **body)  # type: ignore[arg-type]
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
        assert TOKEN not in cookie
        value = cookie.partition(";")[0]
        assert httpx.get(f"{closed.url}/api/store", headers={"cookie": value}, timeout=60).status_code == 200
        assert (
            httpx.get(
                f"{closed.url}/api/store", headers={"cookie": value[:-1] + "0g"}, timeout=60
            ).status_code
            == 401
        )
    for junk in (
        b"{",
        b"[1]",
        b'{"token": 5}',
        b"",
        b"[" * 4000,
        b"[" * 400_000,
        b'{"token":"\\ud800"}',
        b"\xff\xfe",
    ):
        assert httpx.post(f"{closed.url}/login", content=junk, headers=JSON, timeout=60).status_code == 401


def test_a_form_without_end_keeps_nobody_waiting(closed: Server) -> None:
    """Whoever can't log in can't make the server work either."""
    began = time.monotonic()
    fields = b"token=x&" * 130_000
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with ThreadPoolExecutor(8) as pool:
        codes = pool.map(
            lambda _: httpx.post(f"{closed.url}/login", content=fields, headers=form, timeout=60), range(8)
        )
    assert {answer.status_code for answer in codes} == {401}
    assert time.monotonic() - began < 10
    assert "Traceback" not in closed.stderr()


def test_no_process_of_the_service_has_the_token(closed: Server) -> None:
    import psutil

    assert closed.process is not None
    closed.client.get("/api/store", headers={"Authorization": f"Bearer {TOKEN}"})
    children = psutil.Process(closed.process.pid).children(recursive=True)
    assert children
    assert all(TOKEN not in str(child.environ()) + str(child.cmdline()) for child in children)


# Other sites


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1", 200),
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example", 403),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example", 403),
        ("192.168.0.7", 403),
        ("[::", 403),
        ("", 403),
    ],
)
def test_only_its_own_names_lead_to_it(server: Server, host: str, code: int) -> None:
    assert server.client.get("/api/plots", headers={"host": host}).status_code == code


def test_a_name_that_the_operator_allows(tmp_path: Path) -> None:
    with serving(mini_store(tmp_path / "store", 50), "--allow-host", "memo.example") as server:
        assert server.client.get("/api/plots", headers={"host": "memo.example"}).status_code == 200
        assert server.client.get("/api/plots", headers={"host": "evil.example"}).status_code == 403


def test_pages_of_other_sites_can_do_nothing(server: Server) -> None:
    def sent(headers: dict[str, str], content: bytes = b'{"sql": "SELECT 1"}') -> int:
        return server.client.post("/api/sql", content=content, headers=headers).status_code

    own = f"http://127.0.0.1:{server.port}"
    assert sent(JSON) == 200
    assert sent({**JSON, "origin": own, "sec-fetch-site": "same-origin"}) == 200
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"{own}.evil.example", "http://["):
        assert sent({**JSON, "origin": origin}) == 403, origin
    assert sent({**JSON, "sec-fetch-site": "cross-site"}) == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        assert sent({"content-type": kind}) == 415, kind
    cross = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert server.client.get("/api/store", headers=cross).status_code == 403
    leading = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert server.client.get("/api/store", headers=leading).status_code == 200
    allowed = server.client.options("/api/sql", headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in allowed.headers


def test_every_answer_has_its_headers(server: Server) -> None:
    for path in ("/api/store", "/api/nowhere", "/login", "/api/queries/zork"):
        headers = server.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert headers["cache-control"] == "no-store"
        assert "server" not in headers


# Paths


@pytest.mark.parametrize(
    "path",
    [
        "/static/../settings.py",
        "/static/%2e%2e/settings.py",
        "/static/..%2fsettings.py",
        "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2fpyproject.toml",
        "/static//etc/passwd",
        "/static/%00",
        "/static/..\\settings.py",
        "/api/suites/..%2f..%2fetc",
        "/api/suites/%2fetc%2fpasswd",
        "/api/queries/..%2fpredictors",
        "/api/plots/%00",
        "/../../etc/passwd",
    ],
)
def test_no_path_leads_outside(server: Server, path: str) -> None:
    answer = spoken(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert int(answer.split()[1]) in {404, 400}, answer
    assert b"dataclass" not in answer
    assert b"root:" not in answer


def test_runs_name_only_what_the_operator_allows(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (tmp_path / "secret.npy").write_bytes(b"secret")
    (data / "link.npy").symlink_to(tmp_path / "secret.npy")
    (data / "junk.npy").write_bytes(b"junk")
    store = mini_store(tmp_path / "store", 50)
    with serving(store, "--data", str(data)) as server:
        seen = set()
        for name in ("../secret.npy", "/etc/passwd", "link.npy", "nowhere", ".", "..", "~", "s3://bucket/x"):
            error = server.post("runs", {"suite": "mini", "data": name}, 400)["error"]
            seen.add(error.replace(repr(name), ""))
        assert len(seen) == 1, "an error tells what lies outside"
        assert "junk.npy" in server.post("runs", {"suite": "mini", "data": "junk.npy"}, 400)["error"]
        for name in ("../suite", "/etc/passwd", "a/b", "", "--out"):
            assert server.client.post("/api/runs", json={"suite": name}).status_code == 422, name
        assert "there is no suite" in server.post("runs", {"suite": "zork"}, 400)["error"]
        for body in ({"checkpoints": "--help"}, {"checkpoints": "--out=/tmp/x"}, {"sequences": "--out"}):
            assert server.client.post("/api/runs", json={"suite": "mini", **body}).status_code in {400, 422}
        assert server.client.post("/api/runs", json={"suite": "mini", "out": "/tmp/x"}).status_code == 422
        assert server.get("runs") == []
    with serving(store) as server:
        assert "--data" in server.post("runs", {"suite": "mini", "data": "junk.npy"}, 400)["error"]


# Too large, too slow


def test_bodies_have_a_size(server: Server) -> None:
    answer = server.client.post("/api/sql", json={"sql": "SELECT 1 --" + "x" * (2 << 20)})
    assert answer.status_code == 413

    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            yield b"x" * 65536

    try:
        answer = server.client.post("/api/sql", content=chunks(), headers=JSON)
        assert answer.status_code == 413
    except (httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):
        pass  # it closed the connection while more came
    assert server.post("sql", {"sql": "x" * 100_001}, 422)["error"]
    endless = f"GET /api/store HTTP/1.1\r\nHost: localhost\r\nX: {'y' * 100_000}".encode()
    assert b" 400 " in spoken(server, endless)[:20]
    assert server.client.get("/api/plots").status_code == 200


def test_heads_and_bodies_that_never_end_are_ended(server: Server) -> None:
    """Slow loris: a byte now and then. Other readers don't notice."""
    heads = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(60)]
    body = socket.create_connection(("127.0.0.1", server.port))
    body.sendall(
        b"POST /api/sql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 1000\r\n\r\n"
    )
    began = time.monotonic()
    for connection in heads:
        connection.sendall(b"GET / HTTP/1.1\r\n")
    closed: dict[socket.socket, float] = {}
    said = b""
    body.setblocking(False)
    while (len(closed) < len(heads) or not said) and time.monotonic() - began < 40:
        time.sleep(0.5)
        assert server.client.get("/api/plots").status_code == 200
        for connection in heads:
            if connection in closed:
                continue
            try:
                connection.sendall(b"X")
                connection.setblocking(False)
                if connection.recv(100) == b"":
                    closed[connection] = time.monotonic() - began
            except BlockingIOError:
                connection.setblocking(True)
            except OSError:
                closed[connection] = time.monotonic() - began
        try:
            said = said or body.recv(1000)
            body.sendall(b" ")
        except BlockingIOError:
            pass
        except OSError:
            break
    assert len(closed) == len(heads)
    assert min(closed.values()) > 5, "an honest slow client needs some time"
    assert b"408" in said
    for connection in (*heads, body):
        connection.close()


def test_a_reader_that_does_not_read_holds_no_reader(server: Server) -> None:
    """Large answers wait on disk and not in memory, and others are answered meanwhile."""
    body = b'{"sql": "SELECT repeat(chr(97), 1000) FROM range(60000)", "format": "csv"}'
    asked = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
    for connection in asked:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(
            b"POST /api/sql HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        )
    time.sleep(1)
    assert server.get("store")["suites"]
    import psutil

    assert server.process is not None
    assert psutil.Process(server.process.pid).memory_info().rss < 400 << 20
    for connection in asked:
        connection.close()
    assert server.get("store")["suites"]


def test_the_token_comes_from_a_file_too(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    os.chmod(file, 0o600)
    with serving(mini_store(tmp_path / "store", 50), "--token-file", str(file)) as server:
        assert server.client.get("/api/store").status_code == 401
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert server.client.get("/api/store", headers=bearer).status_code == 200
