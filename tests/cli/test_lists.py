"""The lists that runs keep beside parts: whatever happens to them, answers are what the parts say."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import Cli, command
from numpy.typing import NDArray
from ray_cluster import events_until, start

from memoserve.sequences import Selection
from memoserve.suites import Suite

pytestmark = pytest.mark.thorough

# As few scores as a list is made for; just some of them are drawn and evaluated.
IDS, SHARE = 1 << 20, 0.0005
DYING = Path(__file__).parents[2] / "scripts" / "dying"


@pytest.fixture
def job(mini: Suite, mini_windows: NDArray[np.uint32], tmp_path: Path) -> list[str | Path]:
    """A run of two checkpoints over windows of mini, few of a long file of sequences."""
    open_memmap: Any = np.lib.format.open_memmap
    rows = open_memmap(tmp_path / "spread.npy", "w+", np.uint16, (IDS, 64))
    rows[:] = mini_windows.astype(np.uint16)[np.arange(IDS) % len(mini_windows)]
    ids = Selection(0, IDS, SHARE, 5).ids(0, IDS)
    rows[ids] = mini_windows[np.arange(len(ids)) % 300]  # some of them several times
    rows.flush()
    about = mini.models[0]
    (tmp_path / "spread.toml").write_text(f"""
name = "spread"
batch_size = 2048
sequence_length = 64
eos = "ban"
eos_token_id = 0
steps = [861, 1001]

[sequences]
path = "spread.npy"
trained = {IDS}

[[models]]
name = "116k"
folder = "{mini.file.parent}/weights/116k/step{{step}}"
parameters = {about.parameters}
parameters_without_embeddings = {about.parameters_without_embeddings}
""")
    run = ("run", "--engine", "transformers", "--mode", "extract", "--suite", tmp_path / "spread.toml")
    return [*run, "--checkpoints", "all", "--sample", f"{SHARE}", "--seed", "5", "--out", "out"]


def memorized(store: Path) -> list[tuple[int, int]]:
    """(step, id) of what the parts say is memorized, counted without memoserve."""
    found = []
    for file in store.glob("scores/suite=spread/model=116k/*/part-*.parquet"):
        step = int(file.parent.name.removeprefix("step="))
        table = pq.read_table(file, partitioning=None).to_pydict()
        rows = zip(table["sequence_id"], table["matched_prefix"], strict=True)
        found += [(step, sequence) for sequence, prefix in rows if prefix == 32]
    return sorted(found)


def repeated(store: Path) -> list[int]:
    """The ids whose window occurs more than once, counted without memoserve."""
    windows: dict[int, list[int]] = {}
    for file in store.glob("sequences/suite=spread/part-*.parquet"):
        table = pq.read_table(file, partitioning=None).to_pydict()
        for sequence, window in zip(table["sequence_id"], table["window_id"], strict=True):
            windows.setdefault(window, []).append(sequence)
    return sorted(i for ids in windows.values() if len(ids) > 1 for i in ids)


def lists(store: Path) -> list[Path]:
    """Of step 1001, of step 861, and of the repeated windows."""
    found = [*store.glob("scores/*/*/*/memorized-*"), *store.glob("sequences/*/repeats-*")]
    return sorted(found, key=lambda path: str(path.parent))


@pytest.fixture
def ask(cli: Cli, tmp_path: Path) -> Callable[[str], list[tuple[int, ...]]]:
    def call(query: str) -> list[tuple[int, ...]]:
        said = cli("sql", query, tmp_path / "out", "--format", "csv").stdout
        return [tuple(map(int, row)) for row in list(csv.reader(io.StringIO(said)))[1:]]

    return call


@pytest.fixture
def answers_are_the_parts(ask: Callable[[str], list[tuple[int, ...]]], tmp_path: Path) -> Callable[..., None]:
    def check(unlisted: int) -> None:
        """What queries say is what the parts say; for so many checkpoints they have to read those."""
        store = tmp_path / "out"
        said = ask(
            "SELECT step, sequence_id FROM memorized UNION ALL SELECT -1, count(*) FROM unlisted UNION ALL "
            "SELECT -2, sequence_id FROM repeats('spread', false) ORDER BY ALL"
        )
        assert said == [*((-2, i) for i in repeated(store)), (-1, unlisted), *memorized(store)]

    return check


@pytest.mark.engine
def test_lists_are_made_by_runs_and_cannot_drift(
    job: list[str | Path], cli: Cli, answers_are_the_parts: Callable[..., None], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    coarse = [*job, "--part-size", str(IDS // 4)]

    # Killed when the first checkpoint is half done, and again when it has a list and the second is half done.
    for parts, made in ((2, 0), (4, 1)):
        process = start(*coarse, cwd=tmp_path)
        events_until(process, "part_done", parts)
        process.kill()
        process.wait()
        assert len(list(out.glob("scores/*/*/*/memorized-*"))) == made
        answers_are_the_parts(unlisted=1)

    cli(*coarse)
    first = lists(out)
    assert [path.name.partition("-")[0] for path in first] == ["memorized", "memorized", "repeats"]
    assert len(memorized(out)) > 10 < len(repeated(out))
    answers_are_the_parts(unlisted=0)

    # A part goes away, and comes again in two halves: other parts, so another list, and just one.
    (gone,) = out.glob("scores/*/*/step=861/part-000000262144-*")
    gone.unlink()
    next(iter(out.glob("sequences/*/part-000000262144-*"))).unlink()
    answers_are_the_parts(unlisted=1)
    cli(*job, "--part-size", str(IDS // 8))
    answers_are_the_parts(unlisted=0)
    second = lists(out)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, False]
    assert cli(*job).stdout.splitlines()[-1] == "nothing to do: all scores exist"
    assert lists(out) == second

    # Whoever writes a list dies: before, in the middle, and at its very end.
    order = tmp_path / "order.json"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(DYING), os.environ.get("PYTHONPATH", "")]),
        "MEMOSERVE_DYING": str(order),
    }
    for kind, number in (("memorized", 0), ("repeats", 2)):
        for moment, whole in (("torn", False), ("written", False), ("named", True)):
            said = {"kind": "write", "file": rf"/\.{kind}-[^/]*\.tmp$", "moment": moment, "count": 1}
            order.write_text(json.dumps(said))
            second[number].unlink()
            killed = subprocess.run(command(*job), cwd=tmp_path, env=environment, check=False)
            assert killed.returncode == -signal.SIGKILL
            assert second[number].exists() == whole
            answers_are_the_parts(unlisted=kind == "memorized" and not whole)
            cli(*job)
            assert lists(out) == second
    cli("verify", "out")
    answers_are_the_parts(unlisted=0)


@pytest.mark.engine
def test_a_damaged_list_is_told_and_made_again(
    job: list[str | Path], cli: Cli, answers_are_the_parts: Callable[..., None], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cli(*job, "--part-size", str(IDS // 2))
    whole = {path: path.read_bytes() for path in lists(out)}
    for number, (path, content) in enumerate(whole.items()):
        name = str(path.relative_to(out))
        at = (7 * number + 31) * len(content) // 100
        for damaged in (content[:at], content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]):
            path.write_bytes(damaged)
            assert cli("verify", "out", code=3).stdout.startswith(f"{name}: ")
            if len(damaged) < len(content):  # DuckDB can't read it, and says nothing wrong
                query = "FROM memorized" if "memorized" in name else "FROM repeats('spread', false)"
                assert f"{path} is damaged" in cli("sql", query, out, code=3).stderr
            said = cli(*job).stdout.splitlines()
            (told,) = [line for line in said if line.startswith(f"{name} is damaged (")]
            assert told.endswith("): moved aside and made again")
            assert said[-1] == "nothing to do: all scores exist"
            assert path.read_bytes() == content
            cli("verify", "out")
    answers_are_the_parts(unlisted=0)
