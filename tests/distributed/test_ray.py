"""`memoserve run --executor ray` on a real Ray cluster of several node processes on this machine."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import Cli
from ray_cluster import RUN, Nodes, events_until, files, rows, start

pytestmark = pytest.mark.thorough

ray = pytest.importorskip("ray", reason="Ray is an extra")

SMALL = (*RUN, "--sequences", "0:600")
PARTS = ("--part-size", "50")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """Of this module: starting one takes as long as a test."""
    with pytest.MonkeyPatch.context() as patch:
        # Everybody shares this machine's cores: threads that wait for each other would take them from others.
        patch.setenv("OMP_NUM_THREADS", "1")
        cluster = Nodes()
        yield cluster
        cluster.close()


@pytest.mark.engine
def test_a_cluster_makes_the_same_parts_and_loses_nothing_with_a_node(
    nodes: Nodes, cli: Cli, tmp_path: Path
) -> None:
    """One node is killed in mid-run; then the driver is; another driver on the same cluster finishes."""
    arguments = (*SMALL, *PARTS, "--executor", "ray", "--address", nodes.address, "--out", "over-ray")
    process = start(*arguments, cwd=tmp_path)
    before = events_until(process, "part_done", 3)
    workers = {event["worker"] for event in before if event["event"] == "engine_starting"}
    assert len(workers) == 2
    assert {worker.split()[1] for worker in workers} == {node[:6] for node in nodes.nodes}
    nodes.kill(nodes.nodes[0])
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
    assert cli(*arguments).stdout.splitlines()[-1] == "nothing to do: all scores exist"
    for engine in engines:  # those of the killed driver end by themselves
        engine.wait(timeout=30)


@pytest.mark.engine
@pytest.mark.exhaustive
def test_deterministic_parts_are_equal_byte_by_byte(nodes: Nodes, cli: Cli, tmp_path: Path) -> None:
    same = (
        *("run", "--deterministic", "--checkpoints", "116k@*,281k@1001", "--sequences", "0:4000"),
        *("--part-size", "250"),
    )
    process = start(*same, "--executor", "ray", "--address", nodes.address, "--out", "over-ray", cwd=tmp_path)
    events_until(process, "part_done", 10)
    nodes.kill(nodes.nodes[1])
    time.sleep(1)
    nodes.add()
    output, _ = process.communicate()
    assert process.returncode == 0
    events = [json.loads(line) for line in output.splitlines()]
    assert any(event["event"] == "engine_starting" for event in events), "the new node got no work"
    cli(*same, "--out", "local")
    assert files(tmp_path / "over-ray") == files(tmp_path / "local")


def test_without_a_cluster_a_run_says_what_to_do(cli: Cli) -> None:
    refused = cli(*SMALL, "--executor", "ray", "--address", "127.0.0.1:1", code=3)
    assert "there is no Ray cluster at 127.0.0.1:1" in refused.stderr
    refused = cli(*SMALL, "--executor", "ray", "--address", "ray://127.0.0.1:10001", code=3)
    assert "on a node of the cluster" in refused.stderr


@pytest.mark.engine
def test_a_run_outlives_the_clusters_head_and_says_that_it_is_gone(cli: Cli, tmp_path: Path) -> None:
    """Ray alone would end the driver after a minute, with exit code 1 and nothing said of the run."""
    mine = Nodes(1)
    try:
        long = ("run", "--engine", "transformers", "--checkpoints", "116k@*,281k@*", "--part-size", "50")
        process = start(*long, "--executor", "ray", "--address", mine.address, "--out", "out", cwd=tmp_path)
        events_until(process, "part_done")
        (head,) = [one for one in mine.below() if one.name() == "gcs_server"]
        head.kill()
        output, _ = process.communicate(timeout=120)
    finally:
        mine.close()
    assert process.returncode == 5
    events = [json.loads(line) for line in output.splitlines()]
    assert "part_done" in {event["event"] for event in events}, "workers need no head to go on"
    assert f"the cluster's head at {mine.address} answers no more" in events[-1]["message"]
    assert "as they were written" in cli("verify", "out").stdout


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
