"""What strangers send: SQL, stores, weights. (Their files are in test_fuzz.py.)"""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from command_line import Cli, command
from pyarrow import parquet
from random_stores import World, random_world
from store_parts import rewrite

from memoserve.catalog import Catalog, connect, execute, run_query
from memoserve.errors import BadInput
from memoserve.queries import find_query
from memoserve.suites import Suite

pytestmark = pytest.mark.thorough

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return random_world(tmp_path_factory.mktemp("security"), 4, "score")


def with_secrets(folder: Path, world: World) -> Path:
    """A store, with secrets beside it, behind links in it, and in files of its own."""
    shutil.copytree(world.path, folder / "store")
    duckdb.sql(f"COPY (SELECT 42 AS secret) TO '{folder}/secret.parquet'")
    (folder / "secret.csv").write_text("secret\n42\n")
    (folder / "store" / "link.parquet").symlink_to(folder / "secret.parquet")
    (folder / "store" / "link.csv").symlink_to(folder / "secret.csv")
    (folder / "store" / "linked").symlink_to(folder)
    (folder / "store" / "logs").mkdir(exist_ok=True)
    (folder / "store" / "logs" / "run.log").write_text("secret 42\n")
    return folder / "store"


@pytest.fixture
def store(tmp_path: Path, world: World) -> Path:
    return with_secrets(tmp_path, world)


@pytest.fixture(scope="module")
def attacked(world: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    """A store of which all is asked on one connection: what one leaves behind, the next one meets."""
    store = with_secrets(tmp_path_factory.mktemp("attacked"), world)
    with Catalog.open(store, memory_limit="200MB") as catalog:
        yield catalog


def everything(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


FILES = [
    "FROM read_csv('{outside}/secret.csv')",
    "FROM read_csv_auto('{store}/../secret.csv')",
    "FROM read_csv('{store}/link.csv')",
    "FROM read_csv('{store}/linked/secret.csv')",
    "FROM read_text('{store}/logs/run.log')",
    "FROM read_text('{store}/memoserve.json')",
    "FROM read_blob('{store}/link.parquet')",
    "FROM read_blob(['{store}/linked/secret.csv', '/etc/passwd'])",
    "FROM read_text('file:///etc/passwd')",
    "FROM read_text('/proc/self/environ')",
    "FROM read_text('/dev/stdin')",
    "FROM read_parquet('{store}/link.parquet')",
    "FROM read_parquet('{store}/linked/*.parquet')",
    "FROM read_parquet('{store}/scores/../../secret.parquet')",
    "FROM parquet_scan('{outside}/secret.parquet')",
    "FROM 'secret.parquet'",
    "FROM './secret.parquet'",
    'FROM "{store}/link.parquet"',
    "FROM '{store}/link.parquet' AS scores",
    "FROM '{store}/suites/*/checkpoints.parquet'",
    "FROM 'https://example.com/x.csv'",
    'TABLE "/etc/passwd"',
    "FROM read_json_auto('{outside}/secret.csv')",
    "FROM read_ndjson_objects('/etc/passwd')",
    "FROM read_duckdb('{outside}/x.duckdb')",
    "FROM glob('{store}/**')",
    "FROM glob('{store}/linked/*')",
    "FROM sniff_csv('{store}/link.csv')",
    "FROM parquet_schema('{store}/link.parquet')",
    "FROM parquet_kv_metadata('{store}/suites/*/*.parquet')",
    "FROM parquet_bloom_probe('{store}/link.parquet', 'secret', 42)",
    "FROM system.main.read_text('/etc/passwd')",
    "SELECT (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT 1 WHERE EXISTS (FROM glob('/home/*'))",
    "SELECT * FROM checkpoints, LATERAL (FROM read_text('/etc/' || model))",
    "WITH x AS (FROM read_text('/etc/passwd')) FROM x",
    "WITH RECURSIVE x AS (FROM read_text('/etc/passwd') UNION ALL FROM x) FROM x",
    "DESCRIBE FROM read_csv('{outside}/secret.csv')",
    "SUMMARIZE FROM read_csv('{outside}/secret.csv')",
    "PIVOT (FROM read_csv('{outside}/secret.csv')) ON secret IN (42) USING count(*)",
    "EXPLAIN FROM read_csv('{outside}/secret.csv')",
    "/* harmless */ FROM -- really\n read_text/**/('/etc/passwd')",
    "FROM checkpoints ORDER BY (SELECT content FROM read_text('/etc/passwd'))",
    "SELECT list_transform([1], lambda x: (SELECT content FROM read_text('/etc/passwd')))",
]
DYNAMIC = [
    "FROM query('FROM read_text(''/etc/passwd'')')",
    "FROM query('SELECT current_sett' || 'ing(''temp_directory'')')",
    "FROM query_table('/etc/passwd')",
    "FROM query_table('duckdb_views')",
    "FROM query_table(['information_schema.views'])",
    "SET VARIABLE t = 'sqlite_master'; FROM query_table(getvariable('t'))",
    "FROM query_table(['{store}/link.parquet'])",
    "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "PRAGMA json_execute_serialized_sql('{{}}')",
    "PREPARE p AS FROM read_text('/etc/passwd')",
    "EXECUTE p",
    "DEALLOCATE p",
    "CREATE MACRO m() AS TABLE FROM read_text('/etc/passwd')",
    "CREATE TEMP TABLE t AS FROM checkpoints",
    "CREATE SECRET s (TYPE http, BEARER_TOKEN 'x')",
    "DROP SECRET s",
]
SETTINGS = [
    "SELECT current_setting('temp_directory')",
    "SELECT system.main.current_setting('allowed_directories')",
    "SELECT [current_setting(x) FOR x IN ['temp_directory']]",
    "SELECT x.current_setting() FROM (SELECT 'temp_directory' AS x)",
    "EXPLAIN SELECT current_setting('temp_directory')",
    "EXPLAIN (FORMAT json) SELECT current_setting('temp_directory')",
    "EXPLAIN (ANALYZE) SELECT 1",
    "EXPLAIN/**/ANALYZE SELECT 1",
    "FROM duckdb_settings()",
    "FROM pg_catalog.pg_settings",
    "FROM pg_settings",
    "FROM duckdb_databases()",
    "FROM duckdb_databases",
    "FROM pragma_database_list",
    "FROM pragma_database_size()",
    "FROM duckdb_views()",
    "SELECT sql FROM duckdb_views",
    "SELECT sql FROM sqlite_master",
    "SELECT definition FROM pg_catalog.pg_views",
    "SELECT view_definition FROM information_schema.views",
    "FROM duckdb_secrets()",
    "FROM which_secret('s3://x', 's3')",
    "FROM duckdb_extensions()",
    "FROM duckdb_logs",
    "FROM duckdb_temporary_files()",
    "FROM duckdb_external_file_cache()",
    "FROM duckdb_prepared_statements()",
    "FROM duckdb_variables()",
    "SELECT getenv('HOME')",
    "SHOW temp_directory",
    'SHOW "temp_directory"',
    'SHOW """temp_directory"""',
    "FROM (SHOW allowed_directories)",
    "WITH x AS (SHOW TABLE duckdb_settings) FROM x",
    "SHOW '{store}/link.csv'",
    "SELECT pg_get_viewdef(1::BIGINT)",
    "SELECT json_serialize_plan('SELECT current_setting(''temp_directory'')', optimize := true)",
    "SELECT json_serialize_plan('FROM duckdb_views()')",
    "SET VARIABLE s = 'FROM duckdb_settings()'; SELECT json_serialize_plan(getvariable('s'))",
    "SET VARIABLE x = 1 /* /* */ + (SELECT current_setting('temp_directory')) /* */",
    "SET VARIABLE x = $a$ ' $a$ || (SELECT 1) || $a$ ' $a$",
    "SET VARIABLE x = E'\\'' || (SELECT 1) || E'\\''",
    "SET temp_directory = '/tmp'",
    "SET GLOBAL memory_limit = '1TB'",
    "SET SESSION threads = 1000",
    "SET home_directory = '/'",
    "SET VARIABLE x = current_setting('temp_directory')",
    "SET VARIABLE x = (FROM duckdb_settings())",
    "RESET temp_directory",
    "RESET ALL",
    "PRAGMA database_list",
    "PRAGMA memory_limit='1TB'",
    "PRAGMA enable_profiling",
    "PRAGMA version",
    "CALL pragma_version()",
    "CALL enable_logging()",
    "SELECT write_log('x')",
    "FROM truncate_duckdb_logs()",
]
WRITES = [
    "COPY checkpoints TO '{store}/new.csv'",
    "COPY (FROM checkpoints) TO '/dev/stdout'",
    "COPY checkpoints FROM '{outside}/secret.csv'",
    "COPY FROM DATABASE memory TO memory",
    "WITH x AS (COPY checkpoints TO '{store}/new.csv') SELECT 1",
    "WITH x AS (INSERT INTO checkpoints SELECT 1 RETURNING 1) FROM x",
    "EXPLAIN COPY checkpoints TO '{store}/new.csv'",
    "EXPORT DATABASE '{store}/dump'",
    "IMPORT DATABASE '{store}/dump'",
    "ATTACH '{store}/new.duckdb'",
    "ATTACH IF NOT EXISTS '' AS x",
    "DETACH memory",
    "USE system",
    "INSTALL httpfs",
    "FORCE INSTALL httpfs FROM 'http://127.0.0.1:9'",
    "LOAD '{store}/link.parquet'",
    "UPDATE EXTENSIONS",
    "INSERT INTO checkpoints VALUES (1)",
    "DELETE FROM scores",
    "UPDATE scores SET matches = 32",
    "TRUNCATE scores",
    "MERGE INTO scores USING scores s ON true WHEN MATCHED THEN DELETE",
    "ALTER VIEW scores RENAME TO s",
    "COMMENT ON VIEW scores IS 'x'",
    "CREATE SCHEMA s",
    "CREATE SEQUENCE s",
    "CREATE TYPE t AS ENUM ('a')",
    "BEGIN TRANSACTION",
    "COMMIT",
    "ANALYZE",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "CALL force_checkpoint()",
    "SELECT 1; DROP VIEW scores; SELECT 1",
    "SELECT 1;;COPY checkpoints TO '{store}/new.csv';",
    "SELECT 1 -- ;\n; DELETE FROM scores",
    "SELECT '\\x00'; DETACH memory",
]
ODD = [
    "",
    ";",
    "-- nothing",
    "SELECT",
    "\0",
    "SELECT '\ud800'",
    "SELECT " + "(" * 50_000,
    "SELECT " + "(" * 900,
    "FROM " + "(" * 900,
    "SELECT " + "x." * 900 + "x",
    "SELECT " + "CASE WHEN " * 4_000,
    "SELECT 1 " + "UNION SELECT 1 " * 3_000 + "UNION FROM glob('/*')",
    "SELECT " + "NOT " * 20_000 + "true",
    "SELECT 1 " + "UNION SELECT 1 " * 100_000,
    "SELECT '" + "x" * 200_000 + "'",
    "SELECT " + "[" * 20_000 + "]" * 20_000,
    "SELECT " + "x." * 20_000 + "x",
]


class TestHostileStatements:
    def test_there_are_enough(self) -> None:
        assert len({*FILES, *DYNAMIC, *SETTINGS, *WRITES, *ODD}) >= 140

    @pytest.mark.parametrize("statement", FILES + DYNAMIC + SETTINGS + WRITES + ODD)
    def test_refused_in_words_and_nothing_changes(
        self, attacked: Catalog, statement: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        outside = Path(attacked.store).parent
        monkeypatch.chdir(outside)
        before = everything(outside)
        text = statement.replace("{store}", str(attacked.store)).replace("{outside}", str(outside))
        with pytest.raises(BadInput) as refusal:
            attacked.sql(text.replace("{{", "{").replace("}}", "}")).fetchall()
        assert "42" not in re.sub(r"/\S*", "", str(refusal.value)).replace(text, "")
        # The connection is what it was: the views are there, and say the same.
        assert attacked.sql("SELECT count(*) FROM scores").fetchall()[0][0] > 0
        assert everything(outside) == before

    @pytest.mark.parametrize(
        "statement",
        [
            "FROM range(3)",
            "SELECT * FROM checkpoints, unnest([1, 2]) u(i)",
            "SHOW TABLES",
            "SHOW ALL TABLES",
            "SHOW TABLES FROM memory",
            "SHOW DATABASES",
            "SELECT pg_typeof(step), pg_size_pretty(1024) FROM checkpoints",
            "SELECT json_serialize_sql('SELECT 1')",
            "DESCRIBE scores",
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'scores'",
            "SELECT table_name FROM information_schema.tables",
            "EXPLAIN SELECT count(*) FROM scores",
            "EXPLAIN (FORMAT json) FROM scores",
            "SELECT 'current_setting(1), read_text(2), query'",
            "WITH duck AS (SELECT 1 AS query) SELECT query FROM duck",
            "SELECT wilson_low(1, 2)",
            "SET VARIABLE target = 'l-x@3'; SELECT getvariable('target')",
        ],
    )
    def test_what_is_harmless_is_answered(self, attacked: Catalog, statement: str) -> None:
        assert attacked.sql(statement).fetchall()

    def test_no_path_is_told(self, store: Path) -> None:
        with connect(store) as db:
            for statement in ("SHOW ALL TABLES", "EXPLAIN FROM scores", "FROM information_schema.tables"):
                assert str(store) not in str(execute(db, statement, store).fetchall())

    def test_spilling_takes_no_more_than_half_of_what_is_free(
        self, store: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Usage:
            free = 20_000_000

        monkeypatch.setattr("memoserve.catalog.connection.shutil.disk_usage", lambda _: Usage)
        with (
            connect(store, memory_limit="40MB", threads=1) as db,
            pytest.raises(BadInput, match="temporary disk"),
        ):
            execute(db, "SELECT * FROM range(100000000) t(i) ORDER BY hash(i)", store).fetchall()


BOMBS = [
    "SELECT count(*) FROM range(1000000000000000000)",
    "SELECT count(*) FROM range(1000000) a, range(1000000) b, range(1000000) c",
    "FROM generate_series(1, 100000000000000)",
    "FROM repeat('x', 100000000000)",
    "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT count(*) FROM r",
    "WITH RECURSIVE r(s) AS (SELECT 'x' UNION ALL SELECT s || s FROM r) SELECT max(length(s)) FROM r",
    "SELECT repeat('x', 10000000000)",
    "SELECT length(repeat('x', 4000000000))",
    "SELECT length(repeat(repeat('x', 1000000), 100000))",
    "SELECT list(i) FROM range(1000000000) t(i)",
    "SELECT string_agg(i::VARCHAR) FROM range(1000000000) t(i)",
    "SELECT count(DISTINCT i) FROM range(100000000000) t(i)",
    "SELECT list_sort(range(1000000000))",
    "SELECT len(range(3000000000))",
    "SELECT array_agg(i) OVER (ORDER BY i) FROM range(1000000) t(i)",
    "SELECT list_transform(range(100000), lambda x: range(x))",
    "SELECT sleep_ms(100000)",
    "SUMMARIZE FROM range(10000000000)",
    "PIVOT (FROM range(1000000000) t(i)) ON i IN (1) USING count(*)",
    "SELECT format('{:1000000000d}', 1)",
    "SELECT regexp_matches(repeat('x', 100000000), '(x+x+)+y')",
    "SELECT regexp_matches('x', '((((x{1,100}){1,100}){1,100}){1,100}){1,100}')",
    "SELECT i, j, k, l FROM range(1000) a(i), range(1000) b(j), range(1000) c(k), range(1000) d(l)",
]
HARNESS = """
import json, resource, sys, time
from memoserve.catalog import connect, execute, explained, limited, limits
limits.GRACE = 60.0
from memoserve.errors import BadInput
store = sys.argv[1]
for statement in json.load(sys.stdin):
    began = time.monotonic()
    try:
        with connect(store, memory_limit="300MB", threads=2) as db, limited(db, 0.7), explained(store):
            said = f"answered {str(execute(db, statement, store).fetchall())[:40]}"
    except BadInput as error:
        said = f"refused {str(error).splitlines()[0]}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(json.dumps([statement, said, time.monotonic() - began, peak]), flush=True)
"""


class TestBombs:
    def test_what_can_be_interrupted_is_and_the_process_goes_on(self, store: Path) -> None:
        ended = subprocess.run(
            [sys.executable, "-c", HARNESS, str(store)],
            input=json.dumps(BOMBS), capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        said = [json.loads(line) for line in ended.stdout.splitlines()]
        assert [line[0] for line in said] == BOMBS, ended.stderr
        for statement, outcome, seconds, peak in said:
            assert outcome.startswith("refused"), (statement, outcome)
            assert re.search("longer than|memory|Out of Range|too large|larger than|repetition", outcome)
            assert seconds < 40, (statement, seconds)  # on a machine that is busy with others
            assert peak < 2000, f"{statement}: {peak} MiB"

    def test_what_cannot_be_interrupted_ends_with_its_process(self, store: Path, tmp_path: Path) -> None:
        """Inside one call of a function DuckDB doesn't look whether it was interrupted."""
        stubborn = [
            "SELECT levenshtein(repeat('a', 1000000), repeat('b', 1000000))",
            "SELECT lpad('x', 2000000000, 'y')",
        ]
        began = time.monotonic()
        spill = tmp_path / "spill"
        spill.mkdir()
        processes = [
            subprocess.Popen(
                command("sql", statement, store, "--seconds", "1", "--memory", "300MB"),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={**os.environ, "TMPDIR": str(spill)},
            )
            for statement in stubborn
        ]
        for process in processes:
            out, error = process.communicate(timeout=60)
            assert process.returncode == 3, error
            assert out == ""
            assert "longer than 1 s" in error
            assert "Traceback" not in error
        assert time.monotonic() - began < 40
        assert list(spill.iterdir()) == []

    def test_a_statement_has_its_time(self, store: Path, cli: Cli) -> None:
        assert "534\n" in cli("sql", "SELECT 534 AS n", store, "-f", "csv").stdout
        said = cli("sql", "SELECT 1::TIMESTAMPTZ", store, code=3).stderr
        assert "Traceback" not in said

    def test_instants_are_text(self, store: Path, cli: Cli) -> None:
        """DuckDB's Python client needs pytz for them, and says so only when one comes along."""
        asked = "SELECT TIMESTAMPTZ '2024-02-03 04:05:06+00' AS t, count(*) AS n FROM checkpoints"
        for form in ("table", "csv", "json", "markdown"):
            assert re.search(r"2024-02-0[234] \d\d:05:06", cli("sql", asked, store, "-f", form).stdout)


def on_a_terminal(*arguments: str | Path) -> str:
    """What a command writes to a terminal without colours."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        command(*arguments),
        stdout=follower,
        stderr=follower,
        env={**os.environ, "COLUMNS": "400", "NO_COLOR": "1", "TERM": "dumb"},
    )
    os.close(follower)
    said = b""
    while chunk := _read(leader):
        said += chunk
    os.close(leader)
    assert process.wait() == 0, said
    return said.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # the other end is closed
        return b""


def renamed(store: Path, suite: str, old: str, new: str) -> None:
    """Give a model of a store another name, as a stranger could who made the store."""
    file = next((store / "suites").glob("*/checkpoints.parquet"))
    table = parquet.read_table(file, partitioning=None)
    names = [new if name == old else name for name in table["model"].to_pylist()]
    place = table.schema.get_field_index("model")
    parquet.write_table(table.set_column(place, "model", pa.array(names)), file)
    folder = next((store / "scores").glob(f"*/model={old}"))
    folder = folder.rename(folder.with_name(f"model={new}"))
    for part in folder.glob("*/part-*.parquet"):
        rewrite(part, said=lambda said, part=part: said | {"name": str(part.relative_to(store))})  # type: ignore[misc]
    assert suite


class TestStoresFromStrangers:
    @pytest.mark.parametrize(
        "name",
        [
            "x'; DROP VIEW scores; --",
            "x'); COPY checkpoints TO 'owned.csv'; --",
            '"; ATTACH "owned.duckdb" AS o; --',
            "[a-z]*?",
            "$$;$1;?;{};%s%n",
            "\u202eevil",
            "x\x1b[2J\x1b]0;owned\x07",
            "=1+1",
            "<script>alert(1)<",
            "a@b@c",
        ],
    )
    def test_names_are_data(self, tmp_path: Path, world: World, name: str, cli: Cli) -> None:
        """SQL, patterns, formats and terminal codes in a model's name: answered or refused, never run."""
        odd = tmp_path / 'sto\'re; [x] $1 "q"'
        shutil.copytree(world.path, odd)
        old = next((odd / "scores").glob("*/model=*")).name.removeprefix("model=")
        renamed(odd, world.suite.name, old, name)
        before = everything(tmp_path)
        refused = False
        try:
            with connect(odd) as db:
                models = {row[0] for row in execute(db, "SELECT DISTINCT model FROM scores", odd).fetchall()}
                assert name in models
                for query in ("checkpoints", "counts", "predictors"):
                    assert run_query(db, find_query(query), {}, odd).fetchall()
        except BadInput as error:
            refused = "Hive partition mismatch" in str(error)
        # A second = in the name of a folder, or what ends a URL, makes it no partition to DuckDB.
        assert refused == bool(set("=?") & set(name))
        for arguments in (
            ("status", odd),
            ("status", odd, "--format", "json"),
            ("sql", "FROM checkpoints", odd),
            ("sql", "FROM checkpoints", odd, "--format", "json"),
            ("sql", "FROM checkpoints", odd, "--format", "markdown"),
            ("query", "counts", odd),
            ("verify", odd),
            ("recommend", odd, "--target", name),
            ("show", odd, "--target", f"{name}@7"),
        ):
            said = cli(*arguments, code=None)
            assert said.returncode in (0, 3, 4), said.stderr
            for line in (said.stdout + said.stderr).split("\n"):
                assert line.isprintable(), (arguments, line)
        assert everything(tmp_path) == before

    def test_a_terminal_obeys_no_name(self, tmp_path: Path, world: World) -> None:
        """Where a person looks: a terminal, which gets what is not for it escaped in every format."""
        odd = tmp_path / "odd"
        shutil.copytree(world.path, odd)
        old = next((odd / "scores").glob("*/model=*")).name.removeprefix("model=")
        renamed(odd, world.suite.name, old, "x\x1b[2J\x1b]0;owned\x07\u202e\x9bm")
        for arguments in (
            ("status", odd),
            *(
                ("query", "checkpoints", odd, "--format", form)
                for form in ("table", "csv", "json", "markdown")
            ),
            ("sql", "SELECT 'x\x1b[2J\x07' AS \"\x1b[2J\", model FROM checkpoints", odd),
        ):
            said = on_a_terminal(*arguments)
            assert "owned" in said
            assert not [c for c in said if not c.isprintable() and c not in "\r\n"], (arguments, said)

    def test_what_is_no_parquet_or_not_like_ours(self, tmp_path: Path, world: World, cli: Cli) -> None:
        for number, content in enumerate(
            [b"", b"PAR1", b"PAR1" + bytes(100) + b"PAR1", b"PAR1" + b"\xff" * 8 + b"\xff\xff\xff\x7fPAR1"]
        ):
            store = tmp_path / f"{number}"
            shutil.copytree(world.path, store)
            next((store / "scores").rglob("*.parquet")).write_bytes(content)
            for arguments in (("query", "counts", store), ("sql", "SELECT sum(matches) FROM scores", store)):
                assert ".parquet" in cli(*arguments, code=3).stderr
        other = tmp_path / "other"
        shutil.copytree(world.path, other)
        for part in (other / "scores").rglob("*.parquet"):
            parquet.write_table(pa.table({"sequence_id": ["x"], "matches": [[1]]}), part)
        assert cli("sql", "SELECT sum(matches) FROM scores", other, code=3).stderr
        mark = tmp_path / "mark"
        shutil.copytree(world.path, mark)
        for content in (b"[" * 100_000, b'{"format": 1e999}', b'{"format": "' + b"x" * 10_000, b"\xff\xfe"):
            (mark / "memoserve.json").write_bytes(content)
            assert cli("sql", "FROM checkpoints", mark, code=4).stderr


MODEL_CODE = """
from pathlib import Path
Path({marker!r}).write_text("code of a stranger ran")
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
class Config(GPTNeoXConfig): model_type = {model_type!r}
class Model(GPTNeoXForCausalLM): config_class = Config
class Tokenizer: pass
"""

SUITE = """
name = "stranger"
batch_size = 1
sequence_length = 96
eos = "allow"
eos_token_id = 0
steps = [64]
[sequences]
path = "{path}"
trained = 64
[[models]]
name = "m"
folder = "{folder}"
parameters = 116416
parameters_without_embeddings = 50880
"""


@pytest.mark.engine
class TestWeightsFromStrangers:
    @pytest.fixture
    def stranger(self, tmp_path: Path, mini: Suite) -> Path:
        """A model folder with code in every place from which a loader would take it."""
        source = mini.checkpoint(mini.models[0], mini.steps[-1]).weights.folder
        assert source is not None
        folder = tmp_path / "weights" / "64"
        shutil.copytree(source, folder)
        (tmp_path / "suite.toml").write_text(
            SUITE.format(folder=tmp_path / "weights" / "{step}", path=mini.sequences.path)
        )
        return folder

    @pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.exhaustive)])
    def test_code_beside_the_weights_is_not_run(
        self, tmp_path: Path, stranger: Path, cli: Cli, engine: str
    ) -> None:
        marker = tmp_path / "owned"
        (stranger / "code.py").write_text(MODEL_CODE.format(marker=str(marker), model_type="gpt_neox"))
        config = json.loads((stranger / "config.json").read_text())
        config["auto_map"] = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
        config["trust_remote_code"] = True
        (stranger / "config.json").write_text(json.dumps(config))
        (stranger / "tokenizer_config.json").write_text(
            json.dumps({"auto_map": {"AutoTokenizer": ["code.Tokenizer", None]}, "trust_remote_code": True})
        )
        (stranger / "custom_generate").mkdir()
        (stranger / "custom_generate" / "generate.py").write_text(
            MODEL_CODE.format(marker=str(marker), model_type="x")
        )
        run = ("run", "--suite", "suite.toml", "--engine", engine, "--sequences", "0:64", "--out", "store")
        said = cli(*run, code=None)
        assert said.returncode in (0, 6), said.stderr
        assert not marker.exists()
        # A kind of model that only this code knows is refused, and the question to trust it not asked.
        config["model_type"] = "of-a-stranger"
        (stranger / "config.json").write_text(json.dumps(config))
        said = cli(*run[:-1], "other", code=6)
        assert not marker.exists()
        assert "[y/N]" not in said.stdout + said.stderr

    def test_pickled_weights_are_not_opened_unless_asked_for(
        self, tmp_path: Path, stranger: Path, cli: Cli
    ) -> None:
        import pickle

        class Owned:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.write_text, (tmp_path / "owned", "code of a stranger ran")

        run = ("run", "--suite", "suite.toml", "--engine", "transformers", "--sequences", "0:64")
        for name in ("pytorch_model.bin", "pytorch_model-00001-of-00001.bin", "training_args.bin"):
            (stranger / name).write_bytes(pickle.dumps(Owned()))
        cli(*run, "--out", "with-safetensors")
        assert not (tmp_path / "owned").exists()
        (stranger / "model.safetensors").unlink()
        said = cli(*run, "--out", "without", code=6)
        assert "--allow-pickle-weights" in said.stdout + said.stderr
        assert not (tmp_path / "owned").exists()
        # A safetensors file that is a pickle is no safetensors file.
        (stranger / "model.safetensors").write_bytes(pickle.dumps(Owned()))
        said = cli(*run, "--out", "disguised", code=6)
        assert "not safetensors" in said.stdout + said.stderr
        assert not (tmp_path / "owned").exists()


def test_nothing_in_the_code_trusts_what_it_loads() -> None:
    """Places from which code of others could come, so that a new one is looked at."""
    found = {
        (str(file.relative_to(ROOT / "memoserve")), match.group(0))
        for file in (ROOT / "memoserve").rglob("*.py")
        for match in re.finditer(
            r"trust_remote_code=True|torch\.load|\bpickle\b\.|\beval\(|\bexec\(|yaml\.load|allow_pickle=True"
            r"|shell=True|os\.system",
            file.read_text(),
        )
    }
    assert {(file, what) for file, what in found if what != "eval("} == set()
    assert {file for file, what in found if what == "eval("} <= {
        "engines/transformers/engine.py",  # torch's Module.eval()
        "engines/transformers/eager_forward.py",
        "engines/diagnosis.py",
    }
