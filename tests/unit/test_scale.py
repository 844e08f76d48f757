"""Stores of any size: what is drawn, how small, that lists can't drift, that no mask is read in vain."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_stores import toy_suite

from memoserve.catalog import connect, run_query, write_catalog
from memoserve.queries import find_query, list_queries
from memoserve.run.indexing import make_lists
from memoserve.run.plan import make_plan
from memoserve.sequences import Selection
from memoserve.store import Store
from memoserve.store.verify import verify
from memoserve.suites import load_suite

pytestmark = pytest.mark.thorough

SCRIPT = Path(__file__).parents[2] / "scripts" / "make_scale_store.py"
masked_less: Any = np.ma.masked_less
SEQUENCES, MODELS, STEPS = 2000 * 64, 3, (1000, 2000)


def script() -> Any:
    if "make_scale_store" not in sys.modules:
        spec = importlib.util.spec_from_file_location("make_scale_store", SCRIPT)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["make_scale_store"] = module
        spec.loader.exec_module(module)
    return sys.modules["make_scale_store"]


def world(mode: str, seed: int = 0) -> Any:
    return script().World(SEQUENCES, MODELS, STEPS, mode, seed)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scale")
    patched = pytest.MonkeyPatch()
    # In this process: two would spend longer starting than writing.
    patched.setattr(script().multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=_HerePool))
    for mode in ("extract", "score"):
        script().make_store(folder / mode, world(mode))
    patched.undo()
    return {mode: folder / mode for mode in ("extract", "score")}


class _HerePool:
    def __init__(self, processes: int | None) -> None:
        pass

    def __enter__(self) -> _HerePool:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def imap_unordered(self, function: Any, tasks: Any) -> Any:
        return map(function, tasks)


class TestSyntheticStore:
    def test_says_that_it_is_synthetic_wherever_it_is_read(self, stores: dict[str, Path]) -> None:
        for path in stores.values():
            store = Store.open(path)
            assert store.suites() == ["synthetic"]
            assert "no model was run" in str(store.fingerprint("synthetic")["synthetic"])
            assert "SYNTHETIC" in (path / "README.md").read_text()
            with connect(path) as connection:
                names = connection.execute("SELECT DISTINCT checkpoint FROM checkpoints").fetchall()
                assert all("synthetic" in name for (name,) in names)
                answer = run_query(connection, find_query("predictors"), {}, path).fetchall()
                assert answer
                assert all("synthetic" in row[0] and "synthetic" in row[1] for row in answer)

    def test_scores_look_like_those_of_a_study(self, stores: dict[str, Path]) -> None:
        with connect(stores["score"]) as connection:
            rows = connection.execute(
                """SELECT checkpoint, sequence_id, matches, matched_prefix, match_mask
                   FROM scores JOIN checkpoints USING (suite, model, step)
                   ORDER BY model_order, step, sequence_id"""
            ).fetchnumpy()
        mask = rows["match_mask"]
        assert np.array_equal(np.bitwise_count(mask), rows["matches"])
        trailing = np.array([(~int(m) & (int(m) + 1)).bit_length() - 1 for m in mask[::997]])
        assert np.array_equal(trailing, rows["matched_prefix"][::997])
        seen, counts = {"1000": SEQUENCES // 2, "2000": SEQUENCES}, {}
        for name in np.unique(rows["checkpoint"]):
            its = rows["checkpoint"] == name
            ids, matches = rows["sequence_id"][its], rows["matches"][its]
            held_out = ids >= SEQUENCES
            assert len(ids) == seen[name.split("@")[1]] + script().CONTROL
            assert held_out.sum() == script().CONTROL
            assert not (matches[held_out] == 32).any()
            histogram = np.bincount(matches, minlength=33)
            assert histogram[32] > 2 * histogram[31]  # the spike at 1
            assert histogram[:8].sum() > 0.85 * len(ids)  # most score low
            counts[name] = (matches[~held_out] == 32).mean()
        assert counts["synthetic-2.8b@2000"] < counts["synthetic-6.9b@2000"] < counts["synthetic-12b@2000"]
        # Larger models memorize most of what smaller ones do.
        with connect(stores["score"]) as connection:
            answer = run_query(connection, find_query("predictors"), {}, stores["score"]).fetchnumpy()
        assert np.all((answer["precision"] > 0.7) & (answer["precision"] < 1))
        assert np.all((answer["recall_corpus"] > 0.5) & (answer["recall_corpus"] < 0.95))

    def test_is_the_same_again_and_another_for_another_seed(self, stores: dict[str, Path]) -> None:
        # Cell by cell: what a cell holds depends on nothing that was drawn before it.
        made = [script().window_of(world("score", seed), 0, SEQUENCES) for seed in (0, 0, 1)]
        assert np.array_equal(made[0], made[1])
        assert not np.array_equal(made[0], made[2])
        a, b = (
            pq.read_table(next(stores[m].glob("scores/*/model=synthetic-12b/step=2000/*")), partitioning=None)
            for m in ("extract", "score")
        )
        assert a.column("matched_prefix").equals(b.column("matched_prefix"))

    def test_takes_the_bytes_that_the_page_on_scale_says(self, stores: dict[str, Path]) -> None:
        for mode, column, over in (("extract", "matched_prefix", 1.6), ("score", "match_mask", 1.1)):
            suite = script().load_suite(stores[mode] / "synthetic-suite.toml")
            for checkpoint in suite.all_checkpoints():
                part = max(
                    stores[mode].glob(f"scores/*/model={checkpoint.model.name}/step={checkpoint.step}/*"),
                    key=lambda part: part.stat().st_size,
                )
                metadata = pq.read_metadata(part)
                group = metadata.row_group(0)
                size = {
                    group.column(c).path_in_schema: group.column(c).total_compressed_size
                    for c in range(group.num_columns)
                }
                entropy = script().entropy(checkpoint, world(mode), samples=1 << 16)[column] / 8
                assert 0.9 * entropy < size[column] / metadata.num_rows < over * entropy, (checkpoint, mode)
                if mode == "extract":
                    assert sum(size.values()) / metadata.num_rows <= 0.5


class TestMasksAreNotRead:
    """Masks are most of a score store: what asks only what is memorized must do without them."""

    @pytest.fixture
    def without_masks(self, stores: dict[str, Path], tmp_path: Path) -> Path:
        path = tmp_path / "store"
        shutil.copytree(stores["score"], path)
        for part in path.glob("scores/*/*/*/part-*.parquet"):
            column = next(
                column
                for column in map(pq.read_metadata(part).row_group(0).column, range(5))
                if column.path_in_schema == "match_mask"
            )
            start = column.data_page_offset
            with part.open("r+b") as file:
                file.seek(start)
                file.write(b"\xff" * (column.total_compressed_size - (start - column.data_page_offset)))
        return path

    def test_the_masks_are_damaged(self, without_masks: Path) -> None:
        with (
            connect(without_masks) as connection,
            pytest.raises(Exception, match=r"know what type|parquet|thrift|protocol"),
        ):
            connection.execute("SELECT sum(match_mask) FROM scores").fetchall()
        assert verify(str(without_masks)).damages

    def test_every_query_answers_without_them(self, stores: dict[str, Path], without_masks: Path) -> None:
        for query in list_queries():
            answers = []
            for path in (stores["score"], without_masks):
                with connect(path) as connection:
                    answers.append(run_query(connection, query, {}, path).fetchall())
            assert repr(answers[0]) == repr(answers[1]), query.name


class TestRepeats:
    """The list of repeated sequences is right or not used, whatever happens to the parts."""

    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        steps=st.lists(
            st.sampled_from(["write", "write", "remove", "index", "stray"]), min_size=1, max_size=8
        ),
        kinds=st.integers(1, 200),
        seed=st.integers(0, 1000),
    )
    def test_cannot_drift(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[str], kinds: int, seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        folder = tmp_path_factory.mktemp("repeats")
        suite = toy_suite(folder, steps=(7,), batch=50, trained=350, control=50)
        store = Store.create(folder / "store")
        store.claim(suite, {"suite": "toy"})
        windows: dict[int, int] = {}
        free, kept = list(range(0, 400, 40)), []
        for step in steps:
            parts = store.sequence_parts("toy")
            if step == "write" and free:
                first = free.pop(int(rng.integers(len(free))))
                ids = np.arange(first, first + 40)[rng.random(40) < 0.8]
                drawn = rng.integers(-kinds, kinds, len(ids))
                store.write_sequences("toy", first, first + 40, ids, drawn)
                windows |= dict(zip(ids.tolist(), drawn.tolist(), strict=True))
            elif step == "remove" and parts:
                part = parts[int(rng.integers(len(parts)))]
                store.files.remove(part.name)
                windows = {i: w for i, w in windows.items() if not part.first <= i <= part.last}
                free.append(part.first)
            elif step == "index":
                store.index_repeats("toy")
                kept += [
                    (name, store.files.read(f"sequences/suite=toy/{name}"))
                    for name in store.files.names("sequences/suite=toy")
                    if name.startswith("repeats-")
                ]
            elif step == "stray":
                # Another writer's list of parts that are no longer, or not yet, what is there.
                for name, content in kept:
                    store.files.write(f"sequences/suite=toy/{name}", content)
            with connect(store.path) as connection:
                for held_out in (False, True):
                    got = connection.execute(
                        "FROM repeats('toy', $1) ORDER BY sequence_id", [held_out]
                    ).fetchall()
                    its = {i: w for i, w in sorted(windows.items()) if (i >= 350) == held_out}
                    count = Counter(its.values())
                    first_of: dict[int, int] = {}
                    for i, w in its.items():
                        first_of.setdefault(w, i)
                    assert got == [(i, first_of[w]) for i, w in its.items() if count[w] > 1], (step, held_out)

    def test_is_used(self, stores: dict[str, Path], tmp_path: Path) -> None:
        path = tmp_path / "store"
        shutil.copytree(stores["extract"], path)
        ask = "SELECT count(*), sum(sequence_id), sum(first_id) FROM repeats('synthetic', false)"
        with connect(path) as connection:
            expected = connection.execute(ask).fetchone()
            assert expected is not None
            assert expected[0] > 1000
        # A list of other content under the name of these parts: what it says is answered.
        file = next(path.glob("sequences/*/repeats-*"))
        listed = pq.read_table(file, partitioning=None)
        pq.write_table(listed.slice(0, 0), file)
        with connect(path) as connection:
            assert connection.execute(ask).fetchone() == (0, None, None)
        file.unlink()
        with connect(path) as connection:
            assert connection.execute(ask).fetchone() == expected

    def test_verify_finds_a_damaged_list(self, stores: dict[str, Path], tmp_path: Path) -> None:
        path = tmp_path / "store"
        shutil.copytree(stores["extract"], path)
        assert not verify(str(path)).damages
        found = next(path.glob("sequences/*/repeats-*"))
        content = bytearray(found.read_bytes())
        content[len(content) // 2] ^= 1
        found.write_bytes(content)
        assert [damage.name for damage in verify(str(path)).damages] == [str(found.relative_to(path))]


class TestMemorizedLists:
    """The list of what a checkpoint memorized is right or not used, whatever happens to the parts."""

    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        steps=st.lists(
            st.sampled_from(["write", "write", "remove", "list", "list", "stray"]), min_size=1, max_size=8
        ),
        seed=st.integers(0, 1000),
    )
    def test_cannot_drift(
        self, tmp_path_factory: pytest.TempPathFactory, steps: list[str], seed: int
    ) -> None:
        rng = np.random.default_rng(seed)
        folder = tmp_path_factory.mktemp("lists")
        suite = toy_suite(folder, steps=(7,), batch=50, trained=350, control=50)
        store = Store.create(folder / "store")
        store.claim(suite, {"suite": "toy"})
        checkpoints = suite.all_checkpoints()[:2]
        memorized: dict[str, set[int]] = {c.model.name: set() for c in checkpoints}
        free = {c.model.name: list(range(0, 400, 40)) for c in checkpoints}
        kept: list[tuple[str, bytes]] = []
        for step in steps:
            checkpoint = checkpoints[int(rng.integers(2))]
            name = checkpoint.model.name
            where = "toy", name, 7
            parts = store.parts(*where)
            if step == "write" and free[name]:
                first = free[name].pop(int(rng.integers(len(free[name]))))
                # All ids, so that parts made again have the same names and rows, and other scores.
                ids = np.arange(first, first + 40)
                scores = rng.integers(30, 33, 40).astype(np.uint8)
                known = [None, masked_less(scores, 32), scores][int(rng.integers(3))]
                prefix = scores if known is None or rng.random() < 0.5 else None
                store.write_scores(
                    checkpoint, first, first + 40, ids,
                    SimpleNamespace(
                        matches=known, matched_prefix=prefix, match_mask=None, continuation_ll=None
                    ), "w",
                )  # fmt: skip
                memorized[name] |= set(ids[scores == 32].tolist())
            elif step == "remove" and parts:
                part = parts[int(rng.integers(len(parts)))]
                store.files.remove(part.name)
                memorized[name] = {i for i in memorized[name] if not part.first <= i <= part.last}
                free[name].append(part.first)
            elif step == "list" and parts:
                store.list_memorized(*where, worth=1)
                kept += [(n, store.files.read(n)) for n in store.files.below("scores") if "/memorized-" in n]
            elif step == "stray":
                # Another writer's lists of parts that are no longer, or not yet, what is there.
                for file, content in kept:
                    store.files.write(file, content)
            with connect(store.path) as connection:
                got = connection.execute("SELECT model, sequence_id FROM memorized ORDER BY ALL").fetchall()
                assert got == sorted((name, i) for name in memorized for i in memorized[name]), step

    def test_a_run_that_ended_before_its_list_is_made_up_for(self, tmp_path: Path) -> None:
        total = 1 << 20
        suite = toy_suite(tmp_path, models=("s",), steps=(4, 8), batch=total // 8, trained=total, control=1)
        store = Store.create(tmp_path / "store")
        store.claim(suite, {"suite": "toy"})
        ids, selection = np.arange(total), Selection(0, total)
        matches = SimpleNamespace(
            matches=None,
            matched_prefix=np.where(ids % 1000 == 0, 32, 1).astype(np.uint8),
            match_mask=None,
            continuation_ll=None,
        )
        half, whole = suite.all_checkpoints()
        store.write_scores(whole, 0, total, ids, matches, "w")
        plan = make_plan(suite, (half, whole), selection, store, total)
        assert [item.checkpoint for item in plan.todo] == [half]
        make_lists(plan, store)
        (file,) = (tmp_path / "store").glob("scores/*/*/*/memorized-*")
        assert file.parent.name == "step=8"
        assert pq.read_table(file, partitioning=None)["sequence_id"].to_pylist() == list(
            range(0, total, 1000)
        )
        written = file.stat().st_mtime_ns
        make_lists(plan, store)
        assert file.stat().st_mtime_ns == written

    def test_is_used(self, stores: dict[str, Path], tmp_path: Path) -> None:
        path = tmp_path / "store"
        shutil.copytree(stores["score"], path)
        store = Store.open(path)
        ask = "SELECT model, step, count(*), sum(sequence_id) FROM memorized GROUP BY ALL ORDER BY ALL"
        with connect(path) as connection:
            expected = connection.execute(ask).fetchall()
        assert len(expected) == MODELS * len(STEPS)
        for checkpoint in load_suite(path / "synthetic-suite.toml").all_checkpoints():
            store.list_memorized("synthetic", checkpoint.model.name, checkpoint.step)
        assert not list(path.glob("scores/*/*/*/memorized-*")), "not worth a list"
        for checkpoint in load_suite(path / "synthetic-suite.toml").all_checkpoints():
            store.list_memorized("synthetic", checkpoint.model.name, checkpoint.step, worth=1)
        with connect(path) as connection:
            assert connection.execute(ask).fetchall() == expected
        assert not verify(str(path)).damages
        # A list of other content under the name of these parts: it is answered, for this checkpoint.
        file = next(path.glob("scores/*/model=synthetic-12b/step=2000/memorized-*"))
        content = file.read_bytes()
        pq.write_table(pq.read_table(file, partitioning=None).slice(0, 5), file)
        with connect(path) as connection:
            found = connection.execute(ask).fetchall()
        assert [row[2] for row in found if row[:2] == ("synthetic-12b", 2000)] == [5]
        assert [row for row in found if row[:2] != ("synthetic-12b", 2000)] == [
            row for row in expected if row[:2] != ("synthetic-12b", 2000)
        ]
        assert [damage.name for damage in verify(str(path)).damages] == [str(file.relative_to(path))]
        file.write_bytes(content)
        catalog = write_catalog(path, tmp_path / "embedded.duckdb", embed=True)
        with duckdb.connect(str(catalog), read_only=True) as connection:
            assert connection.execute(ask).fetchall() == expected


def test_the_command_line_refuses_what_does_not_fit(capsys: pytest.CaptureFixture[str]) -> None:
    for wrong in (["--models", "11"], ["--sequences", "1000"], ["--steps", "0,10"]):
        with pytest.raises(SystemExit) as stopped:
            script().parse(["x", *wrong])
        assert stopped.value.code == 2
        assert wrong[0] in capsys.readouterr().err or wrong[0] == "--steps"
    assert json.dumps(vars(script().parse(["x"])), default=str)
