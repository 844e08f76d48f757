"""What was verified, whose weights are whose, and scores that are no numbers: in all that people read."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from command_line import Cli
from random_stores import World, random_world, toy_suite
from serving import mini_store, serving
from store_parts import parts_in, rewrite

from memoserve.catalog import Catalog, connect, run_query, write_catalog
from memoserve.checks import Check
from memoserve.queries import find_query, list_queries
from memoserve.recommend import find_target
from memoserve.recommend.recommendation import advise
from memoserve.report.contents import report
from memoserve.report.coverage import store_checks, store_status
from memoserve.store import Store


def answer(store: Path, name: str, **values: str) -> list[dict[str, object]]:
    with connect(store) as db:
        result = run_query(db, find_query(name), values, store)
        columns = [column[0] for column in result.description or ()]
        return [dict(zip(columns, row, strict=True)) for row in result.fetchall()]


def check(name: str, subject: str, result: str, detail: str = "", figure: float | None = None) -> Check:
    model, at, step = subject.partition("@")
    checkpoint = (model, int(step)) if at else (None, None)
    return Check(name, subject, result, detail, figure, *checkpoint)  # type: ignore[arg-type]


class TestChecks:
    OF_RUN = (
        check("weights complete", "s@3", "passed", "12 of 12 tensors", 12.0),
        check("weights complete", "m@3", "failed", "m@3 lacks <b>h.1.bias</b>: download it again"),
        check("token ids", "data.npy", "warning", "highest 70,015 of 70,016", 70015.0),
        check("forward pass", "l@7", "not checked", "Transformers can't load it"),
    )

    @pytest.fixture
    def world(self, tmp_path: Path) -> World:
        world = random_world(tmp_path, 4, "score")
        store = Store.open(world.path)
        store.write_checks("toy", [check("weights complete", "s@3", "failed", "an earlier run saw this")])
        store.write_checks("toy", self.OF_RUN)
        return world

    def test_the_newest_of_each_in_order(self, world: World, cli: Cli) -> None:
        rows = answer(world.path, "checks")
        assert [(row["result"], row["name"], row["subject"]) for row in rows] == [
            ("failed", "weights complete", "m@3"),
            ("warning", "token ids", "data.npy"),
            ("not checked", "forward pass", "l@7"),
            ("passed", "weights complete", "s@3"),
        ]
        assert [row["figure"] for row in rows] == [None, 70015.0, None, 12.0]
        said = json.loads(cli("status", world.path, "--checks", "--format", "json").stdout)
        assert said["checks"] == store_checks(str(world.path))
        assert [one["detail"] for one in said["checks"]] == [row["detail"] for row in rows]
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", said["checks"][0]["checked_at"])
        table = cli("status", world.path, "--checks").stdout
        assert "download it again" in table
        plain = cli("status", world.path).stdout
        assert "checks: 1 failed, 1 not checked, 1 passed, 1 warning" in plain
        assert "failed: weights complete of m@3: m@3 lacks <b>h.1.bias</b>: download it again" in plain
        assert "an earlier run" not in table + plain

    @pytest.mark.parametrize("embed", [False, True])
    def test_in_the_catalog_file(self, world: World, tmp_path: Path, embed: bool) -> None:
        file = write_catalog(world.path, tmp_path / "c.duckdb", embed=embed)
        if embed:
            shutil.rmtree(world.path)
        with duckdb.connect(str(file), read_only=True) as db:
            rows = db.execute(
                "SELECT model, step, result FROM checks WHERE name = 'weights complete'"
            ).fetchall()
            assert sorted(rows) == [("m", 3, "failed"), ("s", 3, "passed")]
            assert db.execute("SELECT typeof(checked_at) FROM checks LIMIT 1").fetchall() == [("TIMESTAMP",)]

    def test_in_the_report(self, world: World) -> None:
        with Catalog.open(world.path) as catalog:
            page = report(catalog, Store.open(world.path), only=())
        section = page[page.index('id="verified"') : page.index('id="answer"')]
        assert "<b>h.1.bias" not in section
        for said in ("m@3 lacks <b>h.1.bias", "data.npy", "can't load it", "token ids"):
            assert said in html.unescape(section)
        assert "What did not pass" in section

    def test_a_store_without_any(self, tmp_path: Path, cli: Cli) -> None:
        world = random_world(tmp_path, 4, "score")
        assert answer(world.path, "checks") == []
        assert "nothing was verified" in cli("status", world.path, "--checks").stdout
        assert "checks" not in cli("status", world.path).stdout
        with Catalog.open(world.path) as catalog:
            assert "This store has no checks" in report(catalog, Store.open(world.path), only=())

    def test_before_there_is_a_score(self, tmp_path: Path, cli: Cli) -> None:
        """What failed may be why there is none."""
        store = Store.create(tmp_path / "store")
        store.write_checks("toy", self.OF_RUN)
        assert len(answer(tmp_path / "store", "checks", suite="toy")) == 4
        assert "download it again" in cli("status", store.path, "--checks").stdout
        store.claim(toy_suite(tmp_path / "suite"), {"suite": "toy"})
        assert "failed: weights complete" in cli("status", store.path).stdout

    def test_over_http(self, tmp_path: Path) -> None:
        path = mini_store(tmp_path / "store", 300)
        Store.open(path).write_checks("mini", self.OF_RUN)
        with serving(path) as server:
            (suite,) = server.get("store")["suites"]
            assert suite["checks"] == {"failed": 1, "not checked": 1, "passed": 1, "warning": 1}
            assert [one["subject"] for one in suite["failed_checks"]] == ["m@3"]
            rows = server.get("queries/checks")["rows"]
            assert [row[2] for row in rows] == ["m@3", "data.npy", "l@7", "s@3"]


class TestSameWeights:
    @pytest.mark.parametrize("seed", [0, 4, 5, 7])
    def test_they_are_never_offered(self, tmp_path: Path, seed: int, cli: Cli) -> None:
        world = random_world(tmp_path, seed, "score")
        own = [name for name in world.scores if world.checkpoints[name].step]
        twins = {world.largest, own[0]}
        notes = {
            (world.checkpoints[name].model.name, world.checkpoints[name].step): ("sha", own[-2])
            for name in twins
        }
        store = Store.open(world.path)
        store.note_weights("toy", notes)
        with Catalog.open(world.path) as catalog:
            noted = catalog.connection.execute(
                "SELECT checkpoint FROM checkpoints WHERE same_weights_as IS NOT NULL"
            ).fetchall()
            assert {name for (name,) in noted} == twins
            assert find_target(catalog, None, None).name not in twins
        for query in (
            *("equicompute", "ensembles", "scaling", "recommend_candidates"),
            *("checkpoints", "predictors", "thresholds", "threshold_bands", "rates"),
        ):
            rows = answer(world.path, query)
            for row in rows:
                offered = str(row.get("predictors") or row.get("predictor") or "").split(" + ")
                assert not twins & {*offered, str(row["target"])}, query
        # Nor where they are asked for by name.
        both = ",".join([*twins, *own])
        for row in answer(world.path, "ensembles", predictors=both):
            assert not twins & set(str(row["predictors"]).split(" + "))
        said = cli("status", world.path).stdout
        for name in twins:
            assert f"{name} has the weights of {own[-2]}: skipped" in said
        assert {
            one["checkpoint"] for one in store_status(str(world.path))["suites"][0]["same_weights"]
        } == twins
        with Catalog.open(world.path) as catalog:
            page = report(catalog, store, only=())
        assert f"{own[0]} has the weights of {own[-2]}" in page
        assert f"about {world.largest}</title>" not in page


class TestRunnerUp:
    """One store a case: what each model memorized; the target is the last."""

    IDS = 400

    def store(self, folder: Path, memorized: list[set[int]], prefixes: list[int]) -> Path:
        suite = toy_suite(
            folder, models=("a", "b", "c", "d")[: len(memorized)], steps=(8,), batch=50, trained=self.IDS
        )
        store = Store.create(folder / "store")
        store.claim(suite, {"suite": "toy", "mode": "extract"})
        ids = np.arange(self.IDS)
        store.write_sequences("toy", 0, self.IDS, ids, ids)
        for checkpoint, its, below in zip(suite.all_checkpoints(), memorized, prefixes, strict=True):
            prefix = np.where(np.isin(ids, list(its)), 32, np.where(ids % 3 == 0, below, 0)).astype(np.uint8)
            only = SimpleNamespace(matched_prefix=prefix, match_mask=None, continuation_ll=None)
            store.write_scores(checkpoint, 0, self.IDS, ids, only, "w")
        return Path(store.path)

    @pytest.mark.parametrize("unit", ["sequences", "windows"])
    @pytest.mark.parametrize("seed", range(4))
    def test_it_is_another_set(self, tmp_path: Path, seed: int, unit: str) -> None:
        rng = np.random.default_rng(seed)
        some = set(rng.choice(self.IDS, 60, replace=False).tolist())
        more = some | set(rng.choice(self.IDS, 5, replace=False).tolist())
        memorized = {
            0: [some, some, some | more, some | more],
            1: [some, some, some, more],
            2: [some, set(sorted(some)[:30]), more, more],
            3: [some, more, some, more],
        }[seed]
        prefixes = [int(n) for n in rng.choice([0, 5, 20], 4)]
        path = self.store(tmp_path, memorized, prefixes)
        with Catalog.open(path) as catalog:
            given = advise(catalog, budget="90%", unit=unit)  # type: ignore[arg-type]
        answers = {one.answer: one for one in given.answers}
        flagged = {}
        for name, one in answers.items():
            its: set[int] = set()
            for predictor in one.predictors.split(" + "):
                at = "abcd".index(predictor[0])
                tau = float(one.rule.partition(">= ")[2] or 33)
                its |= memorized[at] | {i for i in range(0, self.IDS, 3) if prefixes[at] >= tau}
            flagged[name] = its
        assert "recommended" in flagged
        if "runner-up" in flagged:
            assert flagged["runner-up"] != flagged["recommended"]
            assert answers["runner-up"].predictors != answers["recommended"].predictors
        elif seed == 2:
            pytest.fail("there is another set to offer")

    def test_none_is_better_than_the_same_again(self, tmp_path: Path) -> None:
        some = set(range(0, 300, 5))
        path = self.store(tmp_path, [some] * 4, [0] * 4)
        with Catalog.open(path) as catalog:
            given = advise(catalog, budget="90%")
        assert "runner-up" not in {one.answer for one in given.answers}


@pytest.mark.parametrize("seed", [5])
def test_a_likelihood_that_is_no_number_counts_as_not_measured(tmp_path: Path, seed: int) -> None:
    """Older stores have them; every query says what it says where they are NULL."""
    world = random_world(tmp_path, seed, "score", loglik=True)
    nulls = Path(shutil.copytree(world.path, tmp_path / "nulls"))
    rng = np.random.default_rng(seed)
    for name in sorted(name for name in parts_in(world.path) if name.startswith("scores/")):
        drawn = rng.choice([0, 1, 2, 3], 10_000, p=[0.5, 0.2, 0.2, 0.1])

        def changed(table: pa.Table, drawn=drawn, missing: bool = False) -> pa.Table:  # type: ignore[no-untyped-def]
            values = table.column("continuation_ll").to_numpy().copy()
            kinds = drawn[: len(values)]
            for kind, value in ((1, math.nan), (2, math.inf), (3, -math.inf)):
                values[kinds == kind] = value
            mask = np.isin(kinds, [1, 2]) if missing else None
            at = table.column_names.index("continuation_ll")
            return table.set_column(at, "continuation_ll", pa.array(values, pa.float32(), mask=mask))

        rewrite(world.path / name, table=changed)
        rewrite(nulls / name, table=lambda table: changed(table, missing=True))
    with connect(world.path) as db:
        (n, nans, highest) = db.execute(
            "SELECT count(continuation_ll), count(*) FILTER (isnan(continuation_ll)), max(continuation_ll) "
            "FROM scores"
        ).fetchall()[0]
        assert n > 0
        assert nans == 0
        assert highest <= 0
    with connect(world.path) as one, connect(nulls) as other:
        for query in list_queries():
            if query.name != "predictors_vs_paper":
                its, others = (
                    sorted(map(repr, run_query(db, query, {}, path).fetchall()))
                    for db, path in ((one, world.path), (other, nulls))
                )
                assert its == others, query.name


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_none_is_written(tmp_path: Path, bad: float) -> None:
    world = random_world(tmp_path, 4, "score")
    checkpoint = world.suite.all_checkpoints()[0]
    scores = SimpleNamespace(
        matched_prefix=np.array([0, 3], np.uint8),
        match_mask=None,
        continuation_ll=np.array([-math.inf, bad], np.float32),
    )
    with pytest.raises(ValueError, match="continuation_ll of sequence 1000001 is"):
        Store.open(world.path).write_scores(
            checkpoint, 1_000_000, 1_000_002, np.array([1_000_000, 1_000_001]), scores, "w"
        )


def test_a_damaged_file_of_checks_is_called_by_its_name(tmp_path: Path, cli: Cli) -> None:
    store = Store.create(tmp_path / "out")
    store.write_checks("s", [Check("token ids", "sequences", "passed", "all of them", 1.0)])
    (file,) = (tmp_path / "out").glob("checks/*/*.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    for command in (("query", "checks"), ("status", "--checks")):
        refused = cli(*command, "out", code=3)
        assert file.name in refused.stderr
        assert "verify --repair" in refused.stderr


def test_scores_in_the_folder_of_another_checkpoint_answer_nothing(tmp_path: Path, cli: Cli) -> None:
    """By hand, two steps exchanged: every figure would be another's."""
    world = random_world(tmp_path, 6, "score")
    (model,) = {path.parent for path in (world.path / "scores").glob("suite=toy/model=l-x/step=*")}
    first, second, *_ = sorted(model.glob("step=*"))
    first.rename(model / "kept")
    second.rename(first)
    (model / "kept").rename(second)
    for command in (("query", "predictors"), ("sql", "FROM checkpoints"), ("status",), ("recommend",)):
        refused = cli(*command, str(world.path), *(("--grid",) if command == ("recommend",) else ()), code=3)
        assert "a folder was renamed, or exchanged" in refused.stderr
        assert f"model=l-x/{first.name}/part-" in refused.stderr
