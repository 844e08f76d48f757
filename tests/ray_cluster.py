"""A real Ray cluster of several nodes on this machine, and what its runs are watched by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import psutil
from conftest import command

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
