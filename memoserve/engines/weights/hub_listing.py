"""What revisions on the Hugging Face hub hold, without a download: names, sizes and digests of files.

A branch is asked for its commit each time; what a commit holds never changes, and is kept beside the hub's
own cache. Where the hub can't be reached, what is kept there has to do.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memoserve.engines.weights.contents import computing
from memoserve.engines.weights.files import NoWeights, WeightFiles, choose_weight_files
from memoserve.engines.weights.hub_client import (
    TIMEOUT,
    HubFailed,
    asked,
    cached,
    commit_of,
    small_file,
    tree,
)

_AT_ONCE = 8


@dataclass(frozen=True)
class Revision:
    """A revision (a branch, tag or commit) of a repository of models."""

    hub: str
    name: str

    def __str__(self) -> str:
        return f"{self.hub}@{self.name}"


@dataclass(frozen=True)
class HubContents:
    """The weights of one commit, as far as the hub says. Compared by the digests of their files.

    files: name -> (bytes, digest) of every file at the top of the repository.
    """

    hub: str
    commit: str
    files: Mapping[str, tuple[int, str]]
    chosen: WeightFiles

    @property
    def kind(self) -> object:
        """The digests of the chosen files."""
        return tuple(sorted(self.files[name][1] for name in self.chosen.files))

    def same_as(self, other: HubContents) -> bool:
        """Whether all files are, whatever their names."""
        return self.kind == other.kind

    @property
    def pieces(self) -> dict[tuple[str, object], float]:
        """Each of several files, by name and digest, and its share of all their bytes."""
        if len(self.chosen.files) < 2:
            return {}
        total = sum(self.files[name][0] for name in self.chosen.files)
        return {(name, self.files[name]): self.files[name][0] / max(total, 1) for name in self.chosen.files}

    def computes_as(self, other: HubContents) -> bool:
        """Whether the configurations, which are small and fetched if need be, compute the same."""
        return self._config_digest == other._config_digest or self._computing == other._computing

    @property
    def _config_digest(self) -> str:
        return self.files.get("config.json", (0, ""))[1]

    @property
    def _computing(self) -> str:
        """Of what can't be had, its digest."""
        digest = self._config_digest
        if digest not in _configurations:
            try:
                config = json.loads(small_file(self.hub, "config.json", self.commit))
                _configurations[digest] = computing(config)
            except (HubFailed, ValueError, RecursionError):
                _configurations[digest] = digest
        return _configurations[digest]

    @property
    def identity(self) -> str:
        return f"{self.hub}@{self.commit}"


_configurations: dict[str, str] = {}


def list_revisions(
    revisions: Iterable[Revision], allow_pickle: bool = False
) -> dict[Revision, HubContents | HubFailed]:
    """What each revision holds, or why that can't be told."""
    wanted = list(dict.fromkeys(revisions))
    found: dict[Revision, HubContents | HubFailed] = {}
    for hub in dict.fromkeys(revision.hub for revision in wanted):
        those = [revision for revision in wanted if revision.hub == hub]
        found |= _list_of_one(hub, those, allow_pickle)
    return found


def _list_of_one(
    hub: str, revisions: list[Revision], allow_pickle: bool
) -> dict[Revision, HubContents | HubFailed]:
    silent: list[HubFailed] = []

    def one(revision: Revision) -> HubContents | HubFailed:
        try:
            if silent:
                # It didn't answer before; asking again for each of many would take as many time limits.
                return _kept(revision, allow_pickle) or silent[0]
            commit = commits.get(revision.name) or commit_of(hub, revision.name)
            files = _read_kept(hub, commit) or _keep(hub, commit, _files(hub, commit))
            return _contents(hub, commit, files, allow_pickle)
        except HubFailed as error:
            if not error.missing:
                silent.append(error)
            return error if error.missing else _kept(revision, allow_pickle) or error

    commits: dict[str, str] = {}
    first = {revisions[0]: one(revisions[0])}
    if len(revisions) > 3 and not silent:
        with suppress(HubFailed):
            commits = _branches(hub)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return first | dict(zip(revisions[1:], pool.map(one, revisions[1:]), strict=True))


def _contents(hub: str, commit: str, files: Mapping[str, tuple[int, str]], allow_pickle: bool) -> HubContents:
    try:
        chosen = choose_weight_files(files, lambda name: small_file(hub, name, commit), allow_pickle)
    except NoWeights as error:
        raise HubFailed(str(error), missing=True) from None
    return HubContents(hub, commit, files, chosen)


def _branches(hub: str) -> dict[str, str]:
    """The commits of all branches and tags by one request."""
    from huggingface_hub import HfApi

    refs = asked(lambda: HfApi().list_repo_refs(hub))
    return {ref.name: ref.target_commit for ref in (*refs.tags, *refs.branches)}


def _files(hub: str, commit: str) -> dict[str, tuple[int, str]]:
    from huggingface_hub import HfApi

    info = asked(lambda: HfApi().model_info(hub, revision=commit, files_metadata=True, timeout=TIMEOUT))
    files = {
        file.rfilename: (int(file.size or 0), file.lfs.sha256 if file.lfs else str(file.blob_id))
        for file in info.siblings or ()
        if "/" not in file.rfilename and (file.lfs or file.blob_id)
    }
    if files:
        return files
    return tree(hub, commit)


def _folder(hub: str) -> Path:
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "memoserve" / "listings" / hub.replace("/", "--")


def _read_kept(hub: str, commit: str) -> dict[str, tuple[int, str]] | None:
    try:
        kept: Any = json.loads((_folder(hub) / f"{commit}.json").read_bytes())
        return {str(name): (int(size), str(digest)) for name, (size, digest) in kept.items()} or None
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None


def _keep(hub: str, commit: str, files: dict[str, tuple[int, str]]) -> dict[str, tuple[int, str]]:
    with suppress(OSError):  # a cache that can't be written is none
        folder = _folder(hub)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False) as opened:
            json.dump(files, opened)
        os.replace(opened.name, folder / f"{commit}.json")
    return files


def _kept(revision: Revision, allow_pickle: bool) -> HubContents | None:
    """By what is in the hub's cache here: its files are kept under their digests."""
    snapshot = cached(revision.hub, revision.name)
    if snapshot is None:
        return None
    files = _read_kept(revision.hub, snapshot.name) or {
        file.name: (file.stat().st_size, file.resolve().name)
        for file in snapshot.iterdir()
        if file.is_symlink()
    }
    try:
        chosen = choose_weight_files(files, lambda name: (snapshot / name).read_bytes(), allow_pickle)
    except (NoWeights, OSError):
        return None
    return HubContents(revision.hub, snapshot.name, files, chosen)
