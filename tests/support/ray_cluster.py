"""A real Ray cluster of several nodes on this machine, and what its runs are watched by."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import duckdb
from command_line import command

# It keeps the cluster in a process of its own, so that nothing of Ray stays in the tests' process.
from ray_nodes import Nodes

__all__ = ["RUN", "Nodes", "events_until", "files", "rows", "start"]

RUN = ("run", "--engine", "transformers", "--checkpoints", "116k@161,116k@301")
"""What the tests of a cluster run, each over as many sequences as it needs."""


def rows(store: Path) -> list[tuple[object, ...]]:
    return duckdb.execute(
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
