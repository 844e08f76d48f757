"""`memoserve run --executor ray` with store and sequences in a bucket, and with a node that is broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import psutil
import pytest
from conftest import Cli, command
from moto.server import ThreadedMotoServer

from memoserve.suites import Suite

ray = pytest.importorskip("ray", reason="Ray is an extra")

SMALL = ("run", "--engine", "transformers", "--checkpoints", "116k@161,116k@301", "--sequences", "0:240")
PARTS = ("--part-size", "20")

# A process of its own keeps the cluster, so that nothing of Ray stays in the tests' process.
CLUSTER = """
import os, sys
from ray.cluster_utils import Cluster
small = {"object_store_memory": 80_000_000}
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
number = 1
def add(**about):
    # An address of its own: else the driver might take a node for its own that is going to be killed.
    global number
    number += 1
    return cluster.add_node(num_cpus=1, node_ip_address=f"127.0.0.{number}", **small, **about).node_id
print(cluster.address, flush=True)
for line in sys.stdin:
    order, _, argument = line.strip().partition(" ")
    if order == "add":
        print(add(env_vars={"PYTHONPATH": argument} if argument else None), flush=True)
    else:
        (node,) = [node for node in cluster.worker_nodes if node.node_id == argument]
        cluster.remove_node(node, allow_graceful=False)
        print("gone", flush=True)
cluster.shutdown()
"""


class Nodes:
    """A cluster whose head has no CPUs, and nodes of one CPU."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CLUSTER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "RAY_memory_monitor_refresh_ms": "0", "RAY_health_check_period_ms": "500"},
        )
        self.address = self._answer()
        self.nodes: list[str] = []

    def have(self, count: int) -> None:
        """Let so many nodes be there."""
        while len(self.nodes) < count:
            self.add()

    def add(self, python_path: str = "") -> str:
        """A node joins; Python on it looks for modules at a path of its own, if one is given."""
        node = self.ask(f"add {python_path}")
        self.nodes.append(node)
        return node

    def kill(self, node: str) -> None:
        """End all processes of a node at once."""
        assert self.ask(f"kill {node}") == "gone"
        self.nodes.remove(node)

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


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of a bucket of an S3-compatible server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
    server.stop()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(scope="module")
def cluster(bucket: str) -> Iterator[Nodes]:
    """Of this module; its nodes know where the bucket is."""
    cluster = Nodes()
    yield cluster
    cluster.close()


@pytest.fixture
def nodes(cluster: Nodes) -> Nodes:
    """The cluster with two nodes at least."""
    cluster.have(2)
    return cluster


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


def fetched(url: str, folder: Path) -> Path:
    """A copy of a remote store."""
    fsspec.filesystem("s3").get(url, str(folder), recursive=True)
    return folder


@pytest.mark.engine
@pytest.mark.slow
def test_a_cluster_makes_the_same_parts_and_loses_nothing_with_a_node(
    nodes: Nodes, bucket: str, mini: Suite, cli: Cli, tmp_path: Path
) -> None:
    """Store and sequences are in a bucket. One node is killed in mid-run; then the driver is; another driver
    on the same cluster finishes. Nothing but the weights is read from a disk that the nodes share.
    """
    here = f"{bucket}/{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3").put(f"{mini.file.parent}/data", f"{here}/data", recursive=True)
    arguments = (*SMALL, *PARTS, "--executor", "ray", "--address", nodes.address)
    arguments += ("--data", f"{here}/data/train.idx", "--out", f"{here}/store")
    process = start(*arguments, cwd=tmp_path)
    before = events_until(process, "part_done", 3)
    lanes = {event["lane"] for event in before if event["event"] == "engine_starting"}
    assert {lane.split()[1] for lane in lanes} == {node[:6] for node in nodes.nodes}
    nodes.kill(nodes.nodes[0])
    after = events_until(process, "part_done", 4)
    assert len(after) > 3
    engines = nodes.engines()
    assert engines
    process.kill()
    process.wait()
    kept = files(fetched(f"{here}/store", tmp_path / "kept"))
    assert 7 <= len(kept) < 24

    end = json.loads(cli(*arguments, "--progress", "json").stdout.splitlines()[-1])
    assert end["status"] == "done"
    whole = files(fetched(f"{here}/store", tmp_path / "whole"))
    assert len(whole) == 24
    assert {name: whole[name] for name in kept} == kept, "a whole part was written again"

    cli(*SMALL, *PARTS, "--out", "local")
    assert rows(tmp_path / "whole") == rows(tmp_path / "local")
    assert not list(tmp_path.glob("s3:*"))
    for engine in engines:  # those of the killed driver end by themselves
        engine.wait(timeout=30)


@pytest.mark.engine
@pytest.mark.slow
def test_a_node_whose_engine_never_starts_leaves_its_parts_to_others(nodes: Nodes, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sitecustomize.py").write_text(
        "import sys\n"
        "class Broken:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            raise ImportError('the disk of this node is broken')\n"
        "sys.meta_path.insert(0, Broken())\n"
    )
    nodes.kill(nodes.nodes[0])
    path = os.pathsep.join([str(tmp_path / "broken"), os.environ.get("PYTHONPATH", "")])
    broken = nodes.add(path)
    try:
        arguments = (*SMALL, "--part-size", "40", "--executor", "ray", "--address", nodes.address)
        process = start(*arguments, "--out", "out", cwd=tmp_path)
        output, _ = process.communicate(timeout=300)
    finally:
        nodes.kill(broken)
    events = [json.loads(line) for line in output.splitlines()]
    assert (process.returncode, events[-1]["status"], events[-1]["failures"]) == (0, "done", [])
    (told,) = [event for event in events if event["event"] == "engine_not_started"]
    assert told["lane"].split()[1] == broken[:6]
    assert "ImportError: the disk of this node is broken" in told["reason"]
    assert "Traceback" not in told["reason"]
    assert len(files(tmp_path / "out")) == 12
