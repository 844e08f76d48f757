"""The harness of scripts/faults.py, for a few faults; the long run is started by hand."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from web_server import HeldPort

pytestmark = pytest.mark.thorough

HARNESS = Path(__file__).parents[2] / "scripts" / "faults.py"


def harness(tmp_path: Path, *options: str) -> tuple[str, list[dict[str, object]]]:
    log = tmp_path / "log.jsonl"
    result = subprocess.run(
        [sys.executable, HARNESS, "--log", log, *options], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 things wrong" in result.stdout
    return result.stdout, [json.loads(line) for line in log.read_text().splitlines()]


def test_a_port_stays_ours_while_its_server_is_away() -> None:
    held = HeldPort()
    here = ("127.0.0.1", held.number)
    for _ in range(3):
        with held.listening() as server, socket.create_connection(here) as client:
            accepted, _ = server.accept()
            accepted.close()  # this end closes first: the connection lingers on the port
            assert client.recv(1) == b""
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(here)
        for options in ((), (socket.SO_REUSEADDR,)):
            with socket.socket() as other:
                for option in options:
                    other.setsockopt(socket.SOL_SOCKET, option, 1)
                with pytest.raises(OSError, match="in use"):
                    other.bind(here)


@pytest.mark.engine
@pytest.mark.parametrize("place", [pytest.param("local", marks=pytest.mark.exhaustive), "s3"])
def test_a_killed_driver_and_damaged_parts(tmp_path: Path, place: str) -> None:
    kinds = "driver,engine,flip,truncate,footer,overlap"
    said, faults = harness(tmp_path, "--faults", "5", "--seed", "3", "--place", place, "--kinds", kinds)
    assert len(faults) >= 5
    assert {fault["where"] for fault in faults} == {place}
    assert "parts made again" in said


@pytest.mark.engine
@pytest.mark.exhaustive
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_every_kind(tmp_path: Path, engine: str) -> None:
    kept = tmp_path / "result.json"
    said, faults = harness(
        tmp_path, "--faults", "30", "--seed", "4", "--engine", engine, "--result", str(kept)
    )
    assert len(faults) >= 30
    assert sum(json.loads(kept.read_text())["faults"].values()) == len(faults)
    # Stopped and started again, it goes on from what it has kept.
    again, _ = harness(tmp_path, "--faults", "30", "--engine", engine, "--result", str(kept))
    assert again.splitlines()[-1] == said.splitlines()[-1]


@pytest.mark.engine
@pytest.mark.exhaustive
def test_on_a_ray_cluster(tmp_path: Path) -> None:
    kinds = "driver,engine,worker,node,flip,truncate"
    _, faults = harness(tmp_path, "--faults", "15", "--seed", "5", "--executor", "ray", "--kinds", kinds)
    assert {"worker", "node"} & {fault["kind"] for fault in faults}
