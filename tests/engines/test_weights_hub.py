"""Checkpoints on the Hugging Face hub: compared by digests without a download, downloaded file by file.

A stand-in on loopback speaks what huggingface_hub asks for: branches, what a commit holds, and files.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
import pytest
from command_line import command
from hub import HubAnswer, ask_with_hub, listening_hub
from weight_folders import own_suite, reshard, save

from memoserve.suites import Suite

pytestmark = pytest.mark.thorough

STEPS = [161, 441, 721, 1001]


class Hub:
    """owner/small: a folder for each branch. `silent`: it is busy; `plain`: it knows no refs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = ""
        self.silent = self.plain = False
        self.asked: list[str] = []

    def branches(self) -> dict[str, Path]:
        return {folder.name: folder for folder in sorted(self.root.iterdir())}

    def commit(self, branch: str) -> str:
        content = [(file.name, file.read_bytes()) for file in sorted(self.branches()[branch].iterdir())]
        return hashlib.sha1(repr(content).encode()).hexdigest()

    def find(self, revision: str) -> str | None:
        return next((name for name in self.branches() if revision in (name, self.commit(name))), None)

    def file(self, file: Path, blobs: bool) -> dict[str, Any]:
        entry: dict[str, Any] = {"rfilename": file.name}
        if blobs:
            content = file.read_bytes()
            entry |= {"size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
            if file.suffix in (".safetensors", ".bin"):
                digest = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"size": len(content), "sha256": digest, "pointerSize": 130}
        return entry

    def answer(self, method: str, path: str, query: str, headers: dict[str, str]) -> HubAnswer:
        if "/small" in path:
            self.asked.append(f"{method} {path}")
        if self.silent:
            return 503, {}, b"busy"
        if path == "/api/models/owner/small/refs" and not self.plain:
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": self.commit(name)}
                for name in self.branches()
            ]
            return 200, {}, json.dumps({"branches": branches, "converts": [], "tags": []}).encode()
        if match := re.fullmatch(r"/api/models/owner/small/revision/([^/]+)", path):
            if (branch := self.find(match[1])) is None:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b'{"error": "Invalid rev id"}'
            files = [
                self.file(f, "blobs" in parse_qs(query)) for f in sorted(self.branches()[branch].iterdir())
            ]
            return (
                200,
                {},
                json.dumps({"id": "owner/small", "sha": self.commit(branch), "siblings": files}).encode(),
            )
        if match := re.fullmatch(r"/api/models/owner/small/tree/([^/]+)", path):
            if (branch := self.find(match[1])) is None:
                return 404, {"X-Error-Code": "RevisionNotFound"}, b'{"error": "Invalid rev id"}'
            files = [self.file(f, True) for f in sorted(self.branches()[branch].iterdir())]
            listed = [
                {**f, "type": "file", "path": f["rfilename"], "oid": f["blobId"]}
                | ({"lfs": {**f["lfs"], "oid": f["lfs"]["sha256"]}} if "lfs" in f else {})
                for f in files
            ]
            return 200, {}, json.dumps(listed).encode()
        if match := re.fullmatch(r"/owner/small/resolve/([^/]+)/([^/]+)", path):
            branch = self.find(match[1])
            if branch is None or not (file := self.branches()[branch] / match[2]).exists():
                code = "RevisionNotFound" if branch is None else "EntryNotFound"
                return (
                    404,
                    {"X-Error-Code": code, "X-Repo-Commit": self.commit(branch) if branch else ""},
                    b"",
                )
            content = file.read_bytes()
            etag = (
                hashlib.sha256(content).hexdigest()
                if file.suffix != ".json"
                else hashlib.sha1(content).hexdigest()
            )
            return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit(branch)}, content
        return 404, {"X-Error-Code": "RepoNotFound"}, b'{"error": "Repository not found"}'

    def downloads(self) -> list[str]:
        return [
            path.rpartition("/")[2] for path in self.asked if path.startswith("GET /owner/small/resolve/")
        ]


@pytest.fixture
def file(mini: Suite, tmp_path: Path) -> Path:
    """A suite of four steps of one model on the hub."""
    file = own_suite(mini, tmp_path, "116k", STEPS)
    file.write_text(file.read_text().replace('folder = "weights/{step}"', 'hub = "owner/small"'))
    root = tmp_path / "hub"
    root.mkdir()
    for step in STEPS:
        (tmp_path / f"weights/{step}").rename(root / f"step{step}")
        (root / f"step{step}/README.md").write_text(f"step {step}")
    shutil.copytree(root / "step1001", root / "main")
    return file


@pytest.fixture
def hub(file: Path) -> Iterator[Hub]:
    hub = Hub(file.parent / "hub")
    with listening_hub(hub):
        yield hub


def ask(hub: Hub, file: Path, *arguments: str | Path, code: int = 0, **environment: str) -> str:
    """Call memoserve as somebody for whom `hub` is the hub; what it says."""
    return ask_with_hub(hub, file.parent, *arguments, code=code, **environment).stdout


def checks(
    hub: Hub, file: Path, *more: str, code: int = 0, **environment: str
) -> dict[tuple[str, int | None], tuple[str, str]]:
    said = ask(hub, file, "suite", "check", file, "--format", "json", *more, code=code, **environment)
    return {(c["name"], c["step"]): (c["result"], c["detail"]) for c in json.loads(said) if c["model"]}


def serve(hub: Hub, source: str, target: str) -> Path:
    """Give a branch the weights of another."""
    folder = hub.root / target
    for there in folder.glob("*.safetensors*"):
        there.unlink()
    for there in (hub.root / source).glob("*.safetensors*"):
        shutil.copy(there, folder)
    return folder


def test_branches_of_their_own_pass_without_a_download(hub: Hub, file: Path) -> None:
    found = checks(hub, file)
    assert {found["own weights", step][0] for step in STEPS} == {"passed"}
    assert hub.downloads() == []
    first = len(hub.asked)
    assert first <= 2 * 5 + 1
    # What a commit holds is kept; where a branch stands is asked again, all at once.
    hub.asked.clear()
    assert checks(hub, file) == found
    assert len(hub.asked) <= 2
    assert not [path for path in hub.asked if any(hub.commit(name) in path for name in hub.branches())]


def test_branches_that_serve_final_weights_are_left_out(hub: Hub, file: Path) -> None:
    serve(hub, "main", "step161")
    serve(hub, "main", "step441")
    found = checks(hub, file, code=3)
    assert {step: found["own weights", step][0] for step in STEPS} == {
        161: "failed",
        441: "failed",
        721: "passed",
        1001: "passed",
    }
    assert "116k@161 has the weights of owner/small@main and is left out" in found["own weights", 161][1]
    # The same, of one checkpoint alone; and where the last step is another file than main.
    hub.plain = True
    serve(hub, "step721", "step1001")
    found = checks(hub, file, "--checkpoints", "116k@441", code=3)
    assert "weights of owner/small@main" in found["own weights", 441][1]
    assert checks(hub, file, "--checkpoints", "116k@721", code=3)["own weights", 721][0] == "failed"


def test_other_steps_are_asked_for_with_all(hub: Hub, file: Path) -> None:
    serve(hub, "step721", "step161")
    assert checks(hub, file, "--checkpoints", "116k@161")["own weights", 161][0] == "passed"
    said = checks(hub, file, "--checkpoints", "116k@161", "--all", code=3)["own weights", 161]
    assert said[0] == "failed"
    assert "116k@721" in said[1]


def test_names_and_readmes_make_no_difference_and_configurations_do(hub: Hub, file: Path) -> None:
    folder = serve(hub, "main", "step161")
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "4.0"}))
    assert checks(hub, file, code=3)["own weights", 161][0] == "failed"
    (folder / "config.json").write_text(json.dumps({**config, "rotary_pct": 0.5}))
    result, detail = checks(hub, file)["own weights", 161]
    assert result == "warning"
    assert "with another config.json" in detail


def test_a_shard_of_another_step_is_said_and_fails_where_it_is_reported(hub: Hub, file: Path) -> None:
    for branch in hub.branches():
        files = reshard(hub.root / branch, 3)
    shutil.copy(hub.root / "step1001" / files[0], hub.root / "step441")
    result, detail = checks(hub, file)["own weights", 441]
    assert result == "warning"
    assert files[0] in detail
    defect = (
        '\n[[defects]]\nmodel = "116k"\nsteps = [441, 721]\nkind = "chimera"\nof = 1001\nsource = "issue 9"\n'
    )
    file.write_text(file.read_text() + defect)
    found = checks(hub, file, code=3)
    assert found["reported defect", 441][0] == "failed"
    assert found["reported defect", 721][0] == "passed"


def test_a_report_is_checked_or_said_to_be_unchecked(hub: Hub, file: Path) -> None:
    defect = (
        '\n[[defects]]\nsteps = [161]\nkind = "weights of another step"\nof = "main"\nsource = "issue 5"\n'
    )
    file.write_text(file.read_text() + defect)
    assert checks(hub, file)["reported defect", 161][0] == "passed"
    serve(hub, "main", "step161")
    assert checks(hub, file, code=3)["reported defect", 161][0] == "failed"
    shutil.rmtree(file.parent / "hf")
    hub.silent = True
    for found in (checks(hub, file), checks(hub, file, HF_HUB_OFFLINE="1")):
        result, detail = found["reported defect", 161]
        assert result == "not checked"
        assert "issue 5" in detail
        assert {found["own weights", step][0] for step in STEPS} == {"not checked"}


def test_a_hub_that_is_not_there_is_no_crash(hub: Hub, file: Path) -> None:
    found = checks(hub, file, HF_ENDPOINT="http://127.0.0.1:9")
    assert found["own weights", 161][0] == "not checked"


def test_a_branch_that_is_missing_or_holds_no_weights_fails(hub: Hub, file: Path) -> None:
    shutil.rmtree(hub.root / "step441")
    (hub.root / "step161/model.safetensors").rename(hub.root / "step161/pytorch_model.bin")
    found = checks(hub, file, code=3)
    assert found["weight files", 441][0] == "failed"
    assert "--allow-pickle-weights" in found["weight files", 161][1]
    assert checks(hub, file, "--allow-pickle-weights", code=3)["weight files", 161][0] == "not checked"


def test_sizes_that_no_precision_explains_fail(hub: Hub, file: Path) -> None:
    assert checks(hub, file)["parameters", 161][0] == "not checked"
    file.write_text(file.read_text().replace("parameters = 116416", "parameters = 787"))
    assert checks(hub, file, code=3)["parameters", 161][0] == "failed"


def test_what_was_downloaded_is_held_against_the_suite(hub: Hub, file: Path) -> None:
    code = (
        "import sys; from memoserve.suites import *; from memoserve.engines import fetch_weights;"
        "from memoserve.run.checks.weights import *; s = load_suite(sys.argv[1]);"
        "c = select(s, '116k@161')[0];"
        "r = check_fetched(s, c, fetch_weights(c), use=Use('vllm', 'cpu', 32));"
        "print([(x.name, x.model, x.step) for x in r.checks if x.result == 'failed'], [*r.refused] == [c])"
    )

    def said() -> str:
        environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": str(file.parent / "hf")}
        environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        run = [*command()[:1], "-c", code, str(file)]
        return subprocess.run(run, env=environment, capture_output=True, text=True, check=True).stdout.strip()

    assert said() == "[] False"
    file.write_text(file.read_text().replace("parameters = 116416", "parameters = 114000"))
    assert said() == "[('parameters', '116k', 161)] True"


def test_downloads_are_of_the_weights_and_no_more(hub: Hub, file: Path) -> None:
    folder = hub.root / "step161"
    files = reshard(folder, 2)
    save({"exp_avg": np.zeros(1000)}, folder / "optimizer.safetensors")
    save({"embed.weight": np.zeros(1000)}, folder / "model.safetensors")
    fetch = (
        "import sys; from memoserve.suites import *; from memoserve.engines import fetch_weights;"
        "w = fetch_weights(select(load_suite(sys.argv[1]), '116k@161')[0]); print(w.identity, w.folder)"
    )

    def fetched(code: int = 0, **environment: str) -> str:
        result = subprocess.run(
            [*command()[:1], "-c", fetch, str(file)],
            env={
                **os.environ,
                "HF_ENDPOINT": hub.address,
                "HF_HOME": str(file.parent / "hf"),
                "HF_HUB_OFFLINE": "0",
                "HF_HUB_DISABLE_XET": "1",
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == code, result.stderr
        return result.stdout if code == 0 else result.stderr

    said = fetched()
    commit = hub.commit("step161")
    assert said.split() == [f"owner/small@{commit}", str(next((file.parent / "hf").rglob(commit)))]
    assert set(hub.downloads()) == {"config.json", "model.safetensors.index.json", *files}
    hub.asked.clear()
    assert fetched() == said
    assert hub.downloads() == []
    hub.silent = True
    assert fetched() == said  # what is in the cache is enough
    assert fetched(HF_HUB_OFFLINE="1") == said
    assert fetched(HF_ENDPOINT="http://127.0.0.1:9") == said
    # Compared, too, by what is in the cache.
    found = checks(hub, file, "--checkpoints", "116k@161", HF_HUB_OFFLINE="1")
    assert commit in found["weight files", 161][1]
    # A new commit that can't be had is not passed over in silence.
    shutil.rmtree(file.parent / "hf")
    assert "can't be fetched from the hub" in fetched(1)
