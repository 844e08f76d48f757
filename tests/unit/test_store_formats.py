"""Stores of an earlier format, and files with fewer or more columns than this version knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import Cli
from random_stores import World, random_world
from store_parts import parts_in, rewrite

from memoserve.catalog import connect, run_query, write_catalog
from memoserve.errors import StoreConflict
from memoserve.queries import find_query
from memoserve.report.coverage import store_status
from memoserve.store import Store
from memoserve.store.fingerprint import WHEN_ABSENT, fingerprint_file
from memoserve.store.verify import verify
from memoserve.suites import Suite

FORMAT_1 = Path(__file__).parents[1] / "support" / "stores" / "format1"

# What was counted of it by the version that wrote it.
COUNTS = [("116k@161", 300, 0, 203, 0), ("116k@1001", 300, 68, 203, 27)]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return shutil.copytree(FORMAT_1, tmp_path / "old")


def counts(store: Path) -> list[tuple[object, ...]]:
    with connect(store) as db:
        result = run_query(db, find_query("counts"), {}, store)
        names = [column[0] for column in result.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in result.fetchall()]
    wanted = ("checkpoint", "sequences", "sequences_memorized", "windows", "windows_memorized")
    return [tuple(row[name] for name in wanted) for row in rows]


class TestFormat1:
    def test_it_is_whole_and_says_what_it_said(self, old: Path) -> None:
        before = parts_in(old)
        found = verify(str(old))
        assert (found.files, found.damages) == (8, ())
        assert counts(old) == COUNTS
        (suite,) = store_status(str(old))["suites"]
        assert [
            (c["checkpoint"], c["parts"], c["evaluated"], c["memorized"]) for c in suite["checkpoints"]
        ] == [
            ("116k@161", 2, 300, 0),
            ("116k@1001", 2, 300, 68),
        ]
        assert suite["foreign_parts"] == []
        prefix = Store.open(old).read_scores("mini", "116k", 1001, 150, 250).matched_prefix
        assert prefix is not None
        assert len(prefix) == 100
        file = write_catalog(old, embed=True)
        with duckdb.connect(str(file), read_only=True) as db:
            assert db.execute("SELECT count(*) FROM memorized").fetchall() == [(68,)]
            assert db.execute(
                "SELECT count(*), count(weights), count(same_weights_as) FROM checkpoints"
            ).fetchall() == [(28, 0, 0)]
            assert db.execute("FROM checks").fetchall() == []
        assert parts_in(old) == before
        assert json.loads((old / "memoserve.json").read_text()) == {"format": 1}

    def test_a_run_goes_on_with_it(self, old: Path, cli: Cli) -> None:
        """More sequences, and a checkpoint more."""
        made_by = json.loads((old / "suites/suite=mini/fingerprint.json").read_text())["engine_version"]
        if made_by != version("transformers"):
            pytest.skip(f"scores of transformers {made_by} are not continued by {version('transformers')}")
        before = parts_in(old)
        cli(
            *("run", "--suite", "mini", "--engine", "transformers", "--mode", "extract", "--out", old),
            *("--checkpoints", "116k@161,116k@1001,116k@301", "--sequences", "0:320"),
        )  # fmt: skip
        after = parts_in(old)
        assert {name: after[name] for name in before} == before
        assert verify(str(old)).damages == ()
        assert [(name, n) for name, n, *_ in counts(old)] == [
            ("116k@161", 320),
            ("116k@301", 320),
            ("116k@1001", 320),
        ]
        with connect(old) as db:
            assert db.execute(
                "SELECT count(*) FROM memorized WHERE step = 1001 AND sequence_id < 300"
            ).fetchall() == [(68,)]
        assert json.loads((old / "memoserve.json").read_text()) == {"format": 2}

    def test_what_runs_found_out_joins_it(self, old: Path, mini: Suite) -> None:
        store = Store.open(old)
        fingerprint = store.fingerprint("mini")
        before = parts_in(old)
        store.claim(mini, fingerprint)
        store.note_weights("mini", {("116k", 161): ("sha", "116k@1001")})
        store.claim(mini, fingerprint)
        assert store.noted_weights("mini")["116k", 161] == ("sha", "116k@1001")
        assert parts_in(old) == before
        assert verify(str(old)).damages == ()
        assert counts(old) == COUNTS


class TestFingerprintKeys:
    """Of a store with scores; `random_world` has some."""

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        return random_world(tmp_path, 4, "score")

    def restamp(self, world: World, change: Callable[[dict[str, object]], None]) -> dict[str, object]:
        """Change the fingerprint of a store and of all its parts."""
        store = Store.open(world.path)
        fingerprint: dict[str, object] = dict(store.fingerprint("toy"))
        change(fingerprint)
        store.files.write("suites/suite=toy/fingerprint.json", fingerprint_file(fingerprint))  # type: ignore[arg-type]
        for name in parts_in(world.path):
            rewrite(world.path / name, said=lambda said: said | {"fingerprint": fingerprint})
        assert verify(str(world.path)).damages == ()
        return fingerprint

    @pytest.mark.parametrize("key", sorted(WHEN_ABSENT))
    def test_an_absent_key_has_a_meaning(self, world: World, key: str) -> None:
        stored = Store.open(world.path).fingerprint("toy")
        assert key not in stored
        store = Store.open(world.path)
        store.refuse_unlike("toy", {**stored, key: WHEN_ABSENT[key]})
        with pytest.raises(StoreConflict, match=f"{key}: {WHEN_ABSENT[key]} vs something"):
            store.refuse_unlike("toy", {**stored, key: "something"})
        # A part that says it and a store that doesn't are of one run.
        name = sorted(parts_in(world.path))[0]
        rewrite(
            world.path / name, said=lambda s: s | {"fingerprint": s["fingerprint"] | {key: WHEN_ABSENT[key]}}
        )
        assert verify(str(world.path)).damages == ()
        assert store_status(str(world.path))["suites"][0]["foreign_parts"] == []

    def test_a_key_of_a_later_version_is_not_continued_but_read(self, world: World) -> None:
        expected = store_status(str(world.path))["suites"][0]["checkpoints"]
        known = dict(Store.open(world.path).fingerprint("toy"))
        self.restamp(world, lambda fingerprint: fingerprint.update(quantum="entangled"))
        with pytest.raises(
            StoreConflict, match=r"doesn't know \(quantum: entangled\).*Queries and reports work"
        ):
            Store.open(world.path).claim(world.suite, known)
        assert store_status(str(world.path))["suites"][0]["checkpoints"] == expected


class TestColumns:
    """Parts as earlier or later versions would write them, beside ours or instead of ours."""

    MASKS = ("match_mask", "continuation_ll")

    @pytest.mark.parametrize("which", ["first", "last", "all"])
    @pytest.mark.parametrize(
        ("fewer", "more"),
        [
            (("continuation_ll",), ()),
            (("match_mask", "continuation_ll"), ("logsumexp",)),
            (("matches", "match_mask"), ()),
            ((), ("suite", "model", "step")),
            ((), ("filename", "shape")),
        ],
    )
    def test_fewer_and_more(
        self, tmp_path: Path, which: str, fewer: Sequence[str], more: Sequence[str]
    ) -> None:
        world = random_world(tmp_path, 5, "score", loglik=True)
        names = [name for name in sorted(parts_in(world.path)) if name.startswith("scores/")]
        chosen = {"first": names[:1], "last": names[-1:], "all": names}[which]

        def changed(table: pa.Table) -> pa.Table:
            for name in more:
                table = table.append_column(name, pa.array([7] * len(table), pa.int16()))
            return table.drop_columns(list(fewer))

        for name in chosen:
            rewrite(world.path / name, table=changed)
        assert verify(str(world.path)).damages == ()

        # By hand: what is left in each file.
        left: dict[tuple[str, int, int], tuple[object, ...]] = {}
        for name in names:
            _, _, model, step, _ = name.split("/")
            table = pq.ParquetFile(world.path / name).read()
            for row in table.to_pylist():
                key = (model.removeprefix("model="), int(step.removeprefix("step=")), row["sequence_id"])
                left[key] = tuple(
                    row.get(c) for c in ("matches", "matched_prefix", "match_mask", "continuation_ll")
                )
        wanted = "model, step, sequence_id, matches, matched_prefix, match_mask, continuation_ll"
        file = write_catalog(world.path, tmp_path / "c.duckdb")
        for db in (connect(world.path), duckdb.connect(str(file), read_only=True)):
            with db:
                assert {
                    row[:3]: row[3:] for row in db.execute(f"SELECT {wanted} FROM scores").fetchall()
                } == left
                types = dict(row[:2] for row in db.execute("DESCRIBE scores").fetchall())
                assert (types["matches"], types["match_mask"], types["continuation_ll"]) == (
                    "UTINYINT",
                    "UINTEGER",
                    "FLOAT",
                )
                memorized = db.execute("SELECT model || '@' || step, sequence_id FROM memorized").fetchall()
                assert sorted(memorized) == sorted((n, i) for n in world.scores for i in world.memorized(n))
        status = store_status(str(world.path))["suites"][0]["checkpoints"]
        assert {c["checkpoint"]: c["evaluated"] for c in status} == {
            n: len(s) for n, s in world.scores.items()
        }

        store = Store.open(world.path)
        for name, its in world.scores.items():
            checkpoint = world.checkpoints[name]
            ids = np.array(sorted(its))
            prefix = store.read_scores(
                "toy", checkpoint.model.name, checkpoint.step, 0, 1 << 40
            ).matched_prefix
            assert prefix is not None
            assert prefix.tolist() == [its[i][1] for i in ids]
        store.claim(world.suite, store.fingerprint("toy"))

    def test_what_a_later_version_says_of_checkpoints_stays(self, tmp_path: Path) -> None:
        world = random_world(tmp_path, 5, "score")
        file = world.path / "suites/suite=toy/checkpoints.parquet"

        def later(table: pa.Table) -> pa.Table:
            shapes = pa.array([f"32-32-{i}" for i in range(len(table))])
            return table.drop_columns(["weights", "same_weights_as"]).append_column("shape", shapes)

        rewrite(file, table=later)
        expected = pq.ParquetFile(file).read().column("shape").to_pylist()
        assert verify(str(world.path)).damages == ()
        store = Store.open(world.path)
        store.claim(world.suite, store.fingerprint("toy"))
        some = world.suite.all_checkpoints()[0]
        store.note_weights("toy", {(some.model.name, some.step): ("sha", None)})
        again = pq.ParquetFile(file).read()
        assert again.column("shape").to_pylist() == expected
        assert "sha" in again.column("weights").to_pylist()
        with connect(world.path) as db:
            assert db.execute("SELECT count(*), count(weights) FROM checkpoints").fetchall() == [
                (len(expected), 1)
            ]
