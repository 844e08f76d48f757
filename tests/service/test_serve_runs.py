"""Runs over HTTP: submitted, watched, cancelled, and gone on with after kill -9 of everything there is."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import duckdb
import httpx
import psutil
import pytest
from serving import Server, mini_store, serving, until, workers

from memoserve.serve.jobs.queue import Queue
from memoserve.serve.jobs.worker import lock_file

pytestmark = pytest.mark.thorough


def events_of(server: Server, id_: int, last: str | None = None) -> Iterator[dict[str, Any]]:
    """The events of a run as dicts of their fields, the data read."""
    headers = {"accept": "text/event-stream"} | ({} if last is None else {"last-event-id": last})
    url = f"{server.url}/api/runs/{id_}/events"
    with httpx.stream("GET", url, headers=headers, timeout=600) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        event: dict[str, Any] = {}
        for line in answer.iter_lines():
            if not line:
                if "event" in event:
                    event["data"] = json.loads(event["data"])
                    yield event
                event = {}
            elif not line.startswith(":"):
                name, _, value = line.partition(": ")
                event[name] = value


def parts(store: Path) -> list[Path]:
    return sorted(store.glob("scores/**/*.parquet"))


def ended(server: Server, id_: int, seconds: float = 480) -> dict[str, Any]:
    def found() -> dict[str, Any] | None:
        run = server.get(f"runs/{id_}")
        return run if run["state"] not in {"queued", "running"} else None

    run: dict[str, Any] = until(found, seconds)
    return run


def begun(server: Server, id_: int, least: int = 1) -> dict[str, Any]:
    """The run, as soon as it runs and some parts are there."""

    def found() -> dict[str, Any] | None:
        run = server.get(f"runs/{id_}")
        assert run["state"] in {"queued", "running"}, run
        return run if run["state"] == "running" and len(parts(server.store)) >= least else None

    run: dict[str, Any] = until(found)
    return run


def the_run(store: Path) -> psutil.Process:
    (found,) = [p for p in workers(store) if "memoserve.serve.jobs.worker" not in " ".join(p.cmdline())]
    return found


def the_worker(store: Path) -> psutil.Process:
    (found,) = [p for p in workers(store) if "memoserve.serve.jobs.worker" in " ".join(p.cmdline())]
    return found


def evaluated(store: Path) -> list[tuple[Any, ...]]:
    """(checkpoint, rows, distinct ids), counted without memoserve."""
    return duckdb.execute(
        "SELECT model || '@' || step, count(*), count(DISTINCT sequence_id) FROM "
        f"read_parquet('{store}/scores/**/*.parquet', hive_partitioning = true) GROUP BY ALL ORDER BY 1"
    ).fetchall()


REFERENCE = {
    "suite": "mini",
    "checkpoints": "116k@*",
    "sequences": "0:1000",
    "mode": "extract",
    "engine": "transformers",
}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving(tmp_path / "store") as one:
        yield one


# Refused


def test_a_bad_run_is_refused_by_the_checks_of_memoserve_run(server: Server) -> None:
    for body, said in (
        ({"suite": "mini", "checkpoints": "zork@1"}, "its models are 116k, 281k"),
        ({"suite": "mini", "checkpoints": "116k@17"}, "no step 17"),
        ({"suite": "mini", "sequences": "0:99999999"}, "goes beyond"),
        ({"suite": "mini", "loglik": True}, "needs --mode extract"),
        ({"suite": "pythia"}, "doesn't say where its sequences are"),
        ({"suite": "zork"}, "there is no suite"),
    ):
        assert said in server.post("runs", body, 400)["error"], body
    bodies: tuple[dict[str, Any], ...] = (
        {"sample": 0},
        {"sample": 2},
        {"mode": "guess"},
        {"engine": "gues"},
        {"seed": -1},
        {"checkpoints": "a\nb"},
        {"by": "x" * 101},
        {"note": "a\x00"},
    )
    for body in bodies:
        assert server.client.post("/api/runs", json=body).status_code == 422, body
    assert server.get("runs") == []
    assert server.get("runs/1", 404)["error"]
    assert server.post("runs/1/cancel", None, 404)["error"]
    assert server.client.get("/api/runs/1/events").status_code == 404
    assert server.client.get("/api/runs/1/log").status_code == 404


def test_an_unlike_run_is_refused(tmp_path: Path) -> None:
    with serving(mini_store(tmp_path / "store", 50)) as server:
        error = server.post("runs", {"suite": "mini", "checkpoints": "116k@1001"}, 409)["error"]
        assert "never mixed" in error


# Real engines


@pytest.mark.engine
def test_a_run_with_vllm_is_submitted_and_watched_to_its_end(server: Server) -> None:
    asked = {
        "suite": "mini", "checkpoints": "116k@1001", "sequences": "0:1000", "mode": "extract",
        "by": "Maren", "note": "a --first= try",
    }  # fmt: skip
    run = server.post("runs", asked, 201)
    assert (run["state"], run["ahead"]) == ("queued", 0)
    assert run["request"] | asked == run["request"]
    assert run["estimate"]["sequences"] == 1000
    seen = list(events_of(server, run["id"]))
    states = [event["data"]["state"] for event in seen]
    assert [event["event"] for event in seen] == ["progress"] * (len(seen) - 1) + ["end"]
    assert states == sorted(states, key=["queued", "running", "done"].index)
    assert {"running", "done"} <= set(states)
    told = [(event["data"]["event"], event["data"]["model"]) for event in seen]
    assert ("engine_starting", "116k") in told
    assert [name for name, _ in told if name in {"plan", "engine_starting", "engine_up"}][-1] == "engine_up"
    assert told[-1][0] is None
    done = [event["data"]["all_done"] for event in seen]
    assert done == sorted(done)
    left = {event["data"]["seconds_left"] for event in seen if event["data"]["state"] == "running"}
    assert left - {None}
    assert all(seconds >= 0 for seconds in left - {None})
    last = seen[-1]["data"]
    assert (last["all_done"], last["all_total"]) == (1000, 1000)
    assert (last["checkpoints_done"], last["checkpoints_total"]) == (1, 1)
    assert last["failures"] == []

    # Who comes back gets what was missed, and the end, which it may have missed too.
    ids = [int(event["id"]) for event in seen]
    assert ids == sorted(ids)
    for resumed in (seen[0]["id"], "0", "junk", "99999999"):
        again = list(events_of(server, run["id"], resumed))
        assert [event["event"] for event in again] == ["progress", "end"]
        assert again[-1]["data"] == last
    assert [event["event"] for event in events_of(server, run["id"], seen[-1]["id"])] == ["end"]

    assert evaluated(server.store) == [("116k@1001", 1000, 1000)]
    assert server.get("store")["suites"][0]["scores"] == 1000
    assert "checkpoint finished: checkpoint 116k@1001" in server.client.get("/api/runs/1/log").text
    after = server.get("runs/1")
    assert after["exit_code"] == 0
    assert after["created"] <= after["started"] <= after["ended"]
    assert server.get("text", limit=1)["total"] >= 0

    # What is there is not done again; runs are done one after the other, in their order.
    for _ in range(3):
        assert server.post("runs", asked, 201)["estimate"]["sequences"] == 0
    finished = [ended(server, id_) for id_ in (2, 3, 4)]
    assert [one["state"] for one in finished] == ["done"] * 3
    for before, following in pairwise(finished):
        assert before["ended"] <= following["started"]
    assert [one["id"] for one in server.get("runs")] == [4, 3, 2, 1]
    assert [one["id"] for one in server.get("runs", limit=2, offset=1)] == [3, 2]
    until(lambda: not workers(server.store), 30)  # nothing is left running where there is nothing to do
    assert evaluated(server.store) == [("116k@1001", 1000, 1000)]


@pytest.mark.engine
def test_kill_nine_of_server_worker_and_run_loses_nothing(server: Server) -> None:
    id_ = server.post("runs", REFERENCE, 201)["id"]
    begun(server, id_)
    working = the_run(server.store)
    working.suspend()  # so that it is in the middle of its work, however fast the machine is

    server.kill()
    assert working.is_running()
    server.start()
    assert server.get(f"runs/{id_}")["state"] == "running"
    assert the_run(server.store) == working

    former = the_worker(server.store)
    former.kill()
    former.wait()
    until(lambda: [p for p in workers(server.store) if p not in (former, working)])
    before = len(parts(server.store))
    assert before < 7
    working.resume()
    until(lambda: len(parts(server.store)) > before)
    now = server.get(f"runs/{id_}")
    assert now["attempts"] == 1, "the next worker has not begun the run again, but taken it over"

    if now["state"] == "running":
        working.kill()
        until(lambda: server.get(f"runs/{id_}")["attempts"] == 2)
    last = ended(server, id_)
    assert last["state"] == "done", last
    assert last["progress"]["checkpoints_done"] == last["progress"]["checkpoints_total"] == 7
    steps = (161, 301, 441, 581, 721, 861, 1001)
    assert evaluated(server.store) == sorted((f"116k@{step}", 1000, 1000) for step in steps)
    assert not list(server.store.rglob("*.tmp"))


@pytest.mark.engine
def test_a_run_that_is_killed_is_begun_again_three_times(server: Server) -> None:
    id_ = server.post("runs", {**REFERENCE, "checkpoints": "116k@161"}, 201)["id"]
    for attempt in (1, 2, 3):
        until(partial(_is_there, server, id_, attempt))
        the_run(server.store).kill()
    last = ended(server, id_)
    assert last["state"] == "failed"
    assert "killed by SIGKILL, 3 times" in last["message"]


def _is_there(server: Server, id_: int, attempt: int) -> bool:
    if server.get(f"runs/{id_}")["attempts"] != attempt:
        return False
    return any("memoserve.serve.jobs.worker" not in " ".join(p.cmdline()) for p in workers(server.store))


@pytest.mark.engine
def test_an_engine_that_is_killed_costs_an_attempt(server: Server) -> None:
    id_ = server.post("runs", {**REFERENCE, "checkpoints": "116k@161,116k@1001"}, 201)["id"]
    until(lambda: server.get(f"runs/{id_}")["progress"]["event"] == "engine_starting")
    engine = until(
        lambda: [
            child
            for run in workers(server.store)
            for child in run.children(recursive=True)
            if "memoserve.engines" in str(child.cmdline())
        ]
    )
    engine[0].kill()
    last = ended(server, id_)
    assert last["state"] == "done", last
    assert last["attempts"] == 2
    assert evaluated(server.store) == [("116k@1001", 1000, 1000), ("116k@161", 1000, 1000)]


@pytest.mark.engine
def test_cancelling(server: Server) -> None:
    first = server.post("runs", REFERENCE, 201)["id"]
    second = server.post("runs", REFERENCE, 201)["id"]
    third = server.post("runs", REFERENCE, 201)
    assert third["ahead"] == 2
    assert server.post(f"runs/{second}/cancel")["state"] == "cancelled"
    assert server.get(f"runs/{third['id']}")["ahead"] == 1
    assert server.post(f"runs/{third['id']}/cancel")["ahead"] is None
    begun(server, first)
    assert server.get(f"runs/{second}")["started"] is None
    processes = [*workers(server.store), *the_run(server.store).children(recursive=True)]
    assert server.post(f"runs/{first}/cancel")["cancel_requested"]
    last = ended(server, first, 60)
    assert last["state"] == "cancelled"
    assert "whole parts are kept" in last["message"]
    assert [event["event"] for event in events_of(server, first)] == ["progress", "end"]
    until(lambda: not any(process.is_running() for process in processes), 30)
    assert all(rows == distinct == 1000 for _, rows, distinct in evaluated(server.store))
    assert server.post(f"runs/{first}/cancel")["state"] == "cancelled"
    # What was there stays, and can be gone on with.
    shorter = {**REFERENCE, "checkpoints": "116k@161"}
    again = server.post("runs", shorter, 201)["id"]
    assert ended(server, again)["state"] == "done"
    assert "has ended" in server.post(f"runs/{again}/cancel", None, 409)["error"]


@pytest.mark.engine
def test_a_run_that_can_not_succeed_fails_and_says_why(tmp_path: Path) -> None:
    suites = tmp_path / "suites"
    mini = Path(__file__).parents[2] / "memoserve/suites/shipped/mini"
    shutil.copytree(mini, suites / "broken")
    text = (suites / "broken" / "suite.toml").read_text().replace('name = "mini"', 'name = "broken"')
    (suites / "broken" / "suite.toml").write_text(text)
    weights = suites / "broken" / "weights" / "116k" / "step161" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with serving(tmp_path / "store", "--suites", str(suites)) as server:
        body = {**REFERENCE, "suite": "broken", "checkpoints": "116k@161", "sequences": "0:64"}
        last = ended(server, server.post("runs", body, 201)["id"])
        assert last["state"] == "failed"
        assert last["exit_code"] == 6
        assert "116k@161" in json.dumps(last["progress"]["failures"])
        assert "model.safetensors" in json.dumps(last["progress"]["failures"])


@pytest.mark.engine
def test_somebodys_own_run_in_the_store_is_waited_for(server: Server) -> None:
    id_ = server.post("runs", {**REFERENCE, "checkpoints": "116k@161", "sequences": "0:64"}, 201)["id"]
    server.post(f"runs/{id_}/cancel")
    held = os.open(server.store / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    id_ = server.post("runs", {**REFERENCE, "checkpoints": "116k@161", "sequences": "0:64"}, 201)["id"]
    until(lambda: "waits for another run" in server.get(f"runs/{id_}")["message"])
    os.close(held)
    assert ended(server, id_)["state"] == "done"


@pytest.mark.engine
def test_a_run_of_another_store_on_this_machine_is_waited_for(server: Server) -> None:
    """One at a time has the device. Whoever waits says so, survives the server, and can be cancelled."""
    device = server.temporary / f"memoserve-{os.getuid()}-device.lock"
    held = os.open(device, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(held, fcntl.LOCK_EX)
    small = {**REFERENCE, "checkpoints": "116k@161", "sequences": "0:64"}
    first, second = (server.post("runs", small, 201)["id"] for _ in range(2))
    until(lambda: "waits for another run on this machine" in server.get(f"runs/{first}")["message"])
    server.kill()
    the_worker(server.store).kill()
    server.start()
    until(lambda: workers(server.store))
    assert server.post(f"runs/{second}/cancel")["state"] == "cancelled"
    time.sleep(1)
    assert server.get(f"runs/{first}")["state"] == "queued"
    os.close(held)
    last = ended(server, first)
    assert (last["state"], last["attempts"]) == ("done", 1)
    assert server.get(f"runs/{second}")["state"] == "cancelled"


def test_who_follows_a_run_of_a_store_that_goes_is_told_by_the_end(tmp_path: Path) -> None:
    store = mini_store(tmp_path / "store", 50)
    with serving(store) as server:
        held = os.open(store / ".lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(held, fcntl.LOCK_EX)
        estimate = {"sequences": 1, "checkpoints": 1, "flops": 1.0, "bytes": 1.0, "seconds": None}
        id_ = Queue(store).submit({"suite": "mini"}, ["--no-such-option"], estimate).id
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(lambda: list(events_of(server, id_)))
            until(lambda: "waits for another run" in server.get(f"runs/{id_}")["message"])
            for worker in workers(store):
                worker.kill()
            shutil.rmtree(store)
            assert {event["event"] for event in following.result(30)} == {"progress"}
        assert "runs.sqlite" in server.get(f"runs/{id_}", 503)["error"]
        assert "Exception in ASGI" not in server.stderr()
        os.close(held)


@contextmanager
def watched_run(server: Server) -> Iterator[int]:
    """A run that waits, since its store's worker never comes."""
    queue = Queue(server.store)
    held = os.open(lock_file(queue.folder), os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    estimate = dict.fromkeys(("sequences", "checkpoints", "flops", "bytes"), 1)
    try:
        yield queue.submit(REFERENCE, [], estimate).id
    finally:
        os.close(held)


def test_a_stream_is_kept_alive_and_ends_with_its_reader(server: Server) -> None:
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    with watched_run(server) as id_:
        url = f"{server.url}/api/runs/{id_}/events"
        before = len(process.net_connections())
        with httpx.stream("GET", url, timeout=60) as answer:
            lines = []
            for line in answer.iter_lines():
                lines.append(line)
                if line.startswith(":"):  # so that no proxy takes it for dead
                    assert len(process.net_connections()) == before + 1
                    break  # which hangs up
            assert {"retry: 1000", "event: progress", "id: 1"} <= set(lines)
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-accel-buffering"] == "no"
        until(lambda: len(process.net_connections()) == before, 30)
        answer = httpx.head(url, timeout=60)
        assert answer.status_code == 405
    assert "Traceback" not in server.stderr()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_streams_end_at_once_when_the_server_is_stopped(server: Server, how: signal.Signals) -> None:
    """Whole: a client takes no broken answer for a failure, and comes back when there is a server again."""
    assert server.process is not None
    with watched_run(server) as id_, ThreadPoolExecutor(20) as pool:
        url = f"{server.url}/api/runs/{id_}/events"
        told: list[str] = []

        def follow() -> str:
            with httpx.stream("GET", url, timeout=60) as answer:
                for line in answer.iter_lines():
                    told.append(line)
            return line

        following = [pool.submit(follow) for _ in range(20)]
        until(lambda: told.count("id: 1") == 20, 30)
        began = time.monotonic()
        server.process.send_signal(how)
        assert [one.result(30) for one in following] == [""] * 20
        assert server.process.wait(timeout=30) in {0, 130, -how}
        assert time.monotonic() - began < 3, "the server did not have to break them off"
        assert told.count("event: end") == 0
    assert server.stderr() == ""
    server.start()
    assert [event["event"] for event in islice(events_of(server, id_), 1)] == ["progress"]


def test_a_run_of_an_engine_that_is_gone_is_still_shown(server: Server) -> None:
    estimate = {"sequences": 1, "checkpoints": 1, "flops": 1.0, "bytes": 1.0, "seconds": None}
    queue = Queue(server.store)
    id_ = queue.submit({**REFERENCE, "engine": "gone"}, ["--no-such-option"], estimate).id
    assert ended(server, id_)["request"]["engine"] == "gone"
    assert [run["request"]["engine"] for run in server.get("runs")] == ["gone"]
    error = server.post("runs", {**REFERENCE, "engine": "transformer"}, 422)["error"]
    assert error == (
        "body.engine: Value error, there is no engine 'transformer' (did you mean transformers?); "
        "installed here: vllm, transformers"
    )
    assert server.get("engines") == ["vllm", "transformers"]


def test_a_stopped_server_says_so_and_leaves_nothing(tmp_path: Path) -> None:
    with serving(tmp_path / "store") as server:
        assert server.process is not None
        readers = psutil.Process(server.process.pid)
        server.get("store")
        # Somebody watches a run that waits, somebody else's question takes long.
        endless = {"sql": "SELECT count(*) FROM range(100000000000) a, range(1000) b"}
        with watched_run(server) as waiting, ThreadPoolExecutor(2) as pool:
            watched = pool.submit(lambda: [e["event"] for e in events_of(server, waiting)])
            asked = pool.submit(lambda: httpx.post(f"{server.url}/api/sql", json=endless, timeout=60))
            until(lambda: any(child.cpu_percent(0.2) > 0 for child in readers.children(recursive=True)), 20)
            time.sleep(2)
            children = readers.children(recursive=True)
            assert children
            server.process.send_signal(signal.SIGINT)
            assert watched.result() == ["progress"]
            assert asked.result().status_code == 503
            assert "stopped" in asked.result().json()["error"]
        assert server.process.wait(timeout=20) in {0, 130, -signal.SIGINT}
        until(lambda: not any(child.is_running() for child in children), 20)
        assert "Traceback" not in server.stderr()
