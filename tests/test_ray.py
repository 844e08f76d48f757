"""`memoserve run --executor ray` on a real Ray cluster of several node processes on this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import psutil
import pytest
from conftest import Cli, command

ray = pytest.importorskip("ray", reason="Ray is an extra")

SMALL = ("run", "--engine", "transformers", "--checkpoints", "116k@161,116k@301", "--sequences", "0:600")
PARTS = ("--part-size", "50")

# A process of its own keeps the cluster, so that nothing of Ray stays in the tests' process.
CLUSTER = """
import sys
from ray.cluster_utils import Cluster
small = {"object_store_memory": 80_000_000}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
def add(number):
    # An address of its own: else the driver might take a node for its own that is going to be killed.
    return cluster.add_node(num_cpus=1, node_ip_address=f"127.0.0.{number}", **small).node_id
print(cluster.address, add(2), add(3), flush=True)
for line in sys.stdin:
    if line.strip() == "add":
        print(add(4), flush=True)
    else:
        (node,) = [node for node in cluster.worker_nodes if node.node_id == line.strip()]
        cluster.remove_node(node, allow_graceful=False)
        print("gone", flush=True)
cluster.shutdown()
"""


class Nodes:
    """A cluster without CPUs on its head and with two nodes of one CPU."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "RAY_memory_monitor_refresh_ms": "0", "RAY_health_check_period_ms": "500"},
        )
        self.address, *self.nodes = self._answer().split()

    def ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def engines(self) -> list[psutil.Process]:
        """The engines on its nodes, and what they are forked from."""
        processes = psutil.Process(self._process.pid).children(recursive=True)
        return [process for process in processes if "memoserve.engines.preload" in str(process.cmdline())]

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    cluster = Nodes()
    yield cluster
    cluster.close()


def rows(store: Path) -> list[tuple[object, ...]]:
    return duckdb.sql(
        "SELECT model, step, sequence_id, matches, match_mask FROM "
        f"read_parquet('{store}/scores/**/*.parquet', hive_partitioning=true) ORDER BY ALL"
    ).fetchall()


def files(store: Path) -> dict[str, bytes]:
    return {str(file.relative_to(store)): file.read_bytes() for file in store.glob("scores/**/*.parquet")}


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments, "--progress", "json"), stdout=subprocess.PIPE, text=True, cwd=cwd
    )


def events_until(process: subprocess.Popen[str], kind: str, count: int = 1) -> list[dict[str, Any]]:
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        if [event["event"] for event in events].count(kind) == count:
            return events
    raise AssertionError(events)


@pytest.mark.engine
def test_a_cluster_makes_the_same_parts_and_loses_nothing_with_a_node(
    nodes: Nodes, cli: Cli, tmp_path: Path
) -> None:
    """One node is killed in mid-run; then the driver is; another driver on the same cluster finishes."""
    arguments = (*SMALL, *PARTS, "--executor", "ray", "--address", nodes.address, "--out", "over-ray")
    process = start(*arguments, cwd=tmp_path)
    before = events_until(process, "part_done", 3)
    lanes = {event["lane"] for event in before if event["event"] == "engine_starting"}
    assert len(lanes) == 2
    assert {lane.split()[1] for lane in lanes} == {node[:6] for node in nodes.nodes}
    assert nodes.ask(nodes.nodes[0]) == "gone"
    after = events_until(process, "part_done", 4)
    assert len(after) > 3
    engines = nodes.engines()
    assert engines
    process.kill()
    process.wait()
    kept = files(tmp_path / "over-ray")
    assert 7 <= len(kept) < 24

    end = json.loads(cli(*arguments, "--progress", "json").stdout.splitlines()[-1])
    assert end["status"] == "done"
    whole = files(tmp_path / "over-ray")
    assert len(whole) == 24
    assert {name: whole[name] for name in kept} == kept, "a whole part was written again"

    cli(*SMALL, *PARTS, "--out", "local")
    assert rows(tmp_path / "over-ray") == rows(tmp_path / "local")
    assert cli(*arguments).stdout.splitlines()[-1] == "nothing is missing"
    for engine in engines:  # those of the killed driver end by themselves
        engine.wait(timeout=30)


@pytest.mark.engine
@pytest.mark.slow
def test_deterministic_parts_are_equal_byte_by_byte(nodes: Nodes, cli: Cli, tmp_path: Path) -> None:
    same = ("run", "--deterministic", "--checkpoints", "116k@*,281k@1001", "--sequences", "0:4000")
    same += ("--part-size", "250")
    process = start(*same, "--executor", "ray", "--address", nodes.address, "--out", "over-ray", cwd=tmp_path)
    events_until(process, "part_done", 10)
    assert nodes.ask(nodes.nodes[1]) == "gone"
    time.sleep(1)
    nodes.ask("add")
    output, _ = process.communicate()
    assert process.returncode == 0
    lanes = [json.loads(line) for line in output.splitlines()]
    assert any(event["event"] == "engine_starting" for event in lanes), "the new node got no work"
    cli(*same, "--out", "local")
    assert files(tmp_path / "over-ray") == files(tmp_path / "local")


def test_without_a_cluster_a_run_says_what_to_do(cli: Cli) -> None:
    refused = cli(*SMALL, "--executor", "ray", "--address", "127.0.0.1:1", code=3)
    assert "there is no Ray cluster at 127.0.0.1:1" in refused.stderr


@pytest.mark.engine
def test_told_to_stop_a_run_on_a_cluster_ends_its_workers(nodes: Nodes, tmp_path: Path) -> None:
    arguments = (*SMALL, *PARTS, "--executor", "ray", "--address", nodes.address, "--out", "out")
    process = start(*arguments, cwd=tmp_path)
    events_until(process, "part_done")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(output.splitlines()[-1])["status"] == "interrupted"
    parts = files(tmp_path / "out")
    assert 0 < len(parts) < 24
    assert len(rows(tmp_path / "out")) == 50 * len(parts)
