"""Calls that are forked from a process that has imported memoserve are what a user's own calls are."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Cli
from serving import mini_store
from typer.main import get_group

from memoserve.cli import app
from memoserve.suites import Suite

pytestmark = pytest.mark.thorough

CALLS = {
    "run": ("--checkpoints", "116k@17", "--engine", "transformers"),
    "status": ("store",),
    "verify": ("store",),
    "query": ("counts", "store"),
    "sql": ("SELECT count(*) FROM scores", "store", "--format", "json"),
    "catalog": ("store", "--embed", "-o", "catalog.duckdb"),
    "features": ("-o", "store", "--sequences", "40:0"),
    "forecast": ("store",),
    "recommend": ("store", "--budget", "50%"),
    "scaling": ("store",),
    "show": ("store", "--cell", "hit"),
    "plot": ("predictors", "store", "-o", "plot.svg"),
    "report": ("store", "--only", "counts", "--texts", "0", "-o", "report.html"),
    "export": ("store", "--predictor", "532k@1001", "-o", "predicted.csv"),
    "serve": ("store", "--token-file", "nowhere"),
    "import": ("--help",),
    "suite": ("show", "mini"),
    "sequences": ("show", "DATA", "--ids", "3,4"),
    "doctor": ("--help",),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mini_store(tmp_path_factory.mktemp("processes") / "store", 300)


def test_every_command_is_called() -> None:
    assert CALLS.keys() == get_group(app).commands.keys()


@pytest.mark.parametrize("name", CALLS)
def test_a_forked_call_says_what_a_fresh_one_says(
    name: str, store: Path, mini: Suite, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "store").symlink_to(store)
    arguments = [str(mini.sequences.path) if each == "DATA" else each for each in CALLS[name]]
    fresh = cli(name, *arguments, code=None, fresh=True)
    written = {file.name for file in tmp_path.iterdir()}
    forked = cli(name, *arguments, code=None)
    assert fresh.returncode in (0, 3)
    assert fresh.stdout + fresh.stderr
    assert (forked.returncode, forked.stdout, forked.stderr) == (
        fresh.returncode, fresh.stdout, fresh.stderr,
    )  # fmt: skip
    assert {file.name for file in tmp_path.iterdir()} == written
