"""Sequences on the Hugging Face hub: a stand-in on loopback that speaks what its file system asks.

Written after huggingface_hub's own requests: the revision of a data set, its tree, and files that `resolve`
redirects to another address for, as the hub does for large ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import HubAnswer, ask_with_hub, listening_hub
from ray_cluster import rows

from memoserve.suites import Suite

pytestmark = pytest.mark.thorough

COMMIT = "5" * 40
TOKEN = "hf_of_a_test"


class Hub:
    """A hub with one private data set, owner/texts: the files of a folder. `busy`: so many 503 come first."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = ""
        self.busy = 0
        self.ranges: list[tuple[str, int, int]] = []

    def answer(self, method: str, path: str, query: str, headers: dict[str, str]) -> HubAnswer:
        if path.startswith("/cdn/"):
            return self.file(path.removeprefix("/cdn/"), headers.get("range", ""))
        if headers.get("authorization") != f"Bearer {TOKEN}":
            refused = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}
            return 401, refused, b'{"error": "Repository not found"}'
        if re.fullmatch(rf"/api/datasets/owner/texts(/revision/(main|v1|{COMMIT}))?", path):
            return 200, {}, json.dumps({"id": "owner/texts", "sha": COMMIT, "siblings": []}).encode()
        if re.fullmatch(r"/api/datasets/owner/texts/tree/(main|v1)/data", path):
            listed = [
                {"type": "file", "path": f"data/{file.name}", "size": file.stat().st_size, "oid": "0" * 40}
                for file in sorted(self.folder.iterdir())
            ]
            return 200, {}, json.dumps(listed).encode()
        if match := re.fullmatch(r"/datasets/owner/texts/resolve/(main|v1)/data/([^/]+)", path):
            return 302, {"Location": f"{self.address}/cdn/{match[2]}?signed=yes"}, b""
        return 404, {"X-Error-Code": "EntryNotFound"}, b'{"error": "Entry not found"}'

    def file(self, name: str, asked: str) -> HubAnswer:
        """A file, or a range of it."""
        if self.busy:
            self.busy -= 1
            return 503, {}, b"busy"
        content = (self.folder / name).read_bytes()
        if match := re.fullmatch(r"bytes=(\d+)-(\d+)", asked):
            first, last = int(match[1]), min(int(match[2]), len(content) - 1)
            self.ranges.append((name, first, last + 1))
            span = {"Content-Range": f"bytes {first}-{last}/{len(content)}"}
            return 206, span, content[first : last + 1]
        self.ranges.append((name, 0, len(content)))
        return 200, {}, content


@pytest.fixture
def hub(mini: Suite) -> Iterator[Hub]:
    hub = Hub(mini.file.parent / "data")
    with listening_hub(hub):
        yield hub


def ask(hub: Hub, tmp_path: Path, *arguments: str | Path, code: int = 0, token: str = TOKEN) -> str:
    """Call memoserve as somebody with an account of this hub; what it says."""
    result = ask_with_hub(hub, tmp_path, *arguments, code=code, HF_TOKEN=token)
    return result.stdout if code == 0 else result.stderr


@pytest.mark.parametrize("revision", ["", "@v1"])
def test_a_sample_is_read_by_ranges(hub: Hub, revision: str, tmp_path: Path) -> None:
    there, here = f"hf://datasets/owner/texts{revision}/data/train.idx", hub.folder / "train.idx"
    hub.busy = 2
    ids = "3,4,700,30000"
    assert ask(hub, tmp_path, "sequences", "show", there, "--ids", ids) == ask(
        hub, tmp_path, "sequences", "show", here, "--ids", ids
    )
    read = [last - first for name, first, last in hub.ranges if name == "train.bin"]
    assert hub.busy == 0
    assert len(read) <= 4
    assert sum(read) < 2_000  # of 6 MB

    hub.ranges.clear()
    said = ask(hub, tmp_path, "sequences", "info", there).replace(there, str(here))
    assert said.splitlines()[1:] == ask(hub, tmp_path, "sequences", "info", here).splitlines()[1:]


def test_a_pack_is_that_of_the_same_files_here(hub: Hub, tmp_path: Path) -> None:
    ask(hub, tmp_path, "sequences", "pack", "hf://datasets/owner/texts/data/train.idx", "-o", "there.pack")
    ask(hub, tmp_path, "sequences", "pack", hub.folder / "train.idx", "-o", "here.pack")
    there, here = (
        {file.name: file.read_bytes() for file in (tmp_path / pack).iterdir()}
        for pack in ("there.pack", "here.pack")
    )
    assert there == here


def test_what_is_not_there_or_not_allowed_is_said(hub: Hub, tmp_path: Path) -> None:
    there = "hf://datasets/owner/texts/data/train.idx"
    said = ask(hub, tmp_path, "sequences", "info", there.replace("train", "test"), code=3)
    assert "hf://datasets/owner/texts/data/test.idx does not exist" in said
    assert "does not exist" in ask(hub, tmp_path, "sequences", "info", there, token="hf_wrong", code=3)


@pytest.mark.engine
def test_a_run(hub: Hub, tmp_path: Path) -> None:
    run = (
        *("run", "--engine", "transformers", "--mode", "extract", "--checkpoints", "116k@161"),
        *("--sample", "0.01"),
    )
    ask(hub, tmp_path, *run, "--data", "hf://datasets/owner/texts/data/train.idx", "--out", "there")
    read = sum(last - first for name, first, last in hub.ranges if name == "train.bin")
    ask(hub, tmp_path, *run, "--out", "here")
    assert rows(tmp_path / "there") == rows(tmp_path / "here")
    assert 10 < len(rows(tmp_path / "here")) < 200
    assert read < 3_000_000
