"""`memoserve run --executor ray` with store and sequences in a bucket, and with a node that is broken."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from command_line import Cli
from moto.server import ThreadedMotoServer
from ray_cluster import RUN, Nodes, events_until, files, rows, start

from memoserve.suites import Suite

pytestmark = pytest.mark.thorough

ray = pytest.importorskip("ray", reason="Ray is an extra")

SMALL = (*RUN, "--sequences", "0:240")
PARTS = ("--part-size", "20")


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


def fetched(url: str, folder: Path) -> Path:
    """A copy of a remote store."""
    fsspec.filesystem("s3").get(url, str(folder), recursive=True)
    return folder


@pytest.mark.engine
@pytest.mark.exhaustive
def test_a_cluster_makes_the_same_parts_and_loses_nothing_with_a_node(
    nodes: Nodes, bucket: str, mini: Suite, cli: Cli, tmp_path: Path
) -> None:
    """Store and sequences are in a bucket. One node is killed in mid-run; then the driver is; another driver
    on the same cluster finishes. Nothing but the weights is read from a disk that the nodes share.
    """
    here = f"{bucket}/{uuid.uuid4().hex[:8]}"
    fsspec.filesystem("s3").put(f"{mini.file.parent}/data", f"{here}/data", recursive=True)
    arguments = (
        *(*SMALL, *PARTS, "--executor", "ray", "--address", nodes.address),
        *("--data", f"{here}/data/train.idx", "--out", f"{here}/store"),
    )
    process = start(*arguments, cwd=tmp_path)
    before = events_until(process, "part_done", 3)
    workers = {event["worker"] for event in before if event["event"] == "engine_starting"}
    assert {worker.split()[1] for worker in workers} == {node[:6] for node in nodes.nodes}
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
@pytest.mark.exhaustive
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
    assert told["worker"].split()[1] == broken[:6]
    assert "ImportError: the disk of this node is broken" in told["reason"]
    assert "Traceback" not in told["reason"]
    assert len(files(tmp_path / "out")) == 12
