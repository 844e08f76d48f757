"""An engine of somebody else's package: the example of docs/engines.md, installed and run."""

from __future__ import annotations

import os
import re
import tomllib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from command_line import Cli
from serving import serving, until

from memoserve.store import Store

PAGE = Path(__file__).parents[2] / "docs/engines.md"

WRONG = """
from plain_engine import PlainForward
from memoserve.engines import Diagnosis


class Wrong(PlainForward):
    @staticmethod
    def diagnose():
        return Diagnosis("wrong", version="1.0", device="cpu")

    def _best(self, logits):
        return (super()._best(logits) + 1) % logits.shape[2]


class Unfinished:
    pass
"""


def block(language: str) -> str:
    """The first block of a language behind the heading."""
    match = re.search(rf"## Your own engine\n.*?```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert match is not None
    return match[1]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pip would leave it: modules, and a folder that says what the distribution offers."""
    site = tmp_path / "site"
    about = site / "plain_engine-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "plain_engine.py").write_text(block("python"))
    (site / "wrong_engine.py").write_text(WRONG)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: plain-engine\nVersion: 1.0\n")
    entries = tomllib.loads(block("toml"))["project"]["entry-points"]["memoserve.engines"]
    assert entries == {"plain": "plain_engine:PlainForward"}
    entries |= {
        "wrong": "wrong_engine:Wrong",
        "unfinished": "wrong_engine:Unfinished",
        "missing": "no_module:Engine",
        "vllm": "wrong_engine:Wrong",  # nobody takes our names
    }
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (about / "entry_points.txt").write_text("[memoserve.engines]\n" + "\n".join(lines) + "\n")
    monkeypatch.setenv("PYTHONPATH", f"{site}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


@pytest.mark.usefixtures("installed")
def test_it_is_listed_and_what_is_no_engine_says_why(cli: Cli) -> None:
    lines = cli("doctor", "--quick").stdout.splitlines()
    assert "yes plain 1.0 on cpu" in lines
    assert "yes wrong 1.0 on cpu" in lines
    told = dict(pairwise(lines))
    assert "it lacks diagnose, reload_refusal, load" in told["no  unfinished"]
    assert "can't be imported: ModuleNotFoundError: No module named 'no_module'" in told["no  missing"]
    assert sum(line.startswith(("yes vllm ", "no  vllm ")) for line in lines) == 1
    refused = cli("run", "--engine", "plan", "--out", "none", code=3).stderr
    assert "there is no engine 'plan' (did you mean plain?); installed here: vllm, transformers," in refused
    refused = cli("run", "--engine", "unfinished", "--out", "none", code=5).stderr
    assert "the unfinished engine can't run here" in refused


@pytest.mark.engine
@pytest.mark.usefixtures("installed")
def test_its_scores_are_those_of_the_reference(cli: Cli, tmp_path: Path) -> None:
    run = ("run", "--checkpoints", "116k@1001", "--mode", "extract", "--loglik", "--sequences", "0:600")
    for engine in ("plain", "transformers"):
        cli(*run, "--engine", engine, "--out", engine)
    own, reference = (
        Store.open(tmp_path / engine).read_scores("mini", "116k", 1001, 0, 600)
        for engine in ("plain", "transformers")
    )
    np.testing.assert_array_equal(own.sequence_id, reference.sequence_id)
    np.testing.assert_array_equal(own.matched_prefix, reference.matched_prefix)
    assert own.matched_prefix is not None
    assert len(set(own.matched_prefix.tolist())) > 3
    assert own.continuation_ll is not None
    assert reference.continuation_ll is not None
    np.testing.assert_allclose(own.continuation_ll, reference.continuation_ll, rtol=1e-4)
    store = Store.open(tmp_path / "plain")
    checks = {check.name: check.result for check, _ in store.read_checks("mini")}
    assert checks["engine agrees with Transformers"] == "passed"
    assert store.fingerprint("mini")["engine"] == "plain"
    assert store.fingerprint("mini")["engine_version"] == "1.0"
    refused = cli(*run, "--engine", "transformers", "--out", "plain", code=4).stderr
    assert "engine: plain" in refused


@pytest.mark.engine
@pytest.mark.usefixtures("installed")
def test_the_service_offers_and_runs_it(tmp_path: Path) -> None:
    run = {"checkpoints": "116k@161", "sequences": "0:64", "mode": "extract"}
    with serving(tmp_path / "store") as server:
        names = server.get("engines")
        assert names == ["vllm", "transformers", "missing", "plain", "unfinished", "wrong"]
        schemas = server.get("openapi.json")["components"]["schemas"]
        assert schemas["Submission"]["properties"]["engine"]["enum"] == names
        error = server.post("runs", {**run, "engine": "plan"}, 422)["error"]
        assert error.startswith("body.engine: ")
        assert "there is no engine 'plan' (did you mean plain?); installed here: vllm, transf" in error
        error = server.post("runs", {**run, "engine": "unfinished"}, 503)["error"]
        assert "the unfinished engine can't run here" in error
        id_ = server.post("runs", {**run, "engine": "plain"}, 201)["id"]
        until(lambda: server.get(f"runs/{id_}")["state"] not in {"queued", "running"})
        assert server.get(f"runs/{id_}")["state"] == "done"
        assert server.get("store")["suites"][0]["fingerprint"]["engine"] == "plain"


@pytest.mark.engine
@pytest.mark.usefixtures("installed")
def test_one_that_computes_something_else_is_found_out(cli: Cli) -> None:
    refused = cli(
        *("run", "--checkpoints", "116k@161", "--mode", "extract", "--sequences", "0:600"),
        *("--engine", "wrong", "--out", "wrong"),
        code=6,
    )
    assert "the wrong engine in float32 and Transformers' own forward" in refused.stdout + refused.stderr
