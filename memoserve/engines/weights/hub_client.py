"""Asking the Hugging Face hub, so that no answer is an answer too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from memoserve.files.retries import MayPass, persistently, retry_after

TIMEOUT = 10.0
"""Seconds that a request may take."""

_TRIES = 3

Answer = TypeVar("Answer")


class HubFailed(Exception):
    """The hub gave no answer, or one that says that something isn't there (`missing`)."""

    def __init__(self, reason: str, missing: bool) -> None:
        super().__init__(reason)
        self.missing = missing


def asked(ask: Callable[[], Answer]) -> Answer:
    """What the hub answers; asked again when it is busy. Raises HubFailed."""

    def once() -> Answer:
        try:
            return ask()
        except Exception as error:  # the client's own, its transport's, and those of unexpected answers
            response = getattr(error, "response", None)
            status = getattr(response, "status_code", 0)
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            if status == 429 or status >= 500:
                raise MayPass(reason, retry_after(getattr(response, "headers", {}))) from None
            raise HubFailed(reason, missing=400 <= status < 500) from None

    try:
        return persistently(once, attempts=_TRIES)
    except MayPass as error:
        raise HubFailed(str(error), missing=False) from None


def commit_of(hub: str, revision: str) -> str:
    """Where a branch or tag of a repository of models is now. Raises HubFailed."""
    from huggingface_hub import HfApi

    info = asked(lambda: HfApi().model_info(hub, revision=revision, timeout=TIMEOUT))
    if not info.sha:
        raise HubFailed(f"the hub names no commit of {hub}@{revision}", missing=False)
    return str(info.sha)


def cached(hub: str, revision: str) -> Path | None:
    """The folder, named like the commit, of what an earlier download kept of a revision."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(hub, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def small_file(hub: str, name: str, revision: str) -> bytes:
    """A file of a repository of models, kept in the hub's cache. Raises HubFailed."""
    from huggingface_hub import hf_hub_download

    return asked(lambda: Path(hf_hub_download(hub, name, revision=revision)).read_bytes())


def tree(hub: str, revision: str) -> dict[str, tuple[int, str]]:
    """The files at the top of a repository of models: name -> (bytes, digest).

    The digest is the SHA-256 of what LFS keeps, of other files the one that Git gives them. Raises HubFailed.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    entries = asked(lambda: list(HfApi().list_repo_tree(hub, revision=revision)))
    return {
        entry.path: (int(entry.size), entry.lfs.sha256 if entry.lfs else str(entry.blob_id))
        for entry in entries
        if isinstance(entry, RepoFile)
    }
