"""`memoserve run` as a user calls it: real engines, killed, starved, misled and run twice."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import numpy as np
import psutil
import pytest
from command_line import Cli, command, on_all_cores
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from memoserve.domain import Matches
from memoserve.run.checks.inputs import Inputs
from memoserve.run.checks.weights import WeightsReport
from memoserve.run.dispatch import Dispatcher
from memoserve.run.event_lines import EventLines
from memoserve.run.events import PartAdvanced, PlanEvent, Setting, WeightsLoaded
from memoserve.run.plan import CheckpointPlan, make_plan, part_size_for, wanted_ranges
from memoserve.run.schedule import Schedule
from memoserve.run.windows import KnownWindows, distinct, window_ids
from memoserve.run.worker import Done
from memoserve.sequences import Selection
from memoserve.store import Store
from memoserve.suites import Suite, load_suite, select

COLUMNS = "model, step, sequence_id, matches, matched_prefix, match_mask"


def scores(store: Path) -> list[tuple[object, ...]]:
    """Every row of a store, read without memoserve."""
    return duckdb.execute(
        f"SELECT {COLUMNS} FROM read_parquet('{store}/scores/**/*.parquet', hive_partitioning=true) "
        "ORDER BY model, step, sequence_id"
    ).fetchall()


@pytest.fixture
def small_suite(mini: Suite, tmp_path: Path) -> Path:
    """A suite file of a user's own: two models of mini, two checkpoints each, weights as copies."""
    for model in ("116k", "281k"):
        for step in (161, 301):
            source = mini.file.parent / "weights" / model / f"step{step}"
            shutil.copytree(source, tmp_path / "weights" / model / f"step{step}")
    models = {model.name: model for model in mini.models}
    lines = [
        'name = "small"',
        "batch_size = 32",
        "sequence_length = 96",
        'eos = "ban"',
        "eos_token_id = 0",
        "steps = [161, 301]",
        "[sequences]",
        f'path = "{mini.sequences.path}"',
        "trained = 32032",
    ]
    for name in ("116k", "281k"):
        lines += [
            "[[models]]",
            f'name = "{name}"',
            f'folder = "weights/{name}/step{{step}}"',
            f"parameters = {models[name].parameters}",
            f"parameters_without_embeddings = {models[name].parameters_without_embeddings}",
        ]
    file = tmp_path / "small.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


# ------------------------------------------------------------------------------- plans and windows


@settings(deadline=None)
@given(
    st.integers(0, 200),
    st.integers(1, 300),
    st.sampled_from([1.0, 0.5, 0.1]),
    st.integers(1, 64),
    st.booleans(),
)
def test_a_plan_covers_each_wanted_id_once(
    first: int, count: int, fraction: float, part_size: int, unseen: bool
) -> None:
    suite = load_suite("mini")
    selection = Selection(first, first + count, fraction=fraction, seed=5)
    plan = make_plan(suite, select(suite, "all"), selection, None, part_size, unseen)
    for item in plan.checkpoints:
        wanted = [
            id_
            for span in wanted_ranges(suite, item.checkpoint, selection, unseen)
            for id_ in selection.ids(*span)
        ]
        planned = [id_ for span in item.missing for id_ in selection.ids(*span)]
        assert planned == wanted
        assert item.sequences == len(wanted)
        for start, stop in item.missing:
            assert start // part_size == (stop - 1) // part_size, "a part crosses the grid"
        if not unseen:
            control = suite.sequences.control
            assert control is not None
            assert all(i < item.checkpoint.sequences_seen or i >= control[0] for i in planned)


def test_parts_of_a_long_range_are_few_and_of_a_short_one_whole() -> None:
    assert part_size_for(Selection(0, 100)) == 8192
    assert 100 <= 146_432_000 / part_size_for(Selection(0, 146_432_000)) <= 200


@given(st.lists(st.lists(st.integers(0, 2), min_size=3, max_size=3), min_size=1, max_size=40))
def test_distinct_windows_keep_order_and_lose_nothing(rows: list[list[int]]) -> None:
    windows = np.array(rows, dtype=np.uint32)
    found = distinct(windows)
    np.testing.assert_array_equal(found.windows[found.row_of], windows)
    assert [tuple(r) for r in found.windows] == list(dict.fromkeys(map(tuple, rows)))
    ids = window_ids(windows)
    for a, first in enumerate(rows):
        for b, second in enumerate(rows):
            assert (ids[a] == ids[b]) == (first == second)


@given(st.integers(1, 30), st.lists(st.lists(st.integers(0, 40), max_size=25, unique=True), max_size=12))
def test_what_is_known_is_not_asked_again_and_memory_is_bounded(limit: int, blocks: list[list[int]]) -> None:
    """Against a plain dictionary; what a window's results are, its only token says."""
    known = KnownWindows(limit)
    order: list[int] = []
    for block in blocks:
        windows = np.array(block, dtype=np.uint32).reshape(-1, 1)
        slots, rows = known.ask(windows)
        assert [block[row] for row in rows] == [token for token in block if token not in order]
        fresh = windows[rows, 0]
        known.tell(slots[rows], Matches(fresh.astype(np.uint8), fresh + 100))
        found = known.of(slots)
        np.testing.assert_array_equal(found.matched_prefix, windows[:, 0])
        if len(block):
            np.testing.assert_array_equal(found.match_mask, windows[:, 0] + 100)
        order = [*order, *fresh.tolist()][-limit:]
        assert len(known) == len(order) <= limit


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 5)), min_size=1, max_size=6),
    st.integers(1, 4),
    st.randoms(),
)
def test_every_part_is_handed_out_once_and_again_if_it_is_given_back(
    shapes: list[tuple[str, int]], workers: int, random: Random
) -> None:
    suite = load_suite("mini")
    models = dict(zip("abc", suite.models, strict=False))
    todo = tuple(
        CheckpointPlan(
            replace(select(suite, "final")[0], model=models[name], step=step),
            tuple((10 * i, 10 * i + 10) for i in range(parts)),
            10 * parts,
            10 * parts,
        )
        for step, (name, parts) in enumerate(shapes)
    )
    schedule = Schedule(todo)
    made: list[tuple[CheckpointPlan, tuple[int, int]]] = []
    whole = []
    held: list[tuple[str, CheckpointPlan, tuple[int, int]]] = []
    last: dict[str, CheckpointPlan] = {}
    losses = 0
    while not (schedule.empty and not held):
        worker = str(random.randrange(workers))
        if random.random() < 0.5 and (given := schedule.next(worker)):
            item, span = given
            if worker in last and last[worker] != item:
                handed_out = [s for i, s in made if i == last[worker]]
                handed_out += [s for _, i, s in held if i == last[worker]]
                assert len(handed_out) == len(last[worker].missing), "it left a checkpoint with parts to give"
            last[worker] = item
            held.append((worker, item, span))
        elif held:
            worker, item, span = held.pop(random.randrange(len(held)))
            if losses < 5 and random.random() < 0.2:
                losses += 1
                schedule.give_back(item, span)
                schedule.leave(worker)
                last.pop(worker, None)
                continue
            made.append((item, span))
            if schedule.done(item):
                whole.append(item)
    assert Counter(made) == Counter((item, span) for item in todo for span in item.missing)
    assert Counter(whole) == Counter(todo)


def test_sizes_run_side_by_side_and_workers_share_what_is_left() -> None:
    suite = load_suite("mini")
    todo = make_plan(suite, select(suite, "116k@*,1.2m@1001"), Selection(0, 4000), None, 2000).todo
    schedule = Schedule(todo)

    def take(worker: str) -> str:
        given = schedule.next(worker)
        return str(given[0].checkpoint) if given else ""

    assert [take("x") for _ in range(3)] == ["116k@161", "116k@161", "116k@301"]
    assert [take("y") for _ in range(3)] == ["1.2m@1001", "1.2m@1001", "116k@441"]
    assert take("z") == "116k@581"
    rest = [take(worker) for worker in ["x", "y", "z"] * 4]
    assert rest[:3] == ["116k@301", "116k@441", "116k@581"]
    assert Counter(rest)[""] == len(rest) - (2 * 8 - 7)


def test_a_worker_that_can_start_no_engine_leaves_its_parts_to_others() -> None:
    suite = load_suite("mini")
    todo = make_plan(suite, select(suite, "116k@161,116k@301,281k@161"), Selection(0, 400), None, 200).todo
    first, second, other = todo
    schedule = Schedule(todo)
    given = schedule.next("broken")
    assert given is not None
    assert given[0] == first
    schedule.refuse("broken", first)
    schedule.give_back(*given)
    assert (schedule.refused("broken", first), schedule.refused("sound", first)) == (True, False)
    # Nothing more of this size; what it has not tried may work.
    assert [taken[0] for taken in (schedule.next("broken"), schedule.next("broken")) if taken] == [
        other,
        other,
    ]
    assert schedule.next("broken") is None
    assert [taken[0] for taken in (schedule.next("sound"), schedule.next("sound")) if taken] == [first, first]
    # All workers failed at the first checkpoint: then that is to blame, and the second may be tried.
    schedule.refuse("sound", first)
    schedule.retry_refused(first)
    assert [taken[0] for taken in (schedule.next("broken"), schedule.next("sound")) if taken] == [
        second,
        second,
    ]
    assert schedule.empty


def test_what_a_lost_worker_had_done_counts_once(tmp_path: Path) -> None:
    """A report of a worker that is gone may come late, also after another one has made the part."""
    suite = load_suite("mini")
    plan = make_plan(suite, select(suite, "116k@161"), Selection(0, 400), None, 200)
    (item,) = plan.todo
    stream = io.StringIO()
    lines = EventLines(stream)
    setting = Setting("store", "score", "vllm", "1", "cpu", "float32", "local")
    lines(PlanEvent(plan, Inputs(WeightsReport(), (), ()), setting))
    run = Dispatcher(plan, Store.create(tmp_path / "store"), lines)
    checkpoint, first = item.checkpoint, (0, 200)
    run.receive(WeightsLoaded(checkpoint))
    run.receive(PartAdvanced(checkpoint, first, 100, 50))
    run.receive(PartAdvanced(checkpoint, first, 50, 20))  # another one begins again
    run.receive(PartAdvanced(checkpoint, first, 120, 60))
    run._count(item, first, Done(200, 90, 3))
    run.receive(PartAdvanced(checkpoint, first, 200, 90))  # late
    run._count(item, (200, 400), Done(200, 0, 0))
    run.receive(PartAdvanced(checkpoint, (200, 400), 200, 80))
    told = [json.loads(line) for line in stream.getvalue().splitlines()]
    done = [event["all_done"] for event in told if event["event"] == "part_done"]
    assert done == [200, 400]
    assert max(event.get("all_done", 0) for event in told) == told[0]["sequences"] == 400


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ("a-b", "'a-b' is no core or range of cores"),
        ("0,", "'' is no core or range of cores"),
        ("1-0", "'1-0' is no core or range of cores"),
        ("-1", "'-1' is no core or range of cores"),
        ("0,0-1000000000000", "not all cores of 0-1000000000000 are there"),
        ("0,0", "two engines would share cores of 0"),
    ],
)
def test_devices_that_are_no_cores_are_refused_before_anything_starts(
    cli: Cli, tmp_path: Path, devices: str, said: str
) -> None:
    assert said in cli("run", "--checkpoints", "116k@161", f"--devices={devices}", code=3).stderr
    assert list(tmp_path.iterdir()) == []


# -------------------------------------------------------------------------------------- real runs

RUN = ("run", "--engine", "vllm", "--part-size", "100", "--sequences", "0:500")


@pytest.mark.engine
@pytest.mark.thorough
def test_a_run_killed_at_any_moment_goes_on_and_loses_nothing(
    small_suite: Path, cli: Cli, tmp_path: Path
) -> None:
    arguments = (*RUN, "--suite", small_suite, "--checkpoints", "all")
    undisturbed = tmp_path / "undisturbed"
    first = cli(*arguments, "--out", undisturbed)
    assert first.stdout.startswith("suite small: 4 checkpoints -> ")
    assert "2,000 scores written" in first.stdout

    killed = tmp_path / "killed"
    for parts_before_the_kill in (1, 7):
        process = subprocess.Popen(
            command(*arguments, "--out", killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while len(list(killed.glob("scores/**/*.parquet"))) < parts_before_the_kill:
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.02)
        process.kill()
        process.wait()
    before = {file: file.stat().st_mtime_ns for file in killed.glob("scores/**/*.parquet")}
    assert 7 <= len(before) < 20
    last = cli(*arguments, "--out", killed)
    after = {file: file.stat().st_mtime_ns for file in killed.glob("scores/**/*.parquet")}
    assert {file: after[file] for file in before} == before, "a whole part was written again"
    assert len(after) == 20
    assert f"{(20 - len(before)) * 100:,} scores written" in last.stdout
    assert scores(killed) == scores(undisturbed)
    assert not list(killed.rglob("*.tmp"))

    again = cli(*arguments, "--out", killed)
    assert "nothing to do: all scores exist" in again.stdout

    # Window ids alone may be missing: they come again, without an engine.
    lost = killed / "sequences/suite=small/part-000000000200-000000000299.parquet"
    content = lost.read_bytes()
    lost.unlink()
    planned = cli(*arguments, "--out", killed, "--dry-run")
    assert planned.stdout.splitlines()[-1] == "no score is missing; 100 window ids are"
    again = cli(*arguments, "--out", killed)
    assert again.stdout.splitlines()[-1] == "no score is missing; 100 window ids were"
    assert "engine" not in again.stdout
    assert lost.read_bytes() == content
    assert "nothing to do: all scores exist" in cli(*arguments, "--out", killed).stdout
    assert "nothing to do: all scores exist" in cli(*arguments, "--out", killed, "--dry-run").stdout

    for wrong, said in (
        (("--dtype", "bfloat16"), "dtype: float32 vs bfloat16"),
        (("--engine", "transformers"), "engine: vllm vs transformers"),
        (("--context", "16"), "context: 32 vs 16"),
        (("--sample", "0.5"), "sample: None vs 0.5 with seed 0"),
    ):
        refused = cli(*arguments, "--out", killed, *wrong, code=4)
        assert said in refused.stderr
    assert scores(killed) == scores(undisturbed)

    # The same windows, whichever sequences they stand in, have the same score.
    contradictions = duckdb.execute(
        "SELECT count(*) FROM (SELECT model, step, window_id FROM "
        f"read_parquet('{killed}/scores/**/*.parquet', hive_partitioning=true) JOIN "
        f"read_parquet('{killed}/sequences/**/*.parquet', hive_partitioning=false) USING (sequence_id) "
        "GROUP BY ALL HAVING count(DISTINCT match_mask) > 1)"
    ).fetchall()
    assert contradictions == [(0,)]


@pytest.mark.engine
@pytest.mark.thorough
def test_a_checkpoint_that_fails_does_not_stop_the_others(
    small_suite: Path, cli: Cli, tmp_path: Path
) -> None:
    broken = tmp_path / "weights" / "116k" / "step161" / "model.safetensors"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    arguments = (
        "run",
        "--engine",
        "transformers",
        "--sequences",
        "0:64",
        "--suite",
        small_suite,
        "--out",
        "out",
    )
    result = cli(*arguments, "--checkpoints", "all", code=6)
    assert "116k@161  FAILED" in result.stdout.replace("      ", "  ")
    assert "model.safetensors" in result.stdout
    assert "1 of the checkpoints failed" in result.stderr
    assert {row[:2] for row in scores(tmp_path / "out")} == {("116k", 301), ("281k", 161), ("281k", 301)}
    broken.write_bytes(whole)
    cli(*arguments, "--checkpoints", "all")
    assert len(scores(tmp_path / "out")) == 4 * 64


@pytest.mark.engine
def test_weights_that_changed_under_a_half_done_checkpoint_are_refused(
    small_suite: Path, cli: Cli, tmp_path: Path
) -> None:
    arguments = ("run", "--engine", "transformers", "--suite", small_suite, "--out", "out")
    cli(*arguments, "--sequences", "0:32", "--checkpoints", "116k@161")
    weights = tmp_path / "weights" / "116k"
    shutil.copy(weights / "step301" / "model.safetensors", weights / "step161" / "model.safetensors")
    result = cli(*arguments, "--sequences", "0:64", "--checkpoints", "116k@161", code=6)
    assert "made with weights sha256:" in result.stdout
    assert len(scores(tmp_path / "out")) == 32


@pytest.mark.engine
@pytest.mark.thorough
def test_an_engine_killed_in_mid_run_costs_one_checkpoint(
    small_suite: Path, cli: Cli, tmp_path: Path
) -> None:
    arguments = command(
        "run", "--suite", small_suite, "--checkpoints", "116k@*", "--out", tmp_path / "out", *RUN[1:]
    )
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not list((tmp_path / "out").glob("scores/**/*.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    # Engines are forked from a process that has imported what they need.
    (engine,) = [
        grandchild
        for child in psutil.Process(process.pid).children()
        if "forkserver" in str(child.cmdline())
        for grandchild in child.children()
    ]
    engine.kill()
    output, _ = process.communicate()
    assert process.returncode == 6, output
    assert "killed by SIGKILL" in output
    steps = {row[1] for row in scores(tmp_path / "out")}
    assert 301 in steps, output
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL, env=on_all_cores())
    assert len(scores(tmp_path / "out")) == 2 * 500


@pytest.mark.engine
@pytest.mark.exhaustive
def test_what_engines_are_forked_from_killed_at_its_start_costs_one_checkpoint(
    small_suite: Path, tmp_path: Path
) -> None:
    arguments = command(
        *("run", "--engine", "transformers", "--mode", "extract", "--suite", small_suite),
        *("--checkpoints", "116k@*", "--sequences", "0:200", "--out", tmp_path / "out"),
    )
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    driver = psutil.Process(process.pid)
    forked_from: list[psutil.Process] = []
    while not forked_from:
        assert process.poll() is None
        forked_from = [p for p in driver.children() if re.search(r"engines\.\w+\.preload", str(p.cmdline()))]
        time.sleep(0.02)
    forked_from[0].kill()  # seconds before it has imported torch
    output, _ = process.communicate()
    assert process.returncode == 6, output
    assert "Traceback" not in output
    assert "the fork server was killed" in output
    assert list((tmp_path / "out").glob("scores/*/*/step=301/*")), output
    assert {row[1] for row in scores(tmp_path / "out")} == {301}
    subprocess.run(arguments, check=True, stdout=subprocess.DEVNULL)
    assert len(scores(tmp_path / "out")) == 2 * 200


@pytest.mark.engine
@pytest.mark.thorough
def test_two_runs_on_one_store_do_not_meet(small_suite: Path, cli: Cli, tmp_path: Path) -> None:
    arguments = ("run", "--engine", "transformers", "--suite", small_suite, "--out", tmp_path / "out")
    process = subprocess.Popen(
        command(*arguments, "--sequences", "0:2000"),
        stdout=subprocess.DEVNULL,
        # Tests that run in the background of a shell inherit that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "out" / "suites").exists():
        assert process.poll() is None
        time.sleep(0.02)
    second = cli(*arguments, "--sequences", "0:64", code=4)
    assert f"in use by another run (process {process.pid})" in second.stderr
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    cli(*arguments, "--sequences", "0:64")


# ------------------------------------------------------------------------------------- bad input


def no_engine_was_started(store: Path) -> bool:
    return not list(store.glob("logs/*"))


def test_bad_input_is_refused_before_an_engine_starts(small_suite: Path, cli: Cli, tmp_path: Path) -> None:
    def refused(*arguments: str | Path, code: int = 3) -> str:
        out = tmp_path / "refused"
        shutil.rmtree(out, ignore_errors=True)
        result = cli(
            "run", "--suite", small_suite, "--out", out, "--engine", "transformers", *arguments, code=code
        )
        assert no_engine_was_started(out)
        assert not list(out.glob("scores/**/*.parquet"))
        return result.stderr

    def npy(name: str, tokens: NDArray[np.int64]) -> Path:
        np.save(tmp_path / name, tokens)
        return tmp_path / name

    rng = np.random.default_rng(1)
    good = rng.integers(1, 1000, (100, 64))
    beyond = good.copy()
    beyond[77, 5] = 1024
    message = refused("--data", npy("beyond.npy", beyond))
    assert "sequence 77 has token id 1024" in message
    assert "vocabulary has 1024" in message
    message = refused("--data", npy("short.npy", good[:, :63]))
    assert "63" in message
    assert "64" in message
    assert "nowhere.idx" in refused("--data", tmp_path / "nowhere.idx")
    assert "999" in refused("--checkpoints", "116k@999")
    assert "its models are 116k, 281k" in refused("--checkpoints", "12b@161")
    assert "--loglik needs --mode extract" in refused("--loglik")
    assert "no suite 'nonsense'" in cli("run", "--suite", "nonsense", code=3).stderr


def test_a_directory_that_is_not_a_store_is_left_alone(small_suite: Path, cli: Cli, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    cli("run", "--suite", small_suite, "--out", mine, "--engine", "transformers", code=4)
    cli("run", "--suite", small_suite, "--out", mine, "--engine", "transformers", "--dry-run", code=4)
    assert [file.name for file in mine.iterdir()] == ["thesis.tex"]


def test_a_dry_run_prints_the_plan_and_starts_nothing(cli: Cli, tmp_path: Path) -> None:
    result = cli("run", "--checkpoints", "all", "--dry-run")
    assert result.stdout.startswith("suite mini: 28 checkpoints -> memoserve-out")
    assert "28 of 28 checkpoints lack something" in result.stdout
    assert "1.2m@1001" in result.stdout
    assert "FLOPs" in result.stdout
    assert not (tmp_path / "memoserve-out").exists()


@pytest.mark.engine
@pytest.mark.thorough
def test_a_disk_that_fills_is_said_and_loses_nothing(small_suite: Path, cli: Cli, tmp_path: Path) -> None:
    """A real, small file system, in a mount namespace of the test's own, with room for a few parts."""
    out = tmp_path / "out"
    out.mkdir()

    def run(store: Path, checkpoint: str) -> str:
        arguments = (
            "--engine",
            "transformers",
            "--mode",
            "extract",
            "--suite",
            small_suite,
            "--sequences",
            "0:500",
            "--part-size",
            "25",
        )
        return " ".join(command("run", *arguments, "--checkpoints", checkpoint, "--out", store))

    kept = tmp_path / "kept"
    script = f"""
        mount -t tmpfs -o size=2m tmpfs {out} || exit 99
        {run(out / "store", "116k@161")} || exit 98
        free=$(df --output=avail -k {out} | tail -1)
        head -c $(((free - 40) * 1024)) /dev/zero > {out}/ballast
        {run(out / "store", "116k@301")}
        code=$?
        cp -r {out}/store {kept}
        # Now nothing can be written there: not what an engine says, if its log is there, nor what a run says.
        rm -r {kept}/logs
        mkdir {out}/logs
        ln -s {out}/logs {kept}/logs
        head -c $(($(df --output=avail -k {out} | tail -1) * 1024)) /dev/zero > {out}/more
        {run(kept, "116k@301")} --progress json > {tmp_path}/events
        test $? = 7 || exit 96
        {run(kept, "116k@161")} > {out}/output
        test $? = 7 || exit 95
        exit $code
    """
    prefix = ["unshare", *([] if os.geteuid() == 0 else ["-r"]), "-m"]
    result = subprocess.run([*prefix, "sh", "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 7, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("No space left on device (the disk is full: free some space") == 3
    assert f"the transformers engine failed to start: {kept}/logs could not be written to" in result.stderr
    assert "error: [Errno 28] No space left on device (the disk is full: free some space)" in result.stderr
    assert events_of((tmp_path / "events").read_text())[-1]["exit_code"] == 7
    (kept / "logs").unlink()
    by_step = Counter(row[1] for row in scores(kept))
    assert by_step[161] == 500
    assert 0 < by_step[301] < 500
    assert by_step[301] % 25 == 0
    cli(*run(kept, "116k@301").split()[3:])
    assert Counter(row[1] for row in scores(kept)) == {161: 500, 301: 500}


# -------------------------------------------------------------------------------------- progress


def events_of(output: str) -> list[dict[str, Any]]:
    """Every line is a JSON object, and nothing stands between them."""
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.engine
def test_progress_for_programs_tells_the_whole_run(small_suite: Path, cli: Cli, tmp_path: Path) -> None:
    broken = tmp_path / "weights" / "116k" / "step161" / "model.safetensors"
    broken.write_bytes(broken.read_bytes()[:1000])
    arguments = (
        "run",
        "--engine",
        "transformers",
        "--suite",
        small_suite,
        "--sequences",
        "0:64",
        "--out",
        "out",
    )
    small = ("--part-size", "20", "--progress", "json", "--checkpoints", "116k@*")
    planned = events_of(cli(*arguments, *small, "--dry-run").stdout)
    assert [event["event"] for event in planned] == ["plan", "end"]
    assert planned[0]["seconds"] > 0

    events = events_of(cli(*arguments, *small, code=6).stdout)
    kinds = [event["event"] for event in events if event["event"] not in ("progress", "indexing")]
    assert kinds == [
        "plan",
        "checkpoint_failed",
        "engine_starting",
        "engine_up",
        "checkpoint_started",
        *["part_done"] * 4,
        "checkpoint_finished",
        "end",
    ]
    by_kind = {event["event"]: event for event in events}
    assert (by_kind["indexing"]["done"], by_kind["indexing"]["total"]) == (64, 64)
    assert by_kind["plan"]["sequences"] == 128
    assert [(c["step"], c["parts"]) for c in by_kind["plan"]["checkpoints"]] == [(161, 4), (301, 4)]
    assert "model.safetensors" in by_kind["checkpoint_failed"]["reason"]
    parts = [event for event in events if event["event"] == "part_done"]
    assert [(part["first"], part["stop"]) for part in parts] == [(0, 20), (20, 40), (40, 60), (60, 64)]
    assert (parts[-1]["done"], parts[-1]["total"]) == (64, 64)
    assert sum(part["windows"] for part in parts) == by_kind["checkpoint_finished"]["windows"]
    assert parts[-1]["windows_per_second"] > 0
    stored = [row for row in scores(tmp_path / "out") if row[4] == 32]
    assert by_kind["checkpoint_finished"]["memorized"] == len(stored)
    end = by_kind["end"]
    assert (end["status"], end["exit_code"], end["sequences"]) == ("incomplete", 6, 64)
    assert [(failure["model"], failure["step"]) for failure in end["failures"]] == [("116k", 161)]

    whole = events_of(cli(*arguments, *small[:-1], "116k@301").stdout)
    assert [event["event"] for event in whole] == ["plan", "end"]
    assert whole[1]["status"] == "done"
    (refused,) = events_of(cli(*arguments, "--progress", "json", "--checkpoints", "116k@9", code=3).stdout)
    assert (refused["event"], refused["status"], refused["exit_code"]) == ("end", "error", 3)
    assert "116k" in refused["message"]


@pytest.mark.engine
@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_told_to_stop_leaves_whole_parts_and_no_engine(
    small_suite: Path, cli: Cli, tmp_path: Path, by: signal.Signals
) -> None:
    arguments = (
        *("run", "--engine", "transformers", "--suite", small_suite, "--out", tmp_path / "out"),
        *("--part-size", "16", "--checkpoints", "281k@301"),
    )
    process = subprocess.Popen(
        command(*arguments, "--sequences", "0:6000", "--progress", "json"),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "part_done":
            break
    engines = psutil.Process(process.pid).children(recursive=True)
    assert engines
    process.send_signal(by)
    rest = process.stdout.read()
    assert process.wait(timeout=60) == 130
    assert events_of(rest)[-1]["status"] == "interrupted"
    left = psutil.wait_procs(engines, timeout=60)[1]
    assert [one for one in left if one.status() != psutil.STATUS_ZOMBIE] == []  # dead, and nobody has looked
    parts = list((tmp_path / "out").glob("scores/**/*.parquet"))
    assert 1 <= len(parts) < 375
    assert len(scores(tmp_path / "out")) == 16 * len(parts)
    assert not list((tmp_path / "out").rglob("*.tmp"))


TWO = (
    *("run", "--engine", "transformers", "--checkpoints", "116k@161,116k@301,281k@161"),
    *("--sequences", "0:600", "--part-size", "100", "--mode", "extract"),
    *("--devices", "0,1", "--progress", "json"),
)


@pytest.mark.engine
@pytest.mark.skipif({0, 1} - os.sched_getaffinity(0) != set(), reason="needs the cores 0 and 1")
class TestTwoEngines:
    """`--devices 0,1`: one on each of two cores."""

    def run(self, cli: Cli, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
        lines = cli(*TWO, *arguments, code=code).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def broken(self, folder: Path, *cores: int) -> dict[str, str]:
        """An environment in which no engine can have these cores, as if a device were broken."""
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(
            "import os\n"
            "set_cores = os.sched_setaffinity\n"
            "def refuse(pid, cores):\n"
            f"    if set(cores) & set({cores}):\n"
            "        raise OSError(f'cores {set(cores)} are broken')\n"
            "    set_cores(pid, cores)\n"
            "os.sched_setaffinity = refuse\n"
        )
        return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}

    @pytest.mark.thorough
    def test_share_the_work_and_survive_a_broken_device(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        both = self.run(cli, "--out", "both")
        assert {event["worker"] for event in both if event["event"] == "engine_up"} == {
            "device 0",
            "device 1",
        }
        last = [event for event in both if event["event"] == "part_done"][-1]
        assert last["all_done"] == last["all_total"] == 1800
        shutil.copytree(tmp_path / "both", tmp_path / "one")
        for name, value in self.broken(tmp_path / "broken", 1).items():
            monkeypatch.setenv(name, value)
        shutil.rmtree(tmp_path / "one" / "scores")
        one = self.run(cli, "--out", "one")
        assert {event["worker"] for event in one if event["event"] == "engine_up"} == {"device 0"}
        told = [event for event in one if event["event"] == "engine_not_started"]
        assert {event["worker"] for event in told} == {"device 1"}
        assert len(told) == len({event["model"] for event in told}), "it went on trying"
        assert "exit code 1" in told[0]["reason"]
        assert one[-1]["failures"] == []
        assert scores(tmp_path / "one") == scores(tmp_path / "both")

    @pytest.mark.thorough
    def test_that_both_fail_to_start_fail_the_checkpoint(
        self, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in self.broken(tmp_path / "broken", 0, 1).items():
            monkeypatch.setenv(name, value)
        events = self.run(cli, "--out", "none", code=6)
        assert {(one["model"], one["step"]) for one in events[-1]["failures"]} == {
            ("116k", 161),
            ("116k", 301),
            ("281k", 161),
        }
        assert not list((tmp_path / "none").glob("scores/**/*.parquet"))
