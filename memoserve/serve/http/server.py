"""Listening: a socket, uvicorn, and what is printed when it is up."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

from memoserve.errors import BadInput
from memoserve.serve.jobs.queue import Queue
from memoserve.serve.settings import Settings

_CONNECTIONS = 512


def serve(settings: Settings, say: Callable[[str], None]) -> None:
    """Serve until interrupted; `say` is told the address. Raises BadInput if it can't be listened on."""
    import uvicorn

    from memoserve.serve.http.app import create_app
    from memoserve.serve.http.guard import Guard
    from memoserve.serve.http.protocol import ImpatientProtocol

    if not settings.read_only:
        Queue(settings.folder)  # what can't be written is an error before an address is printed
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((settings.host, settings.port))
    except OSError as error:
        listening.close()
        raise BadInput(
            f"{settings.host}:{settings.port} can't be listened on ({error.strerror or error}): choose "
            "another --port or --host"
        ) from None
    port = listening.getsockname()[1]
    host = f"[{settings.host}]" if family == socket.AF_INET6 else settings.host
    config = uvicorn.Config(
        Guard(create_app(settings), settings),
        http=ImpatientProtocol,
        ws="none",
        lifespan="on",
        log_level="warning",
        server_header=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=32 << 10,
    )
    with listening:
        listening.listen(_CONNECTIONS)
        say(f"{settings.store} at http://{host}:{port}/")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])
