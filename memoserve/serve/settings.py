"""What the operator of a service decides."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from memoserve.errors import BadInput

TOKEN_VARIABLE = "MEMOSERVE_TOKEN"
_SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Settings:
    """`store`: a folder, or the URL of a store, which is only read.

    `suites` and `data`: folders whose files submitted runs may name, None: shipped suites alone.

    `memory`: bytes that one reader process may use; `readers`: how many there are at most; `seconds`: what
    one answer may take.
    """

    store: Path | str
    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = None
    hosts: tuple[str, ...] = ()
    suites: Path | None = None
    data: Path | None = None
    read_only: bool = False
    readers: int = 2
    memory: int = 2 << 30
    seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.token is not None and len(self.token) < _SHORTEST_TOKEN:
            raise BadInput(
                f"the token has {len(self.token)} characters; take at least {_SHORTEST_TOKEN}, such as "
                "those of `openssl rand -hex 32`"
            )
        if self.token is None and not is_loopback(self.host):
            raise BadInput(
                f"{self.host} can be reached from other machines, so a token is needed: put one into the "
                f"environment variable {TOKEN_VARIABLE}, or into a file that --token-file names"
            )
        for name, folder in (("--suites", self.suites), ("--data", self.data)):
            if folder is not None and not folder.is_dir():
                raise BadInput(f"{name} {folder} is not a folder")

        if isinstance(self.store, str) and not self.read_only:
            raise BadInput(
                f"{self.store} is not on this machine, and runs wait in a file that has to be: serve it with "
                "--read-only, and run with memoserve run"
            )

    @property
    def folder(self) -> Path:
        """The store of a service that takes runs."""
        assert isinstance(self.store, Path)
        return self.store

    def allows_host(self, name: str) -> bool:
        """Whether a request may name this host: a page of another site can't have its name lead here.

        An address can't be led elsewhere, names can; so of names only this machine's own and `hosts`.
        """
        name = name.lower().rstrip(".")
        if name in {"localhost", *(host.lower() for host in self.hosts)}:
            return True
        if is_loopback(self.host):
            return is_loopback(name)
        if name in {self.host.lower(), socket.gethostname().lower(), socket.getfqdn().lower()}:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(file: Path | None) -> str | None:
    """The token from a file, else from the environment. Raises BadInput for a file that others may read."""
    if file is None:
        # Taken out: the processes that this one starts have no use for it.
        return os.environ.pop(TOKEN_VARIABLE, None) or None
    try:
        if file.stat().st_mode & 0o077:
            raise BadInput(f"{file} can be read by others: chmod 600 {file}")
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"the token file {file} can't be read: {error}") from None
    if not token:
        raise BadInput(f"the token file {file} is empty")
    return token
