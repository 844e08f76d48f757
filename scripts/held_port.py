"""A port on loopback that stays ours while the server behind it is away."""

from __future__ import annotations

import socket


class HeldPort:
    """A free port, kept until this object goes, so that a server that stops and starts finds it again.

    A port that is only remembered may be taken when the server comes back: by another server, or by the near
    end of any connection. While it is held and nothing listens, connections to it are refused.
    """

    def __init__(self) -> None:
        self._held = _bound(0)
        self.number: int = self._held.getsockname()[1]

    def listening(self) -> socket.socket:
        """A socket that listens on the port; close it to be away."""
        opened = _bound(self.number)
        opened.listen(128)
        return opened


def _bound(port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    # Sockets that all ask for it may share a port; nobody else gets it, not even to connect from.
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    opened.bind(("127.0.0.1", port))
    return opened
