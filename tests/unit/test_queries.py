"""The queries against plain counting, over random small stores; and the commands that print them."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from brute_force import ask, flops, pearson, place, ratio, same, units, wilson
from random_stores import World, random_world, toy_suite

from memoserve.catalog import connect, run_query, write_catalog
from memoserve.cli import main
from memoserve.errors import BadInput
from memoserve.queries import find_query, list_queries
from memoserve.store import Store

CORE = ("checkpoints", "correlation", "counts", "distribution", "equicompute", "predictors")

Cli = Callable[..., SimpleNamespace]

SEEDS = [(seed, ("score", "extract", "score", "imported")[seed % 4]) for seed in range(8)]


@pytest.fixture(scope="module", params=SEEDS, ids=lambda p: f"{p[1]}-{p[0]}")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    seed, mode = request.param
    return random_world(tmp_path_factory.mktemp("world"), seed, mode)


def effective(ids: set[int], windows: dict[int, int]) -> float:
    """(sum n)^2 / sum n^2 over clusters of equal windows."""
    clusters = Counter(windows.get(i, ("own", i)) for i in ids).values()
    return sum(clusters) ** 2 / sum(n * n for n in clusters) if clusters else 0.0


def predicted(world: World, predictor: str, target: str, unit: str) -> dict[str, Any]:
    """What the catalog's `predictions` should say, by sets."""
    seen = world.seen(predictor)
    evaluated_p = {i for i in world.scores[predictor] if i < seen}
    evaluated_t = {i for i in world.scores[target] if i < world.seen(target)}
    p_ids = world.memorized(predictor) & evaluated_p
    t_ids = world.memorized(target) & evaluated_t
    if unit == "sequences":
        unseen = {i for i in evaluated_t if i >= seen}
        key = {i: i for i in evaluated_p | evaluated_t}
        clusters = world.windows
    else:
        first: dict[int, int] = {}
        for i in sorted(i for i in world.windows if i < world.trained):
            first.setdefault(world.windows[i], i)
        unseen = {w for w, i in first.items() if i >= seen}
        key = world.windows
        clusters = {}
    e_p, e_t = {key[i] for i in evaluated_p}, {key[i] for i in evaluated_t}
    p, t_all = {key[i] for i in p_ids} & e_t, {key[i] for i in t_ids}
    t_seen = t_all & e_p
    t = t_seen | (t_all & unseen)
    both = p & t
    assert both == p & t_seen
    said: dict[str, Any] = {
        "evaluated_both": len(e_p & e_t),
        "not_evaluated": len((e_t - unseen) - e_p),
        "predictor_memorized": len(p),
        "target_memorized_seen": len(t_seen),
        "target_memorized": len(t),
        "both_memorized": len(both),
        "f1": ratio(2 * len(both), len(p) + len(t)),
    }
    for name, whole in (("precision", p), ("recall_seen", t_seen), ("recall_corpus", t)):
        said[name] = ratio(len(both), len(whole))
        said[f"{name}_low"], said[f"{name}_high"] = wilson(said[name], effective(whole, clusters))
    return said


class TestAgainstCounting:
    def test_predictors(self, world: World) -> None:
        for target in {world.largest, *sorted(world.scores)[:3]}:
            order, step = place(world, target)
            last: dict[int, str] = {}
            for name in sorted(world.scores, key=lambda n: place(world, n)):
                if place(world, name)[0] < order and place(world, name)[1] <= step:
                    last[place(world, name)[0]] = name
            found = ask(world, "predictors", **({} if target == world.largest else {"target": target}))
            assert [(row["unit"], row["predictor"]) for row in found] == [
                (unit, last[o]) for unit in units(world) for o in sorted(last)
            ]
            for row in found:
                assert row["target"] == target
                same(row, predicted(world, row["predictor"], target, row["unit"]))
                assert row["training_flops"] == flops(world, row["predictor"])
                if flops(world, target):
                    assert row["flops_share"] == flops(world, row["predictor"]) / flops(world, target)
                # The four are linked.
                if row["precision"] and row["recall_seen"]:
                    assert row["precision"] / row["recall_seen"] == pytest.approx(
                        row["target_memorized_seen"] / row["predictor_memorized"]
                    )

    def test_checkpoints(self, world: World) -> None:
        target = world.largest
        order, step = place(world, target)
        names = [
            n
            for n in sorted(world.scores, key=lambda n: place(world, n))
            if n != target and place(world, n)[0] <= order and place(world, n)[1] <= step
        ]
        found = ask(world, "checkpoints")
        assert [(row["unit"], row["predictor"]) for row in found] == [
            (u, n) for u in units(world) for n in names
        ]
        for row in found:
            same(row, predicted(world, row["predictor"], target, row["unit"]))

    @pytest.mark.parametrize("which", ["default", "early"])
    def test_equicompute(self, world: World, which: str) -> None:
        """From an early target, later checkpoints of smaller models are candidates too."""
        early = min(
            world.scores, key=lambda n: (not world.checkpoints[n].step, -place(world, n)[0], place(world, n))
        )
        target = world.largest if which == "default" else early
        shares = [0.003, 0.05, 0.4, 1.0, 7.0]
        found = ask(world, "equicompute", target=target, budgets=", ".join(map(str, shares)))
        if not flops(world, target):
            return
        others = [n for n in world.scores if n != target]
        for unit in units(world) if others else []:
            all_ = {n: predicted(world, n, target, unit) for n in others}
            able = [n for n in others if all_[n]["recall_corpus"] is not None]
            frontier = [
                n
                for n in able
                if all_[n]["recall_corpus"] > 0
                and not any(
                    flops(world, o) <= flops(world, n)
                    and all_[o]["recall_corpus"] >= all_[n]["recall_corpus"]
                    and (flops(world, o), -all_[o]["recall_corpus"])
                    != (flops(world, n), -all_[n]["recall_corpus"])
                    for o in able
                )
            ]
            rows = [row for row in found if row["unit"] == unit]
            budget = [row for row in rows if row["answer"] == "budget"]
            assert [row["budget_share"] for row in budget] == shares
            for row in budget:
                cheap = [n for n in able if flops(world, n) / flops(world, target) <= row["budget_share"]]
                best = min(
                    cheap,
                    key=lambda n: (-all_[n]["recall_corpus"], flops(world, n), place(world, n)),
                    default=None,
                )
                assert row["predictor"] == best
                if best is not None:
                    same(row, {k: v for k, v in all_[best].items() if k in row})
                    assert row["on_frontier"] == (best in frontier)
            assert [row["predictor"] for row in rows if row["answer"] == "frontier"] == sorted(
                frontier, key=lambda n: (flops(world, n), place(world, n))
            )
        assert len({row["unit"] for row in found}) == (len(units(world)) if others else 0)

    def test_counts(self, world: World) -> None:
        found = {row["checkpoint"]: row for row in ask(world, "counts")}
        assert list(found) == sorted(world.scores, key=lambda n: place(world, n))
        for name, row in found.items():
            seen = {i for i in world.scores[name] if i < world.seen(name)}
            memorized = world.memorized(name)
            low, high = wilson(ratio(len(memorized & seen), len(seen)), effective(seen, world.windows))
            later = {i for i in world.scores[name] if world.seen(name) <= i < world.trained}
            control = {i for i in world.scores[name] if i >= world.trained}
            same(
                row,
                {
                    "sequences": len(seen),
                    "sequences_memorized": len(memorized & seen),
                    "sequences_share": ratio(len(memorized & seen), len(seen)),
                    "sequences_share_low": low,
                    "sequences_share_high": high,
                    "unseen": len(later),
                    "unseen_memorized": len(later & memorized),
                    "control": len(control),
                    "control_memorized": len(control & memorized),
                },
            )
            if not world.windows:
                assert row["windows"] is None
                assert row["windows_share"] is None
                continue
            windows = {world.windows[i] for i in seen}
            full = {world.windows[i] for i in memorized & seen}
            low, high = wilson(ratio(len(full), len(windows)), len(windows))
            same(
                row,
                {
                    "windows": len(windows),
                    "windows_memorized": len(full),
                    "windows_share_low": low,
                    "windows_share_high": high,
                },
            )

    def test_distribution(self, world: World) -> None:
        names = sorted(world.scores, key=lambda n: place(world, n))
        asked = {"checkpoints": ",".join(names)} if len(names) % 2 else {}
        if not asked:
            names = list({place(world, n)[0]: n for n in names}.values())
        expected = {}
        for name in names:
            for measure, which in (("matches", 0), ("matched_prefix", 1)):
                samples: dict[str, list[int]] = {}
                for i, pair in world.scores[name].items():
                    if pair[which] is not None:
                        sample = (
                            "control" if i >= world.trained else "seen" if i < world.seen(name) else "unseen"
                        )
                        samples.setdefault(sample, []).append(i)
                for sample, ids in samples.items():
                    for score in range(33):
                        hit = [i for i in ids if world.scores[name][i][which] == score]
                        windows = len({world.windows[i] for i in hit}) if world.windows else None
                        expected[name, measure, sample, score] = (len(hit), len(hit) / len(ids), windows)
        found = ask(world, "distribution", **asked)
        assert {
            (r["checkpoint"], r["measure"], r["sample"], r["score"]): (
                r["sequences"],
                r["share"],
                r["windows"],
            )
            for r in found
        } == expected
        assert list(dict.fromkeys(row["checkpoint"] for row in found)) == names

    def test_correlation(self, world: World) -> None:
        names = sorted(world.scores, key=lambda n: place(world, n))
        found = ask(world, "correlation", checkpoints=" ".join(names))
        expected = {}
        for unit in units(world):
            scores: dict[str, dict[int, tuple[int | None, int | None]]] = {}
            for name in names:
                seen = {i: s for i, s in sorted(world.scores[name].items()) if i < world.seen(name)}
                if unit == "windows":
                    by_window: dict[int, tuple[int | None, int | None]] = {}
                    for i, s in seen.items():
                        by_window.setdefault(world.windows[i], s)
                    seen = by_window
                scores[name] = seen
            for x, first in enumerate(names):
                for second in names[x + 1 :]:
                    common = sorted(scores[first].keys() & scores[second].keys())
                    if common:
                        pairs = [(scores[first][k], scores[second][k]) for k in common]
                        expected[unit, first, second] = pairs
        assert {(r["unit"], r["first"], r["second"]) for r in found} == set(expected)
        for row in found:
            pairs = expected[row["unit"], row["first"], row["second"]]
            assert row["n"] == len(pairs)
            for column, which in (("pearson_matches", 0), ("pearson_matched_prefix", 1)):
                same(row, {column: pearson([(a[which], b[which]) for a, b in pairs])})
            full = [tuple(32 in (s if s[1] is None else s[1:]) for s in pair) for pair in pairs]
            same(
                row,
                {
                    "phi": pearson([(int(a), int(b)) for a, b in full]),
                    "first_memorized": sum(a for a, _ in full),
                    "second_memorized": sum(b for _, b in full),
                    "both_memorized": sum(a and b for a, b in full),
                },
            )

    @pytest.mark.parametrize(("seed", "mode"), [(0, "score"), (1, "extract"), (3, "imported")])
    def test_plain_duckdb_gives_exactly_the_same(self, seed: int, mode: str, tmp_path: Path) -> None:
        world = random_world(tmp_path, seed, mode)
        file = write_catalog(world.path, tmp_path / "c.duckdb")
        target = sorted(world.scores)[0]
        settings = {"target": f"'{target}'", "budgets": "[0.1, 2]", "checkpoints": f"['{target}']"}
        with connect(world.path) as live:
            for names in ((), ("target", "budgets", "checkpoints")):
                for query in map(find_query, CORE):
                    declared = {p.name for p in query.parameters} & set(names)
                    result = run_query(
                        live, query, {n: settings[n].strip("'[]") for n in declared}, world.path
                    )
                    with duckdb.connect(str(file), read_only=True) as db:
                        for name in declared:
                            db.execute(f"SET VARIABLE {name} = {settings[name]}")
                        plain = db.execute(query.sql)
                        assert [c[0] for c in result.description] == [c[0] for c in plain.description]
                        assert result.fetchall() == plain.fetchall(), query.name


def test_the_random_stores_hold_the_hard_cases(tmp_path: Path) -> None:
    """What the comparisons above are worth: all these must occur in their stores."""
    seen = Counter[str]()
    for seed, mode in SEEDS:
        world = random_world(tmp_path / str(seed), seed, mode)
        for name, scores in world.scores.items():
            memorized = world.memorized(name)
            seen["memorizes nothing"] += not memorized and len(scores) > 20
            seen["memorizes something"] += len(memorized) > 5
            seen["unseen but memorized"] += any(world.seen(name) <= i < world.trained for i in memorized)
            seen["control memorized"] += any(i >= world.trained for i in memorized)
            seen["not in blocks of 64"] += world.seen(name) % 64 != 0
            windows = (
                Counter(world.windows[i] for i in memorized if i < world.seen(name)) if world.windows else {}
            )
            seen["memorized twice"] += any(n > 1 for n in windows.values())
            seen["step 0"] += world.seen(name) == 0
        seen["missing checkpoints"] += len(world.scores) < len(world.suite.all_checkpoints())
        seen["sampled"] += bool(world.windows) and len(world.windows) < world.trained
        seen["gaps"] += any(
            len(s) < sum(i < world.seen(n) for i in world.windows) for n, s in world.scores.items()
        )
    assert all(seen.values()), seen
    assert min(seen.values()) >= 2, seen


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """The command line's entry point, in this process (a start of Python a call would take minutes)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str | Path, code: int = 0) -> SimpleNamespace:
        monkeypatch.setattr(sys, "argv", ["memoserve", *map(str, arguments)])
        capfd.readouterr()
        left: object = 0
        try:
            main()
        except SystemExit as exit_:
            left = exit_.code or 0
        said = capfd.readouterr()
        assert left == code, said
        return SimpleNamespace(stdout=said.out, stderr=said.err)

    return call


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One store by hand: 12b@7 memorized 0..9, 70m@7 memorized 5..7 and 100; nothing repeats."""
    folder = tmp_path_factory.mktemp("shop")
    suite = toy_suite(folder, models=("70m", "12b"), steps=(3, 7), batch=20, trained=140, control=10)
    world = World(folder / "memoserve-out", suite)
    store = Store.create(world.path)
    store.claim(suite, {"suite": "toy", "mode": "extract", "engine": "vllm", "dtype": "float32"})
    store.write_sequences("toy", 0, 150, np.arange(150), np.arange(150))
    for model, full in ((0, [5, 6, 7, 100]), (1, range(10))):
        prefix = np.zeros(150, np.uint8)
        prefix[list(full)] = 32
        score = SimpleNamespace(matched_prefix=prefix, match_mask=None, continuation_ll=None)
        store.write_scores(suite.checkpoint(suite.models[model], 7), 0, 150, np.arange(150), score, "w")
    return world


class TestCommands:
    def test_predictors(self, cli: Cli, shop: World) -> None:
        said = cli("query", "predictors", shop.path, "--format", "csv").stdout
        rows = list(csv.DictReader(io.StringIO(said)))
        assert [row["unit"] for row in rows] == ["sequences", "windows"]
        for row in rows:
            assert (row["target"], row["predictor"]) == ("12b@7", "70m@7")
            assert (float(row["precision"]), float(row["recall_corpus"])) == (0.75, 0.3)
            assert float(row["f1"]) == pytest.approx(6 / 14)
            assert row["evaluated_both"] == "140"

    def test_formats_agree(self, cli: Cli, shop: World, tmp_path: Path) -> None:
        for name in ("counts", "equicompute"):
            rows = json.loads(cli("query", name, shop.path, "--format", "json").stdout)
            cli("query", name, shop.path, "--format", "parquet", "-o", tmp_path / "x.parquet")
            assert pq.read_table(tmp_path / "x.parquet").to_pylist() == rows
            table = list(csv.DictReader(io.StringIO(cli("query", name, shop.path, "-f", "csv").stdout)))
            assert [
                {k: "" if v is None else str(v).replace("True", "true") for k, v in row.items()}
                for row in rows
            ] == [{k: v.replace("True", "true") for k, v in row.items()} for row in table]
            markdown = cli("query", name, shop.path, "-f", "markdown").stdout.splitlines()
            assert len(markdown) == len(rows) + 2
            assert len({line.count("|") for line in markdown}) == 1
            plain = cli("query", name, shop.path).stdout.splitlines()
            assert plain[0].split() == list(rows[0])
            assert len(plain) == len(rows) + 1

    def test_options_stand_anywhere(self, cli: Cli, shop: World) -> None:
        expected = cli("query", "predictors", shop.path, "--target", "12b@7", "-f", "csv").stdout
        for arguments in (
            ("--target", "12b@7", "predictors", shop.path, "-f", "csv"),
            ("predictors", "--target=12b@7", "-f", "csv", shop.path),
        ):
            assert cli("query", *arguments).stdout == expected

    def test_the_default_store(self, cli: Cli, shop: World, tmp_path: Path) -> None:
        (tmp_path / "memoserve-out").symlink_to(shop.path)
        assert "12b@7" in cli("query", "counts").stdout
        assert "12b@7" in cli("status").stdout
        assert cli("sql", "SELECT count(*) AS n FROM memorized").stdout.split() == ["n", "14"]

    def test_it_prints_the_file(self, cli: Cli, shop: World) -> None:
        for query in list_queries():
            assert cli("query", query.name, "--sql").stdout == query.sql
        listing = cli("query", "--list").stdout
        for query in list_queries():
            assert query.question in listing
            assert all(f"--{parameter.name} (" in listing for parameter in query.parameters)

    @pytest.mark.parametrize(
        ("arguments", "code", "says"),
        [
            (["predictor"], 3, "the queries are checkpoint"),
            (["predictors", "STORE", "--targets", "x"], 3, "its parameters are --suite, --target"),
            (["predictors", "STORE", "--target", "12b@3"], 3, "Evaluated: 70m@7, 12b@7"),
            (["predictors", "STORE", "--target"], 3, "lacks its value"),
            (["predictors", "STORE", "--target", "a", "--target", "b"], 3, "given twice"),
            (["predictors", "STORE", "--suite", "pythia"], 3, "it holds toy"),
            (["equicompute", "STORE", "--budgets", "some"], 3, "numbers separated by commas"),
            (["equicompute", "STORE", "--budgets", "nan"], 3, "numbers separated by commas"),
            (["distribution", "STORE", "--checkpoints", "70m@7,nope"], 3, "no such checkpoint"),
            (["distribution", "STORE", "--checkpoints", "'); DROP"], 3, "no such checkpoint"),
            (["predictors", "nowhere"], 4, "there is no store at nowhere"),
            (["predictors", "STORE", "more"], 3, "one query and one store"),
            (["predictors", "STORE", "-x"], 3, "no option"),
        ],
    )
    def test_mistakes_are_explained(
        self, cli: Cli, shop: World, arguments: list[str], code: int, says: str
    ) -> None:
        arguments = [str(shop.path) if a == "STORE" else a for a in arguments]
        result = cli("query", *arguments, code=code)
        assert says in result.stderr
        assert result.stdout == ""

    def test_an_empty_store(self, cli: Cli, tmp_path: Path) -> None:
        Store.create(tmp_path / "memoserve-out")
        assert cli("query", "predictors", "-f", "json").stdout == "[]\n"
        assert "nothing in it yet" in cli("status").stdout
        assert "Evaluated: nothing yet" in cli("query", "predictors", "--target", "a@1", code=3).stderr

    def test_sql(self, cli: Cli, shop: World, tmp_path: Path) -> None:
        said = cli(
            "sql", "SELECT 1.5 AS a, NULL AS b, [1, 2] AS c, 'x|y' AS d", shop.path, "-f", "json"
        ).stdout
        assert json.loads(said) == [{"a": 1.5, "b": None, "c": [1, 2], "d": "x|y"}]
        assert "\\|" in cli("sql", "SELECT 'x|y' AS d", shop.path, "-f", "markdown").stdout
        error = cli("sql", f"COPY scores TO '{tmp_path}/x.csv'", shop.path, code=3).stderr
        assert "COPY is refused" in error
        assert not (tmp_path / "x.csv").exists()

    def test_output_is_whole_or_absent(self, cli: Cli, shop: World, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("kept")
        assert "could not be written" in cli(
            "query", "counts", shop.path, "-o", tmp_path / "file" / "x.csv", code=7
        ).stderr  # fmt: skip
        cli("query", "counts", shop.path, "-f", "csv", "-o", tmp_path / "deep" / "x.csv")
        assert (tmp_path / "deep" / "x.csv").read_text().startswith("checkpoint,step")

    def test_catalog(self, cli: Cli, shop: World, tmp_path: Path) -> None:
        assert "catalog.duckdb" in cli("catalog", shop.path).stdout
        with duckdb.connect(str(shop.path / "catalog.duckdb"), read_only=True) as db:
            assert db.execute("SELECT count(*) FROM memorized").fetchone() == (14,)
        cli("catalog", shop.path, "--embed", "-o", tmp_path / "one.duckdb")
        assert (tmp_path / "one.duckdb").exists()

    def test_status(self, cli: Cli, shop: World) -> None:
        said = cli("status", shop.path).stdout
        assert "mode extract, engine vllm, dtype float32" in said
        assert "2 of 4 checkpoints have scores" in said
        found = json.loads(cli("status", shop.path, "--format", "json").stdout)
        assert found["suites"][0]["checkpoints"][1] == {
            "checkpoint": "12b@7",
            "parts": 1,
            "first": 0,
            "last": 149,
            "evaluated": 150,
            "sequences_seen": 140,
            "memorized": 10,
            "control_memorized": 0,
        }

    def test_a_terminal_of_110_columns_gets_a_table_that_fits(self, shop: World) -> None:
        for name in ("predictors", "counts"):
            leader, follower = pty.openpty()
            process = subprocess.Popen(
                [sys.executable, "-m", "memoserve", "query", name, str(shop.path)],
                stdout=follower, env={**os.environ, "COLUMNS": "110", "NO_COLOR": "1", "TERM": "xterm"},
            )  # fmt: skip
            os.close(follower)
            said = b""
            while True:
                try:
                    chunk = os.read(leader, 65536)
                except OSError:
                    break
                if not chunk:
                    break
                said += chunk
            os.close(leader)
            assert process.wait() == 0
            text = re.sub(r"\x1b\[[0-9;]*m", "", said.decode())
            assert max(len(line.rstrip()) for line in text.splitlines()) <= 110
            assert "70m@7" in text
            assert "…" not in text

    def test_unknown_connection_state_is_reset(self, shop: World) -> None:
        with connect(shop.path) as db:
            query = find_query("predictors")
            assert run_query(db, query, {"target": "70m@7"}, shop.path).fetchall() == []
            assert len(run_query(db, query, {}, shop.path).fetchall()) == 2
            with pytest.raises(BadInput):
                run_query(db, query, {"target": "70m@3"}, shop.path)
