"""The endpoints that read, through real HTTP against a real `memoserve serve`."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import duckdb
import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import Cli
from random_stores import toy_suite
from serving import Server, mini_store, serving
from sql_statements import LOADS_OR_SETS, READS_ELSEWHERE, WRITES, fingerprints

import memoserve.__main__
from memoserve.catalog import connect, execute
from memoserve.queries import list_queries
from memoserve.report import CHARTS
from memoserve.serve.answers.pool import ReaderPool, Reply, Workspace
from memoserve.serve.settings import Settings
from memoserve.store import Store
from memoserve.suites import load_suite

pytestmark = pytest.mark.thorough

TARGET = "1.2m@1001"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(mini_store(tmp_path_factory.mktemp("served") / "store"), "--seconds", "120") as one:
        yield one


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(mini_store(tmp_path_factory.mktemp("impatient") / "store", 500), "--seconds", "8") as one:
        yield one


# What is there


def test_the_store_and_its_checkpoints(server: Server) -> None:
    store = server.get("store")
    assert store["name"] == "store"
    assert [suite["suite"] for suite in store["suites"]] == ["mini"]
    assert store["suites"][0]["scores"] == 3 * 1500
    assert store["suites"][0]["evaluated_checkpoints"] == 3
    assert store["synthetic"] is True
    assert store["read_only"] is False
    answer = server.get("checkpoints", suite="mini")
    names = [column["name"] for column in answer["columns"]]
    rows = {row[names.index("checkpoint")]: dict(zip(names, row, strict=True)) for row in answer["rows"]}
    assert len(rows) == 28
    assert rows[TARGET]["wanted"] == 32_032
    assert rows[TARGET]["missing"] == 32_032 - 1500
    assert rows["281k@161"]["missing"] == rows["281k@161"]["wanted"] == 161 * 32
    assert "mini" in server.get("checkpoints", 400, suite="zork")["error"]


def test_suites(server: Server) -> None:
    listed = {suite["name"]: suite for suite in server.get("suites")}
    assert {"mini", "pythia", "pythia-deduped"} <= set(listed)
    assert listed["mini"]["checkpoints"] == 28
    mini = server.get("suites/mini")
    assert [model["name"] for model in mini["models"]] == ["116k", "281k", "532k", "1.2m"]
    assert mini["sequences"]["trained"] == 32_032
    assert server.get("suites/pythia")["sequences"]["needs_data"]
    assert "zork" in server.get("suites/zork", 404)["error"]


def test_queries_and_plots_are_listed(server: Server) -> None:
    listed = server.get("queries")
    assert [one["name"] for one in listed] == [query.name for query in list_queries()]
    assert all(one["sql"] and one["title"] and one["columns"] for one in listed)
    assert [plot["name"] for plot in server.get("plots")] == [chart.name for chart in CHARTS]


@pytest.mark.parametrize("name", [query.name for query in list_queries()])
def test_every_query_gives_what_the_command_line_gives(server: Server, name: str) -> None:
    answer = server.client.get(f"/api/queries/{name}")
    if answer.status_code == 400:  # this store has nothing to say to it: neither does the command line
        assert answer.json()["error"]
        return
    assert answer.status_code == 200, answer.text
    got = answer.json()
    with connect(server.store) as db:
        from memoserve.catalog import run_query
        from memoserve.queries import find_query

        result = run_query(db, find_query(name), {}, server.store)
        names = [column[0] for column in result.description]
        expected = result.fetchall()
    assert [column["name"] for column in got["columns"]] == names
    assert len(got["rows"]) == len(expected)
    for row, want in zip(got["rows"], expected, strict=True):
        for cell, value in zip(row, want, strict=True):
            assert cell == value or str(cell) == str(value) or cell == pytest.approx(float(value))
    assert got["sql"] == find_query(name).sql


def test_a_query_with_parameters_in_every_format(server: Server) -> None:
    asked: dict[str, Any] = {"target": TARGET}
    table = server.get("queries/predictors", **asked)
    assert table["values"] == asked
    columns = [column["name"] for column in table["columns"]]
    rows = table["rows"]
    assert rows

    def fetched(form: str) -> httpx.Response:
        answer = server.client.get("/api/queries/predictors", params={**asked, "format": form})
        assert answer.status_code == 200
        assert f'filename="predictors.{form}"' in answer.headers["content-disposition"]
        return answer

    arrow = pa.ipc.open_stream(fetched("arrow").content).read_all()
    parquet = pq.read_table(io.BytesIO(fetched("parquet").content))
    assert arrow.equals(parquet)
    assert arrow.column_names == columns
    assert [list(row.values()) for row in arrow.to_pylist()] == rows
    text = fetched("csv")
    assert text.headers["content-type"] == "text/csv; charset=utf-8"
    lines = list(csv.reader(io.StringIO(text.text)))
    assert lines[0] == columns
    assert [[str(cell) if cell is not None else "" for cell in row] for row in rows] == lines[1:]


def test_what_is_cut_says_so(server: Server) -> None:
    sql = "SELECT range AS i FROM range(50000)"
    assert server.post("sql", {"sql": sql})["truncated"]
    assert len(server.post("sql", {"sql": sql})["rows"]) == 10_000
    whole = server.post("sql", {"sql": sql, "limit": 50_000})
    assert not whole["truncated"]
    assert len(whole["rows"]) == 50_000
    for form in ("csv", "parquet", "arrow"):
        cut = server.client.post("/api/sql", json={"sql": sql, "format": form, "limit": 9000})
        assert cut.headers["x-memoserve-truncated"] == "true"
        whole = server.client.post("/api/sql", json={"sql": sql, "format": form, "limit": 50_000})
        assert "x-memoserve-truncated" not in whole.headers
    table = pq.read_table(
        io.BytesIO(
            server.client.post("/api/sql", json={"sql": sql, "format": "parquet", "limit": 9000}).content
        )
    )
    assert table.column("i").to_pylist() == list(range(9000))


def test_numbers_a_browser_would_round_are_text(server: Server) -> None:
    answer = server.post(
        "sql",
        {"sql": "SELECT 9007199254740993::BIGINT, 'nan'::DOUBLE, [1, 1::BIGINT << 60], 1.5::DECIMAL(4, 1)"},
    )
    assert answer["rows"] == [["9007199254740993", None, [1, str(1 << 60)], 1.5]]


def test_wrong_names_and_parameters(server: Server) -> None:
    assert "predictors" in server.get("queries/zork", 404)["error"]
    assert "no parameter 'zork'" in server.get("queries/predictors", 400, zork="1")["error"]
    assert "Evaluated" in server.get("queries/predictors", 400, target="zork@1")["error"]
    assert "twice" in server.client.get("/api/queries/predictors?target=a&target=b").json()["error"]
    assert "limit" in server.get("queries/predictors", 422, limit=0)["error"]
    assert "format" in server.get("queries/predictors", 422, format="xml")["error"]
    assert "zork" in server.get("plots/zork", 404)["error"]
    assert "/api/zork" in server.get("zork", 404)["error"]
    assert server.client.delete("/api/store", headers={"content-type": "application/json"}).status_code == 405
    assert "sql" in server.post("sql", {}, 422)["error"]
    assert "syntax error" in server.post("sql", {"sql": "SELEKT 1"}, 400)["error"]


@pytest.mark.parametrize("name", [chart.name for chart in CHARTS])
def test_every_plot(server: Server, name: str) -> None:
    answer = server.client.get(f"/api/plots/{name}")
    if answer.status_code == 400:
        assert answer.json()["error"]
        return
    spec = answer.json()
    assert spec["$schema"].endswith("/v6.json")
    assert spec["data"]["values"]


def test_recommendations_are_those_of_the_command_line(server: Server, cli: Cli) -> None:
    got = server.get("recommend", budget="50%", target=TARGET)
    said = json.loads(cli("recommend", server.store, "--budget", "50%", "--format", "json").stdout)
    names = [column["name"] for column in got["columns"]]
    assert [dict(zip(names, row, strict=True)) for row in got["rows"]] == said
    assert got["sentences"]
    grid = server.get("recommend/grid", target=TARGET)
    assert [column["name"] for column in grid["columns"]] == names
    assert "budget (such as 10%)" in server.get("recommend", 400)["error"]
    assert "FLOPs" in server.get("recommend", 400, budget="lots")["error"]


def test_answers_are_those_of_the_store_as_it_is(tmp_path: Path) -> None:
    """What readers keep between questions, and what is remembered, never outlives what it was made from."""
    folder = tmp_path / "suites"
    folder.mkdir()
    store = Store.create(tmp_path / "store")
    suite = load_suite("mini")
    sql = {"sql": "SELECT count(*), count(*) FILTER (matched_prefix = 32) FROM scores"}

    def write(first: int, prefix: int) -> None:
        ids = np.arange(first, first + 10, dtype=np.int64)
        matches = SimpleNamespace(
            matched_prefix=np.full(10, prefix, np.uint8), match_mask=None, matches=None, continuation_ll=None
        )
        store.write_scores(suite.checkpoint(suite.models[0], 161), first, first + 10, ids, matches, "weights")
        time.sleep(0.6)  # how long a look at the store counts

    with serving(Path(store.path), "--suites", str(folder), "--readers", "1") as server:
        assert server.post("sql", sql)["rows"] == [[0, 0]]
        assert server.get("store")["suites"] == []
        store.claim(suite, {"suite": "mini", "mode": "extract", "engine": "synthetic"})
        write(0, 32)
        assert server.post("sql", sql)["rows"] == [[10, 10]]
        write(10, 5)
        assert server.post("sql", sql)["rows"] == [[20, 10]]
        assert server.get("store")["suites"][0]["scores"] == 20
        part = sorted(Path(store.path).glob("scores/*/*/*/*.parquet"))[0]
        part.unlink()
        write(0, 7)
        assert server.post("sql", sql)["rows"] == [[20, 0]]
        # What fails leaves nothing behind; a variable is one question's.
        assert "syntax" in server.post("sql", {"sql": "SELEKT"}, 400)["error"]
        assert server.post("sql", {"sql": "SET VARIABLE n = 3; SELECT getvariable('n')"})["rows"] == [[3]]
        assert server.post("sql", {"sql": "SELECT getvariable('n')"})["rows"] == [[None]]
        draw = {"sql": "SELECT random()"}
        assert server.post("sql", draw)["rows"] != server.post("sql", draw)["rows"]
        # So with suites that the operator adds.
        assert "ours" not in {one["name"] for one in server.get("suites")}
        toy_suite(folder / "ours", models=("s",), steps=(1,), batch=10, trained=20)
        time.sleep(0.6)
        assert "ours" in {one["name"] for one in server.get("suites")}


def _put_a_file_for_the_scores(store: Path) -> None:
    shutil.rmtree(store / "scores")
    (store / "scores").write_text("")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a part": lambda store: next(store.glob("scores/*/*/*/part-*.parquet")).write_bytes(b"PAR1"),
    "its mark": lambda store: (store / "memoserve.json").write_text("{"),
    "its fingerprint": lambda store: next(store.glob("suites/*/fingerprint.json")).write_text("{}"),
    "a file for a folder": _put_a_file_for_the_scores,
    "the queue": lambda store: (store / "serve" / "runs.sqlite").write_bytes(b"not a database" * 500),
    "everything": shutil.rmtree,
}
ASKED = (
    "store", "suites", "checkpoints", "checkpoints?suite=mini", "queries/predictors", "plots/predictors",
    "queries/predictors?format=csv", "recommend?budget=50%25", "recommend/grid", "text", "text?search=x",
    "runs", "runs/1", "runs/1/log", "runs/1/events",
)  # fmt: skip


def test_a_store_that_is_damaged_or_gone_is_said_and_mended_is_answered(tmp_path: Path) -> None:
    """Underneath a running server: no defect, no log full of the same, and no need to start it again."""
    store, whole = mini_store(tmp_path / "store", 300), tmp_path / "whole"
    with serving(store, "--seconds", "60") as server:
        server.get("store")
        server.get("text")
        shutil.copytree(store, whole)
        for what, damage in DAMAGES.items():
            damage(store)
            time.sleep(0.6)  # how long a look at the store counts
            answers = {path: server.client.get(f"/api/{path}") for path in ASKED}
            answers["sql"] = server.client.post("/api/sql", json={"sql": "SELECT count(*) FROM scores"})
            answers["submit"] = server.client.post("/api/runs", json={"checkpoints": "116k@161"})
            codes = {path: answer.status_code for path, answer in answers.items()}
            assert set(codes.values()) <= {200, 201, 400, 404, 409, 503}, (what, codes)
            assert any(code in {400, 409, 503} for code in codes.values()), (what, codes)
            said = {answer.json()["error"] for answer in answers.values() if answer.status_code >= 400}
            assert all("defect" not in error and "Traceback" not in error for error in said), (what, said)
            shutil.rmtree(store, ignore_errors=True)
            shutil.copytree(whole, store)
            time.sleep(0.6)
            assert server.get("queries/predictors")["rows"], what
            assert server.get("runs") == []
            assert server.get("text")["total"] > 0
        assert server.stderr().count("Traceback") <= 4 * len(DAMAGES)


def fails(workspace: Workspace) -> Reply:
    raise ZeroDivisionError(f"in {workspace.threads}")


def test_what_is_unexpected_in_a_reader_brings_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback doesn't cross to another process by itself; the server's log has to have it."""
    # A reader starts from the main module, as the server's; that of a process of pytest has no file.
    monkeypatch.setattr(sys.modules["__main__"], "__file__", memoserve.__main__.__file__, raising=False)
    Store.create(tmp_path / "store")
    readers = ReaderPool(Settings(tmp_path / "store"))

    async def ask() -> None:
        with pytest.raises(ZeroDivisionError) as raised:
            await readers.ask(fails)
        assert re.search(r"in fails\n.*raise ZeroDivisionError", "".join(raised.value.__notes__))

    try:
        anyio.run(ask)
    finally:
        readers.close()


# Text


def test_text_of_every_cell(server: Server, cli: Cli) -> None:
    total = 0
    for cell in ("memorized", "hit", "miss", "false_alarm"):
        got = server.get("text", cell=cell, predictor="532k@1001", target=TARGET, limit=3, redact="false")
        option = cell.replace("_", "-")
        arguments = ("--predictor", "532k@1001", "--cell", option, "--limit", "3", "--format", "json")
        said = json.loads(cli("show", server.store, *arguments).stdout)
        assert [row["sequence_id"] for row in got["rows"]] == [one["sequence_id"] for one in said]
        assert [row["context"] for row in got["rows"]] == [one["context"] for one in said]
        texts = ["".join(piece["text"] for piece in row["pieces"]) for row in got["rows"]]
        assert texts == [one["continuation"] for one in said]
        assert all(piece["match"] for row in got["rows"] for piece in row["pieces"]) == (
            cell in {"memorized", "hit"} or not got["rows"]
        )
        total += got["total"] if cell in {"hit", "miss"} else 0
    assert total == server.get("text", target=TARGET)["total"] > 10


def test_text_is_paged_and_searched(server: Server) -> None:
    first = server.get("text", limit=10)
    second = server.get("text", limit=5, offset=5)
    assert second["rows"] == first["rows"][5:10]
    word = "self"
    found = server.get("text", search=word.upper(), limit=500, redact="false")
    everything = [
        row
        for offset in range(0, first["total"], 500)
        for row in server.get("text", limit=500, offset=offset, redact="false")["rows"]
    ]
    holding = [
        row
        for row in everything
        if word in (row["context"] + "".join(p["text"] for p in row["pieces"])).casefold()
    ]
    assert len(everything) == first["total"] == found["windows"] == found["searched"]
    assert found["rows"] == holding[:500]
    assert found["total"] == len(holding) > 0
    assert server.get("text", search="no window has this")["total"] == 0
    assert "predictor" in server.get("text", 400, cell="miss")["error"]


HOSTILE = '</script><script>alert(1)</script><img src=x onerror=alert(2)> me@example.com ‮ \x00 {{7*7}} "'


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A suite of an operator's own, whose every window is hostile text."""
    folder = tmp_path_factory.mktemp("hostile")
    suites = folder / "suites"
    toy = toy_suite(suites, models=("s", "m"), steps=(1, 2), batch=10, trained=20)
    mini = Path("memoserve/suites/shipped/mini")
    tokenizer = next((Path(__file__).parents[2] / mini).rglob("tokenizer.json"))
    lines = [json.dumps({"text": f"{i} {HOSTILE * 12}"}) for i in range(40)]
    (suites / "texts.jsonl").write_text("\n".join(lines) + "\n")
    text = toy.file.read_text().replace(
        "[sequences]", f'[sequences]\npath = "texts.jsonl"\ntokenizer = "{tokenizer}"'
    )
    (suites / "suite.toml").unlink()
    (suites / "toy.toml").write_text(text)
    from memoserve.sequences import open_sequences

    suite = load_suite(suites / "toy.toml")
    source = open_sequences(str(suite.sequences.path), suite.sequences.tokenizer)
    store = Store.create(folder / "store")
    identity = {f"sequences_{key}": value for key, value in source.identity().items()}
    store.claim(suite, {"suite": "toy", **identity})
    for checkpoint in suite.all_checkpoints():
        ids = np.arange(40, dtype=np.int64)
        full = np.full(40, 32, np.uint8)
        matches = SimpleNamespace(matched_prefix=full, match_mask=None, matches=None, continuation_ll=None)
        store.write_scores(checkpoint, 0, 40, ids, matches, "weights")
    with serving(Path(store.path), "--suites", str(suites)) as one:
        yield one


def test_hostile_text_stays_text_and_is_masked(hostile: Server) -> None:
    answer = hostile.client.get("/api/text", params={"redact": "false"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    row = answer.json()["rows"][0]
    whole = row["context"] + "".join(piece["text"] for piece in row["pieces"])
    assert "<script>alert(1)</script>" in whole
    masked = hostile.get("text")
    assert masked["redacted"]
    for row in masked["rows"]:
        assert "me@example" not in row["context"] + "".join(piece["text"] for piece in row["pieces"])
    assert hostile.get("text", search="<SCRIPT>")["total"] > 0
    assert "toy" in {one["name"] for one in hostile.get("suites")}


# SQL


@pytest.mark.parametrize("statement", READS_ELSEWHERE + WRITES + LOADS_OR_SETS)
def test_hostile_sql_is_refused_and_changes_nothing(server: Server, statement: str) -> None:
    part = next((server.store / "scores").rglob("*.parquet"))
    secret = server.store.parent / "secret.parquet"
    if not secret.exists():
        duckdb.sql(f"COPY (SELECT 42 AS secret) TO '{secret}'")
    before = {k: v for k, v in fingerprints(server.store.parent).items() if "runs.sqlite" not in k}
    asked = statement.format(store=server.store, outside=server.store.parent, part=part)
    answer = server.client.post("/api/sql", json={"sql": asked})
    assert answer.status_code == (400 if asked else 422), answer.text
    after = {k: v for k, v in fingerprints(server.store.parent).items() if "runs.sqlite" not in k}
    assert after == before


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT count(*) FROM range(100000000000) a, range(1000) b",
        "SELECT sum(list_sum(list_transform(range(999999 + i), lambda x: x * x % 7))) FROM range(9999) t(i)",
        "SELECT count(*) FROM scores a, scores b, scores c, scores d WHERE a.matches + b.matches <> c.step",
        "WITH RECURSIVE t AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM t) SELECT max(i) FROM t",
    ],
)
def test_sql_without_an_end_is_ended(impatient: Server, statement: str) -> None:
    began = time.monotonic()
    answer = impatient.client.post("/api/sql", json={"sql": statement})
    assert answer.status_code in {503, 413, 400}, answer.text
    assert time.monotonic() - began < 8 + 10  # the limit of eight seconds, and a busy machine
    assert "stopped" in answer.json()["error"] or "memory" in answer.json()["error"]
    deadline = time.monotonic() + 10
    assert impatient.process is not None
    while any(
        child.cpu_percent(0.2) > 50
        for child in psutil.Process(impatient.process.pid).children(recursive=True)
    ):
        assert time.monotonic() < deadline, "a reader goes on computing"
    assert impatient.post("sql", {"sql": "SELECT 1"})["rows"] == [[1]]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT length(repeat('x', 4000000000))",
        "SELECT list(i) FROM range(1000000000) t(i)",
        "SELECT string_agg(repeat('x', 1000000)) FROM range(100000)",
        "SELECT repeat('x', 100000000) FROM range(100)",
        "SELECT repeat('x', 1000000) FROM range(400)",
    ],
)
def test_sql_that_wants_all_memory_gets_none(impatient: Server, statement: str) -> None:
    assert impatient.process is not None
    answer = impatient.client.post("/api/sql", json={"sql": statement})
    assert answer.status_code in {400, 413, 503}, answer.text[:200]
    assert psutil.Process(impatient.process.pid).memory_info().rss < 400 << 20
    assert impatient.post("sql", {"sql": "SELECT 1"})["rows"] == [[1]]


VALUES = [
    *("INTERVAL '100000000 years'", "INTERVAL '178956970 years'", "INTERVAL '1 day'", "TIMETZ '10:00:00+02'"),
    *("TIMESTAMPTZ 'infinity'", "DATE '5877642-06-25 (BC)'", "'290309-12-22 (BC)'::TIMESTAMP", "uuid()"),
    *("'1-1-1'::DATE - '9999-1-1'::DATE", "TIMESTAMP_S '294247-01-10 04:00:54'", "TIME '24:00:00'", "chr(0)"),
    *("'1970-01-01'::TIMESTAMP_NS", "make_time(24, 0, 0.0)", "'\\xAA'::BLOB", "'101'::BIT", "'5'::VARIANT"),
    *(
        "1::BIGNUM",
        "1::DECIMAL(38, 3)",
        "170141183460469231731687303715884105727",
        "1e400",
        "NULL",
        "row(1, 2)",
    ),
    *("MAP {[1]: 2}", "union_value(n := 1)", "'x'::ENUM ('x')", "[{'a': [1, 'nan'::FLOAT]}]", "'{}'::JSON"),
    *("'POINT(0 0)'::GEOMETRY", "[1, 2]::INTEGER[2]", "[" * 150 + "]" * 150, "[" * 900 + "]" * 900),
    *("'<b>&\\u202e'", "lambda x: x", "$1", "?", "DEFAULT"),
]


@pytest.mark.parametrize("form", ["json", "csv", "parquet", "arrow"])
def test_any_value_is_answered_or_refused_in_words(server: Server, form: str) -> None:
    for value in VALUES:
        body = {"sql": f"SELECT {value} AS x, 1 AS x", "format": form}
        answer = server.client.post("/api/sql", json=body)
        assert answer.status_code in {200, 400}, (value[:40], answer.status_code, answer.text[:300])
    assert "Traceback" not in server.stderr()


def test_sql_answers_as_on_the_command_line(server: Server) -> None:
    statement = "SET VARIABLE n = 3; SELECT checkpoint, getvariable('n') FROM checkpoints ORDER BY 1 LIMIT 2"
    got = server.post("sql", {"sql": statement})
    with connect(server.store) as db:
        expected = execute(db, statement, server.store).fetchall()
    assert [tuple(row) for row in got["rows"]] == expected
    assert server.post("sql", {"sql": "SELECT getvariable('n')"})["rows"] == [[None]]


def test_many_readers_at_once_get_all_their_answers(server: Server) -> None:
    def read(place: int) -> int:
        path = ("store", "queries/predictors", "checkpoints", "plots")[place % 4]
        with httpx.Client(base_url=server.url, timeout=60) as client:
            answer = client.get(f"/api/{path}")
            return answer.status_code

    with ThreadPoolExecutor(30) as pool:
        codes = list(pool.map(read, range(60)))
    assert codes == [200] * 60


def test_the_document_describes_what_there_is(server: Server) -> None:
    document = server.get("openapi.json")
    assert document["openapi"].startswith("3.1")
    assert {"/api/store", "/api/sql", "/api/runs", "/api/runs/{id}/events", "/api/text"} <= set(
        document["paths"]
    )
    examples = json.dumps(document)
    assert '"examples"' in examples
    assert "1.2m@1001" in examples


def test_read_only(tmp_path: Path) -> None:
    store = mini_store(tmp_path / "store", 50)
    before = fingerprints(store)
    with serving(store, "--read-only") as server:
        assert server.get("store")["read_only"] is True
        assert server.get("runs") == []
        assert "read-only" in server.post("runs", {"suite": "mini"}, 403)["error"]
        assert "read-only" in server.get("runs/1", 403)["error"]
    assert fingerprints(store) == before


@pytest.mark.parametrize(
    ("arguments", "said", "code"),
    [
        (("--host", "0.0.0.0"), "token", 3),
        (("--suites", "nowhere"), "not a folder", 3),
        (("--read-only",), "no store", 4),
        (("--token-file", "nowhere"), "can't be read", 3),
    ],
)
def test_what_is_refused_at_the_start(cli: Cli, arguments: tuple[str, ...], said: str, code: int) -> None:
    assert said in cli("serve", "store", *arguments, code=code).stderr


def test_a_port_that_is_taken_is_said(server: Server, cli: Cli) -> None:
    result = cli("serve", server.store, "--port", str(server.port), code=3)
    assert "can't be listened on" in result.stderr
    assert "s3" in cli("serve", "s3://bucket/store", code=3).stderr


def test_a_store_behind_a_url_is_served_for_reading(tmp_path: Path, server: Server, cli: Cli) -> None:
    import fsspec
    from moto.server import ThreadedMotoServer

    bucket = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    bucket.start()
    host, port = bucket.get_host_and_port()
    env = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
    }
    try:
        system = fsspec.filesystem(
            "s3", key="test", secret="test", endpoint_url=env["AWS_ENDPOINT_URL"], skip_instance_cache=True
        )
        system.mkdir("served")
        for file in server.store.rglob("*"):
            if file.is_file() and "serve" not in file.parts[-2:]:
                system.pipe_file(f"served/store/{file.relative_to(server.store)}", file.read_bytes())
        assert "--read-only" in cli("serve", "s3://served/store", code=3).stderr
        with serving("s3://served/store", "--read-only", "--seconds", "120", env=env) as remote:
            assert remote.get("store") == server.get("store") | {"read_only": True}
            for path in ("checkpoints", "queries/predictors", "plots/predictors"):
                assert remote.get(path) == server.get(path), path
            texts: list[dict[str, Any]] = [{"cell": "memorized"}, {"search": "self", "redact": "false"}]
            for asked in texts:
                assert remote.get("text", **asked) == server.get("text", **asked)
            assert remote.get("recommend", budget="50%") == server.get("recommend", budget="50%")
            sql = {"sql": "SELECT count(*) FROM scores"}
            assert remote.post("sql", sql)["rows"] == server.post("sql", sql)["rows"]
            assert remote.client.post("/api/sql", json={"sql": "FROM 's3://served/x.csv'"}).status_code == 400
            assert "read-only" in remote.post("runs", {"suite": "mini"}, 403)["error"]
    finally:
        bucket.stop()


def test_short_and_open_tokens_are_refused(cli: Cli, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("short\n")
    os.chmod(token, 0o600)
    assert "16" in cli("serve", "store", "--token-file", token, code=3).stderr
    os.chmod(token, 0o644)
    assert "chmod 600" in cli("serve", "store", "--token-file", token, code=3).stderr
