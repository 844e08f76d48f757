"""The catalog: its views, its sandbox, and the file for the DuckDB shell."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from random_stores import World, random_world, toy_suite
from sql_statements import LOADS_OR_SETS, READS_ELSEWHERE, WRITES, fingerprints

from memoserve.catalog import connect, execute, run_query, write_catalog
from memoserve.errors import BadInput, StorageFailed, StoreConflict
from memoserve.imports import import_csv
from memoserve.queries import Query, find_query, list_queries
from memoserve.report.coverage import store_status
from memoserve.store import Store
from memoserve.store.verify import verify


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return random_world(tmp_path_factory.mktemp("catalog"), 4, "score")


CORE = [
    find_query(name)
    for name in ("checkpoints", "correlation", "counts", "distribution", "equicompute", "predictors")
]


def rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql).fetchall()


class TestViews:
    def test_scores_and_memorized(self, world: World) -> None:
        with connect(world.path) as db:
            stored = {
                (f"{model}@{step}", i): (matches, prefix)
                for model, step, i, matches, prefix in rows(
                    db, "SELECT model, step, sequence_id, matches, matched_prefix FROM scores"
                )
            }
            given = {(n, i): pair for n, scores in world.scores.items() for i, pair in scores.items()}
            assert stored == given
            memorized = rows(db, "SELECT model || '@' || step, sequence_id FROM memorized")
            assert sorted(memorized) == sorted((n, i) for n in world.scores for i in world.memorized(n))
            assert rows(
                db, "SELECT checkpoint, evaluated FROM checkpoints WHERE evaluated > 0 ORDER BY ALL"
            ) == sorted((n, len(scores)) for n, scores in world.scores.items())
            assert rows(db, "SELECT count(*) FROM checkpoints") == [(len(world.suite.all_checkpoints()),)]
            assert rows(db, "SELECT sequence_id, window_id, control FROM sequences ORDER BY 1") == [
                (i, w, i >= world.trained) for i, w in sorted(world.windows.items())
            ]

    def test_memorized_filters_in_the_scan_and_reads_no_mask(self, world: World) -> None:
        with connect(world.path) as db:
            plan = rows(db, "EXPLAIN SELECT count(*) FROM memorized WHERE model = 'l-x'")[0][1]
        scan = str(plan)[str(plan).index("READ_PARQUET") :].replace("\n", " ")
        assert "Filters" in scan
        assert "matched_prefix = 32" in scan
        assert "match_mask" not in str(plan)

    def test_a_store_with_nothing_in_it(self, tmp_path: Path) -> None:
        store = Store.create(tmp_path / "store")
        for _ in range(2):
            with connect(store.path) as db:
                for view, typed in (
                    ("scores", "match_mask UINTEGER"),
                    ("memorized", "sequence_id BIGINT"),
                    ("sequences", "control BOOLEAN"),
                ):
                    assert rows(db, f"FROM {view}") == []
                    name, kind = typed.split()
                    assert (name, kind) in [(r[0], r[1]) for r in rows(db, f"DESCRIBE {view}")]
                evaluated = rows(db, "SELECT DISTINCT evaluated FROM checkpoints")
                assert evaluated in ([], [(0,)])
                for query in CORE:
                    assert rows(db, query.sql) == [], query.name
            # Then with the checkpoints known, and still no scores.
            store.claim(toy_suite(tmp_path / "suite"), {"mode": "score"})

    @pytest.mark.parametrize("name", ["it's", "a[1]b", "w*ld?", "sp ace", "{x}", "@STORE@", "ünï"])
    def test_any_directory_name(self, tmp_path: Path, world: World, name: str) -> None:
        shutil.copytree(world.path, tmp_path / name)
        for decoy in ("a1b", "wxldy"):
            shutil.copytree(world.path, tmp_path / decoy)
        with connect(tmp_path / name) as db:
            expected = [(sum(map(len, world.scores.values())),)]
            assert rows(db, "SELECT count(*) FROM scores") == expected
        file = write_catalog(tmp_path / name, None if "?" not in name else tmp_path / "c.duckdb")
        with duckdb.connect(str(file), read_only=True) as db:
            assert rows(db, "SELECT count(*) FROM scores") == expected

    def test_no_store(self, tmp_path: Path) -> None:
        with pytest.raises(StoreConflict, match="no store"):
            connect(tmp_path / "nowhere")

    def test_a_damaged_part_is_named(self, tmp_path: Path, world: World) -> None:
        shutil.copytree(world.path, tmp_path / "store")
        part = max((tmp_path / "store" / "scores").rglob("*.parquet"))
        part.write_bytes(part.read_bytes()[:-30])
        with pytest.raises(BadInput, match=part.name), connect(tmp_path / "store") as db:
            execute(db, "SELECT sum(sequence_id) FROM scores", tmp_path / "store")
        with pytest.raises(BadInput, match=part.name):
            write_catalog(tmp_path / "store", tmp_path / "file.duckdb")

    @pytest.mark.parametrize(
        ("successes", "trials", "low", "high"),
        # Wilson's intervals as published by Newcombe (1998), table I, method 3, and the ends.
        [
            (81, 263, 0.2553, 0.3662),
            (15, 148, 0.0624, 0.1605),
            (0, 20, 0.0, 0.1611),
            (1, 29, 0.0061, 0.1718),
            (20, 20, 0.8389, 1.0),
            (0, 0, None, None),
            (None, None, None, None),
        ],
    )
    def test_wilson(
        self, world: World, successes: int | None, trials: int | None, low: float | None, high: float | None
    ) -> None:
        with connect(world.path) as db:
            found = db.execute(
                "SELECT wilson_low($1, $2), wilson_high($1, $2)", [successes, trials]
            ).fetchone()
        assert found == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


class TestSandbox:
    @pytest.fixture
    def store(self, tmp_path: Path, world: World) -> Path:
        shutil.copytree(world.path, tmp_path / "store")
        shutil.copytree(world.path / "suites" / "suite=toy", tmp_path / "store-twin")
        duckdb.sql(f"COPY (SELECT 42 AS secret) TO '{tmp_path}/secret.parquet'")
        (tmp_path / "secret.json").write_text('{"secret": 42}')
        return tmp_path / "store"

    @pytest.mark.parametrize("statement", READS_ELSEWHERE + WRITES + LOADS_OR_SETS)
    def test_refused_and_nothing_changes(self, store: Path, statement: str) -> None:
        secret_variable_of_the_caller = [{"secret": 42}]
        part = next((store / "scores").rglob("*.parquet"))
        before = fingerprints(store.parent)
        with connect(store) as db, pytest.raises(BadInput):
            execute(db, statement.format(store=store, outside=store.parent, part=part), store)
        assert fingerprints(store.parent) == before
        assert secret_variable_of_the_caller

    @pytest.mark.parametrize("statement", READS_ELSEWHERE)
    def test_the_engine_itself_refuses_other_files(self, store: Path, statement: str) -> None:
        """Not only our look at the statement: nothing it overlooks may read elsewhere."""
        part = next((store / "scores").rglob("*.parquet"))
        with connect(store) as db, pytest.raises(duckdb.Error):
            db.execute(statement.format(store=store, outside=store.parent, part=part))

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT count(*) FROM scores",
            "SET VARIABLE x = 'a (b)'; -- what (it) asks\n\nSELECT getvariable('x')",
            "FROM checkpoints",
            "VALUES (1)",
            "WITH x AS (FROM memorized) SELECT count(*) FROM x",
            "DESCRIBE scores",
            "SHOW TABLES",
            "SUMMARIZE checkpoints",
            "EXPLAIN SELECT 1",
            "SET VARIABLE target = 'l-x@3'; SELECT getvariable('target')",
            "PIVOT checkpoints ON model IN ('s') USING count(*)",
            "SELECT 'copy' AS \"insert\", 1 AS update_count -- DROP\n",
        ],
    )
    def test_allowed(self, store: Path, statement: str) -> None:
        with connect(store) as db:
            assert execute(db, statement.format(store=store), store).fetchall()

    @pytest.mark.parametrize("query", list_queries(), ids=lambda query: query.name)
    def test_named_queries_are_allowed_as_ones_own(self, store: Path, query: Query) -> None:
        """With a parameter set in front, as the dashboard hands them over."""
        asked = f"SET VARIABLE suite = 'toy';\n{query.sql}"
        with connect(store) as db:
            assert execute(db, asked, store).description

    def test_errors_point_into_the_statement(self, store: Path) -> None:
        with connect(store) as db, pytest.raises(BadInput) as error:
            execute(db, "SELECT 1 + nosuch FROM scores", store)
        lines = str(error.value).splitlines()
        assert 'column "nosuch" not found' in lines[0]
        assert lines[-2] == "LINE 1: SELECT 1 + nosuch FROM scores"
        assert lines[-1].index("^") == lines[-2].index("nosuch")

    def test_memory_is_bounded(self, store: Path) -> None:
        with connect(store, memory_limit="50MB") as db, pytest.raises(BadInput, match="memory"):
            execute(db, "SELECT list(i) FROM range(100000000) t(i)", store)
        with pytest.raises(BadInput, match=r"refused a setting.*must have a number"):
            connect(store, memory_limit="lots")


class TestFile:
    def test_from_any_folder(self, tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(world.path.parent)
        file = write_catalog(world.path.name, tmp_path / "moved" / "any name.duckdb")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        with connect(world.path) as live, duckdb.connect(str(file), read_only=True) as db:
            for query in CORE:
                assert rows(db, query.sql) == rows(live, query.sql), query.name
            kinds = rows(db, "SELECT table_name, table_type FROM information_schema.tables")
        assert ("checkpoints", "BASE TABLE") in kinds
        assert ("scores", "VIEW") in kinds
        assert [p.name for p in file.parent.iterdir()] == [file.name]

    def test_embedded_it_needs_no_store(self, tmp_path: Path, world: World) -> None:
        shutil.copytree(world.path, tmp_path / "store")
        file = write_catalog(tmp_path / "store", tmp_path / "handed.duckdb", embed=True)
        shutil.rmtree(tmp_path / "store")
        with connect(world.path) as live, duckdb.connect(str(file), read_only=True) as db:
            for query in CORE:
                assert rows(db, query.sql) == rows(live, query.sql), query.name

    def test_whole_or_not_at_all(self, tmp_path: Path, world: World) -> None:
        shutil.copytree(world.path, tmp_path / "store")
        file = write_catalog(tmp_path / "store", tmp_path / "out" / "c.duckdb")
        before = file.read_bytes()
        part = max((tmp_path / "store" / "scores").rglob("*.parquet"))
        part.write_bytes(b"")
        with pytest.raises(BadInput, match=part.name):
            write_catalog(tmp_path / "store", file, embed=True)
        assert file.read_bytes() == before
        assert [p.name for p in file.parent.iterdir()] == ["c.duckdb"]
        with pytest.raises(StorageFailed):
            write_catalog(world.path, tmp_path / "out" / "c.duckdb" / "under-a-file")

    def test_readable_by_the_previous_major_in_principle(self, tmp_path: Path, world: World) -> None:
        file = write_catalog(world.path, tmp_path / "c.duckdb")
        with duckdb.connect() as db:
            db.execute(f"ATTACH '{file}' AS c (READ_ONLY)")
            tags = rows(db, "SELECT tags FROM duckdb_databases() WHERE database_name = 'c'")
        assert tags[0][0]["storage_version"].startswith("v1.0")

    @pytest.mark.exhaustive
    @pytest.mark.parametrize("embed", [False, True])
    def test_the_previous_major_opens_it(self, tmp_path: Path, world: World, embed: bool) -> None:
        """Installs DuckDB 1.4 into an environment of its own and asks it every question."""
        subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "v")], check=True)
        python = str(tmp_path / "v" / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", "duckdb==1.4.*"], check=True)
        file = write_catalog(world.path, tmp_path / "c.duckdb", embed=embed)
        script = (
            "import duckdb, sys\n"
            "db = duckdb.connect(sys.argv[1], read_only=True)\n"
            "print(duckdb.__version__[:3], db.execute(open(sys.argv[2]).read()).fetchall())\n"
        )
        with connect(world.path) as live:
            for query in CORE:
                said = subprocess.run(
                    [python, "-c", script, str(file), str(query.path)],
                    capture_output=True, text=True, check=True, cwd=tmp_path,
                )  # fmt: skip
                assert said.stdout.strip() == f"1.4 {rows(live, query.sql)}", query.name


# What DuckDB takes for NULL, a number, a boolean, a date, a column of ours, an escape, or a glob.
ODD_NAMES = (
    "NULL",
    "null",
    "Null",
    "1e5",
    "010",
    "10",
    "true",
    "2024-01-01",
    "inf",
    "nan",
    "0x1F",
    "1.",
    "m-._",
)
ODD_FOLDERS = (
    "step=161",
    "STEP=1",
    "model=NULL",
    "suite=x",
    "sequence_id=3",
    "matched_prefix=32",
    "matches=1",
    "window_id=0",
    "filename=x",
    "file=x",
    "lr=1e-4",
    "date=2024-01-01",
    "a=b=c",
    "=",
    "=x",
    "x=",
    "it's=1",
    "model=it's",
    "a b",
    "%73tep=1",
    "st%65p=7",
    "ünï=ß",
    "model=[1]*?",
    "NULL",
    "line\nstep=1",
    "@UNION@",
    ";--",
)


def test_a_path_that_duckdb_cannot_read_is_refused(tmp_path: Path) -> None:
    """It takes a backslash for a separator, and would find nothing."""
    store = Store.create(tmp_path / "a\\b" / "store")
    with pytest.raises(BadInput, match=r"has a backslash: .* rename the folder"):
        connect(store.path)


class TestNames:
    """Whatever suites, models and folders above are called, figures are the same."""

    @given(
        suite=st.one_of(
            st.sampled_from(ODD_NAMES), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)
        ),
        models=st.lists(
            st.one_of(
                st.sampled_from(ODD_NAMES), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)
            ),
            min_size=1,
            max_size=4,
            unique=True,
        ),
        above=st.lists(
            st.one_of(
                st.sampled_from(ODD_FOLDERS),
                st.builds(
                    "{}={}".format,
                    st.sampled_from(["suite", "model", "step", "matches", "key", "filename"]),
                    st.text(
                        st.characters(exclude_characters="/\\\0?", exclude_categories=["Cs"]), max_size=8
                    ),
                ),
            ),
            max_size=3,
        ),
        steps=st.lists(st.integers(0, 200), min_size=1, max_size=3, unique=True),
    )
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @example(suite="toy", models=["s"], above=["step=161"], steps=[1, 7])
    @example(suite="NULL", models=["NULL", "null", "1e5", "010", "true"], above=[], steps=[1])
    @example(suite="null", models=["a"], above=["lr=1e-4", "model=x"], steps=[3])
    def test_imported_scores(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        suite: str,
        models: list[str],
        above: list[str],
        steps: list[int],
    ) -> None:
        folder = tmp_path_factory.mktemp("names")
        described = toy_suite(folder / "suite", models=tuple(models), steps=tuple(sorted(steps)), name=suite)
        path = folder.joinpath(*above, "store")
        store = Store.create(path)
        # Every (k + 2)-th sequence of the k-th checkpoint.
        memorized: dict[tuple[str, int], int] = {}
        evaluated: dict[tuple[str, int], int] = {}
        for k, checkpoint in enumerate(described.all_checkpoints()):
            file = folder / f"{k}.csv"
            file.write_text("".join(f"{i},{1.0 if i % (k + 2) == 0 else 0.5}\n" for i in range(40 + k)))
            import_csv(store, described, checkpoint, [file])
            key = (checkpoint.model.name, checkpoint.step)
            memorized[key] = sum(i % (k + 2) == 0 for i in range(40 + k))
            evaluated[key] = 40 + k
        assert verify(str(path)).damages == ()

        status = store_status(str(path))["suites"]
        assert [one["suite"] for one in status] == [suite]
        assert {c["checkpoint"]: (c["evaluated"], c["memorized"]) for c in status[0]["checkpoints"]} == {
            f"{model}@{step}": (evaluated[model, step], n) for (model, step), n in memorized.items()
        }
        by_sql = (
            "SELECT suite, model, step, count(*), count(*) FILTER (matches = 32) FROM scores GROUP BY ALL"
        )
        joined = (
            "SELECT suite, model, step, count(*) FROM memorized m "
            "JOIN checkpoints c USING (suite, model, step) GROUP BY ALL"
        )
        expected = sorted((suite, *key, evaluated[key], n) for key, n in memorized.items())
        filed = write_catalog(path, folder / "views.duckdb")
        embedded = write_catalog(path, folder / "copied.duckdb", embed=True)
        for place, db in (
            (path, connect(path)),
            (None, duckdb.connect(str(filed), read_only=True)),
            (None, duckdb.connect(str(embedded), read_only=True)),
        ):
            with db:
                assert sorted(rows(db, by_sql)) == expected
                assert sorted(rows(db, joined)) == sorted((suite, *key, n) for key, n in memorized.items())
                for (model, step), n in memorized.items():
                    assert db.execute(
                        "SELECT count(*) FROM memorized WHERE suite = ? AND model = ? AND step = ?",
                        [suite, model, step],
                    ).fetchall() == [(n,)]
                if place is not None:
                    answer = run_query(db, find_query("counts"), {"suite": suite}, place)
                    names = [column[0] for column in answer.description or ()]
                    found = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
                    assert {
                        r["checkpoint"]: r["sequences_memorized"]
                        + r["unseen_memorized"]
                        + r["control_memorized"]
                        for r in found
                    } == {f"{model}@{step}": n for (model, step), n in memorized.items()}

    @pytest.mark.parametrize("above", ["plain", "lr=1e-4", "step=3"])
    @pytest.mark.parametrize("missing", [False, True])
    def test_only_the_files_asked_for_are_opened(self, tmp_path: Path, above: str, missing: bool) -> None:
        """Counted by DuckDB itself; a part that nobody needs may even be damaged."""
        folder = tmp_path / "suite"
        suite = toy_suite(folder, models=("s", "m", "l"), steps=(1, 2, 3))
        path = tmp_path / above / "store"
        store = Store.create(path)
        for checkpoint in suite.all_checkpoints():
            file = folder / "scores.csv"
            file.write_text("".join(f"{i},1\n" for i in range(20)))
            import_csv(store, suite, checkpoint, [file])
        with connect(path) as db:
            for where, files in (
                ("model = 'm' AND step = 2", 1),
                ("model = 'm'", 3),
                ("step = 3", 3),
            ):
                if missing:
                    where += " AND continuation_ll IS NULL"
                plan = str(
                    rows(db, f"EXPLAIN ANALYZE SELECT sum(sequence_id) FROM scores WHERE {where}")[0][1]
                )
                opened = [int(n) for n in re.findall(r"Total Files Read: (\d+)", plan)]
                assert sum(opened) == files, plan
