#!/usr/bin/env python3
"""A real Ray cluster on this machine, of a head without CPUs and nodes that come and are killed.

    python scripts/ray_nodes.py

Reads a command a line, and answers each with a line:

    add [PATH]      a node with one CPU joins; Python on it looks for modules at PATH too; its id
    kill ID         all processes of the node are killed at once; "gone"

The first line of the output is the cluster's address. It ends with its input. Where it fails it says why on
standard error. Needs Ray. For the tests, and for scripts/faults.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psutil

ATTEMPTS = 2

PATIENCE = 300.0
"""Seconds that parts of a node may take to come up. Ray's own limits are 30, too few for a busy machine."""

SETTINGS = {
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_niceness": "0",  # else workers and their engines wait for everybody else
    "RAY_health_check_period_ms": "500",
    "RAY_gcs_server_port_wait_time_s": "180",
}
SMALL = {"object_store_memory": 80_000_000}


class Nodes:
    """The cluster, from another process: `python scripts/ray_nodes.py` does the work."""

    def __init__(self, count: int = 0) -> None:
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env={**os.environ, **SETTINGS},
        )
        self.nodes: list[str] = []
        self.address = self._answer()
        self.have(count)

    def have(self, count: int) -> None:
        """Let so many nodes be there."""
        while len(self.nodes) < count:
            self.add()

    def add(self, python_path: str = "") -> str:
        """A node joins; its id."""
        node = self._ask(f"add {python_path}")
        self.nodes.append(node)
        return node

    def kill(self, node: str) -> None:
        """Kill all processes of a node."""
        assert self._ask(f"kill {node}") == "gone"
        self.nodes.remove(node)

    def below(self) -> list[psutil.Process]:
        """All processes on its nodes."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def engines(self) -> list[psutil.Process]:
        """The engines on its nodes, and what they are forked from."""
        return [
            process
            for process in self.below()
            if re.search(r"memoserve\.engines\.\w+\.preload", line_of(process))
        ]

    def close(self) -> None:
        """End the cluster."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self._stderr.close()

    def _ask(self, line: str) -> str:
        assert self.process.stdin is not None
        print(line, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> str:
        assert self.process.stdout is not None
        answer = self.process.stdout.readline().strip()
        if not answer:
            self._stderr.seek(0)
            raise RuntimeError(f"the Ray cluster is gone: {self._stderr.read()[-4000:]}")
        return answer


def line_of(process: psutil.Process) -> str:
    """The command line of a process, empty if it is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def patient(ask: Callable[..., Any]) -> Callable[..., Any]:
    """The same function, which asks again for some minutes where it would raise RuntimeError."""

    def call(*arguments: Any, **options: Any) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return ask(*arguments, **options)
            except RuntimeError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    return call


def again(start: Callable[[], Any]) -> Any:
    """What `start` returns; what a failed attempt leaves is killed, and it is tried again."""
    before = set(psutil.Process().children(recursive=True))
    for attempt in range(ATTEMPTS):
        try:
            return start()
        except Exception as error:  # Ray raises plain ones
            print(f"attempt {attempt + 1}: {error!r}", file=sys.stderr, flush=True)
            for process in set(psutil.Process().children(recursive=True)) - before:
                kill(process)
            time.sleep(2)
    raise SystemExit("no more attempts")


def kill(process: psutil.Process) -> None:
    """Kill a process, if it is there."""
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def main() -> None:
    """Keep a cluster until the input ends."""
    from ray._private import services
    from ray.cluster_utils import Cluster

    class PatientCluster(Cluster):  # type: ignore[misc]
        def _wait_for_node(self, node: Any, timeout: float = PATIENCE) -> None:
            super()._wait_for_node(node, timeout)

    services.get_node = patient(services.get_node)
    cluster = again(
        lambda: PatientCluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **SMALL}
        )
    )
    number = 1

    def add(path: str) -> Any:
        # An address of its own: else a driver might take a node for its own that is going to be killed.
        nonlocal number
        number += 1
        about = {"env_vars": {"PYTHONPATH": path}} if path else {}
        return cluster.add_node(num_cpus=1, node_ip_address=f"127.0.0.{number}", **SMALL, **about).node_id

    print(cluster.address, flush=True)
    for line in sys.stdin:
        order, _, argument = line.strip().partition(" ")
        if order == "add":
            print(again(partial(add, argument)), flush=True)
        else:
            (node,) = [node for node in cluster.worker_nodes if node.node_id == argument]
            mine = [p for p in psutil.Process().children() if argument in line_of(p)]
            for process in [*mine, *(child for p in mine for child in p.children(recursive=True))]:
                kill(process)
            cluster.worker_nodes.remove(node)
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
            print("gone", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main()
