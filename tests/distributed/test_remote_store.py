"""Stores behind a URL: an S3-compatible server on loopback, and fsspec's in-memory file system."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import duckdb
import fsspec
import numpy as np
import pytest
from command_line import Cli
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from random_stores import World, random_world, toy_suite
from store_parts import FINGERPRINT, matches
from web_server import HeldPort
from werkzeug.serving import make_server

from memoserve.catalog import connect, execute, run_query, write_catalog
from memoserve.catalog.remote import StoreFileSystem
from memoserve.domain import Checkpoint
from memoserve.errors import BadInput, StorageFailed, StoreConflict
from memoserve.files.lease import Lease
from memoserve.files.remote import RemoteFiles
from memoserve.queries import list_queries
from memoserve.store import Store

pytestmark = pytest.mark.thorough


class Bucket:
    """A bucket of a server that can be stopped and started; what is in it stays."""

    def __init__(self) -> None:
        self._port = HeldPort()
        self._app = DomainDispatcherApplication(create_backend_app)
        self.endpoint = f"http://127.0.0.1:{self._port.number}"
        self.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def start(self) -> None:
        with self._port.listening() as opened:  # the server has a copy of its own
            self._server = make_server(
                "127.0.0.1",
                self._port.number,
                self._app,
                threaded=True,
                request_handler=MotoRequestHandler,
                fd=opened.fileno(),
            )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with pytest.MonkeyPatch.context() as patch:
        bucket = Bucket()
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", bucket.endpoint)
        # Fewer attempts than by default, for the tests that stop the server.
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        # fsspec keeps file systems, and with them the server that they were made for.
        fsspec.get_filesystem_class("s3").clear_instance_cache()
        fsspec.filesystem("s3").mkdir("bucket")
        yield bucket
        bucket.stop()
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture(params=["s3", "memory"])
def url(request: pytest.FixtureRequest, bucket: Bucket) -> str:
    return f"{request.param}://bucket/{uuid.uuid4().hex[:8]}/store"


@pytest.fixture
def s3(bucket: Bucket) -> str:
    return f"s3://bucket/{uuid.uuid4().hex[:8]}/store"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    suite = toy_suite(tmp_path / "suite")
    return suite.checkpoint(suite.models[0], 7)


def made(url: str, tmp_path: Path) -> Store:
    store = Store.create(url)
    store.claim(toy_suite(tmp_path / "suite"), FINGERPRINT)
    return store


def write(store: Store, checkpoint: Checkpoint, first: int, stop: int) -> None:
    store.write_scores(checkpoint, first, stop, np.arange(first, stop), matches(stop - first), "weights-1")


def put(path: Path, url: str) -> None:
    """Copy a local store to a URL."""
    system, base = fsspec.core.url_to_fs(url)
    for file in path.rglob("*"):
        if file.is_file():
            system.pipe_file(f"{base}/{file.relative_to(path)}", file.read_bytes())


@pytest.fixture(scope="module")
def worlds(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, str]:
    """The same store in a folder and in the bucket."""
    world = random_world(tmp_path_factory.mktemp("world"), 3, "score", loglik=True)
    put(world.path, "s3://bucket/world")
    return world, "s3://bucket/world"


class TestContract:
    """What a folder does, a URL does."""

    def test_open_and_create(self, url: str) -> None:
        with pytest.raises(StoreConflict, match="there is no store at"):
            Store.open(url)
        assert not Store.is_at(url)
        Store.create(url)
        assert Store.is_at(url)
        assert Store.open(url + "/").suites() == []
        Store.create(url)
        other = url.removesuffix("/store") + "/other"
        system, base = fsspec.core.url_to_fs(other)
        system.pipe_file(f"{base}/thesis.tex", b"")
        for opened in (Store.open, Store.create):
            with pytest.raises(StoreConflict, match=r"thesis\.tex"):
                opened(other)

    def test_what_is_written_is_read(self, url: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
        store = made(url, tmp_path)
        given = matches(5, likelihood=True)
        part = store.write_scores(checkpoint, 0, 100, np.array([3, 8, 9, 40, 99]), given, "weights-1")
        assert part.path == f"{url}/scores/suite=toy/model=s/step=7/part-000000000000-000000000099.parquet"
        write(store, checkpoint, 100, 120)
        store.write_sequences("toy", 0, 10, np.array([1, 5]), np.array([-(2**63), 2**63 - 1]))
        again = Store.open(url)  # as another machine sees it
        read = again.read_scores("toy", "s", 7, 8, 101)
        assert read.sequence_id.tolist() == [8, 9, 40, 99, 100]
        assert read.match_mask is not None
        assert read.match_mask.tolist()[:4] == given.match_mask[1:].tolist()
        assert [(p.first, p.last) for p in again.parts("toy", "s", 7)] == [(0, 99), (100, 119)]
        assert again.missing("toy", "s", 7, [(0, 250)], 100) == [(120, 200), (200, 250)]
        assert again.missing_sequences("toy", [(0, 12)], 6) == [(10, 12)]
        assert again.weights_of(checkpoint) == "weights-1"
        with pytest.raises(StoreConflict, match="dtype: float32 vs bfloat16"):
            again.claim(toy_suite(tmp_path / "suite"), {**FINGERPRINT, "dtype": "bfloat16"})
        with pytest.raises(StoreConflict, match=r"already has sequences 0\.\.99"):
            write(again, checkpoint, 50, 120)

    def test_a_damaged_part_is_named(self, url: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
        store = made(url, tmp_path)
        write(store, checkpoint, 0, 300)
        system, base = fsspec.core.url_to_fs(store.parts("toy", "s", 7)[0].path)
        system.pipe_file(base, system.cat_file(base)[:-20])
        with pytest.raises(BadInput, match=r"//bucket/.*/part-000000000000-000000000299\.parquet is damaged"):
            store.read_scores("toy", "s", 7, 0, 300)

    def test_a_put_never_replaces_another_ones(self, url: str) -> None:
        files = Store.create(url).files
        files.create("a/b", b"first")
        files.create("a/b", b"first")  # as a put does whose answer was lost
        with pytest.raises(FileExistsError):
            files.create("a/b", b"second")
        assert files.read("a/b") == b"first"
        files.move("a/b", "c/b")
        assert files.names("a") == []
        assert (files.names(""), list(files.below(""))) == (
            ["c", "memoserve.json"],
            ["c/b", "memoserve.json"],
        )

    @pytest.mark.parametrize("wrong", ["nonsense://x/y", "simplecache::s3://bucket/x"])
    def test_an_address_that_nothing_opens(self, wrong: str) -> None:
        with pytest.raises(BadInput, match=wrong):
            Store.open(wrong)

    def test_a_file_url_is_a_folder(self, tmp_path: Path) -> None:
        Store.create(f"file://{tmp_path}/store")
        assert (tmp_path / "store" / "memoserve.json").exists()

    def test_two_writers_without_a_lock_double_nothing(
        self, s3: str, checkpoint: Checkpoint, tmp_path: Path
    ) -> None:
        """Ten writers, three grids of parts, all at once: every id is in one part or in none."""
        made(s3, tmp_path)
        refused = []

        def run(seed: int) -> None:
            store = Store.open(s3)
            rng = np.random.default_rng(seed)
            size = int(rng.choice([5, 7, 10]))
            for first in rng.permutation(range(0, 60, size)).tolist():
                try:
                    write(store, checkpoint, first, min(first + size, 60))
                except StoreConflict as error:
                    refused.append(error)

        threads = [threading.Thread(target=run, args=(seed,)) for seed in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert refused
        found = Store.open(s3).read_scores("toy", "s", 7, 0, 60).sequence_id
        assert len(found) == len(np.unique(found)) > 0


class TestLease:
    @pytest.fixture(autouse=True)
    def _short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Lease, "seconds", 3.0)

    def test_one_run_at_a_time(self, url: str) -> None:
        store, other = Store.create(url), Store.create(url)
        with store.lock():
            with pytest.raises(StoreConflict, match=rf"in use by another run \(process {os.getpid()} on"):
                other.lock().__enter__()
            time.sleep(Lease.seconds * 1.3)  # it is renewed
            with pytest.raises(StoreConflict, match="in use"):
                other.lock().__enter__()
            store.files.write("x", b"")
        with other.lock():
            pass
        assert len(store.files.names(".lease")) == 1

    def test_a_killed_run_on_this_machine_frees_it_at_once(self, s3: str) -> None:
        Store.create(s3)
        script = """
            import sys, time
            from memoserve.store import Store
            with Store.open(sys.argv[1]).lock():
                print("held", flush=True)
                time.sleep(60)
            """
        holder = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), s3], stdout=subprocess.PIPE, text=True
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(StoreConflict, match=f"process {holder.pid} on"):
                Store.open(s3).lock().__enter__()
        finally:
            holder.kill()
            holder.wait()
        with Store.open(s3).lock():
            pass

    def elsewhere(self, store: Store, renewed: float) -> None:
        """A lease of a run on another machine."""
        said = {"owner": "x", "pid": 1, "host": "there", "machine": "there 1", "renewed": renewed}
        store.files.write(".lease/000000000004.json", json.dumps(said).encode())

    def test_one_of_another_machine_has_to_run_out(self, url: str) -> None:
        store = Store.create(url)
        self.elsewhere(store, time.time())
        with pytest.raises(StoreConflict, match=r"process 1 on there.* try again in [23] s"):
            store.lock().__enter__()
        self.elsewhere(store, time.time() - 10)
        began = time.monotonic()
        with store.lock():
            assert time.monotonic() - began >= 0.9  # it was watched, whatever the clocks say
            assert store.files.names(".lease") == ["000000000005.json"]

    def test_clocks_that_disagree_take_nothing_from_a_holder(self, url: str) -> None:
        store = Store.create(url)
        ending = threading.Event()

        def renew() -> None:
            while not ending.wait(0.3):
                self.elsewhere(store, time.time() - 1000)

        self.elsewhere(store, time.time() - 1000)
        thread = threading.Thread(target=renew)
        thread.start()
        try:
            with pytest.raises(StoreConflict, match="process 1 on there"):
                store.lock().__enter__()
        finally:
            ending.set()
            thread.join()

    def test_who_lost_it_writes_nothing_more(self, url: str) -> None:
        store = Store.create(url)
        with store.lock():
            store.files.write("x", b"")
            Store.open(url).files.write(".lease/000000000099.json", b"{}")
            time.sleep(Lease.seconds / 2)
            with pytest.raises(StorageFailed, match="another run has taken it over"):
                store.files.write("x", b"late")
        assert store.files.read("x") == b""


class TestQueries:
    def test_every_query_says_the_same(self, worlds: tuple[World, str]) -> None:
        world, url = worlds
        answered = 0
        with connect(world.path, threads=1) as local, connect(url, threads=1) as remote:
            for query in list_queries():
                here, there = (
                    sorted(map(repr, run_query(db, query, {}, place).fetchall()))
                    for db, place in ((local, world.path), (remote, url))
                )
                assert here == there, query.name
                answered += bool(here)
        assert answered > 10

    def test_new_parts_are_seen(
        self, url: str, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("memoserve.catalog.remote.LISTED_FOR", 0.0)
        store = made(url, tmp_path)
        write(store, checkpoint, 0, 10)
        with connect(url) as db:
            assert db.execute("SELECT count(*) FROM scores").fetchall() == [(10,)]
            write(store, checkpoint, 10, 30)
            assert db.execute("SELECT count(*) FROM scores").fetchall() == [(30,)]

    def test_memorized_reads_no_masks(
        self, s3: str, checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = made(s3, tmp_path)
        n = 1_000_000
        rng = np.random.default_rng(0)
        masks = rng.integers(0, 2**32 - 1, n, dtype=np.uint32)
        masks[::50] = 0xFFFFFFFF
        prefix = np.where(masks == 0xFFFFFFFF, 32, rng.geometric(0.5, n).clip(0, 31)).astype(np.uint8)
        some = SimpleNamespace(matched_prefix=prefix, match_mask=masks, continuation_ll=None)
        whole = store.write_scores(checkpoint, 0, n, np.arange(n), some, "weights").size
        asked: list[int] = []
        read = RemoteFiles.read_range

        def counted(self: RemoteFiles, name: str, first: int, stop: int) -> bytes:
            asked.append(stop - first)
            return read(self, name, first, stop)

        monkeypatch.setattr(RemoteFiles, "read_range", counted)
        with connect(s3) as db:
            (count,) = db.execute("SELECT count(*) FROM memorized").fetchone() or (0,)
        assert count == n // 50
        assert 0 < sum(asked) < whole / 5  # masks are more than 4 of 5 bytes

    def test_nothing_but_the_store_can_be_read(self, worlds: tuple[World, str]) -> None:
        _, url = worlds
        fsspec.filesystem("s3").pipe_file("bucket/secret.csv", b"a,b\n1,2\n")
        with connect(url) as db:
            for place in ("s3://bucket/secret.csv", f"{url}/../secret.csv", "/etc/passwd"):
                with pytest.raises(BadInput):
                    execute(db, f"FROM read_csv('{place}')", url)
            for statement in (f"COPY (SELECT 1) TO '{url}/x.csv'", f"EXPORT DATABASE '{url}/x'"):
                with pytest.raises(BadInput, match="refused"):
                    execute(db, statement, url)
                with pytest.raises(duckdb.Error):  # and not past the check of statements either
                    db.execute(statement)
        assert not [name for name in Store.open(url).files.below("") if name.startswith("x")]

    def test_a_damaged_part_is_named(self, s3: str, checkpoint: Checkpoint, tmp_path: Path) -> None:
        store = made(s3, tmp_path)
        write(store, checkpoint, 0, 300)
        part = store.parts("toy", "s", 7)[0]
        store.files.write(part.name, store.files.read(part.name)[:-20])
        with pytest.raises(BadInput, match=r"part-000000000000-000000000299\.parquet is damaged"):
            connect(s3)

    def test_the_catalog_file(self, worlds: tuple[World, str], tmp_path: Path) -> None:
        world, url = worlds
        write_catalog(url, tmp_path / "linked.duckdb")
        copied = write_catalog(url, tmp_path / "copied.duckdb", embed=True)
        count = "SELECT count(*) FROM scores"
        with connect(world.path) as db:
            expected = db.execute(count).fetchall()
        with duckdb.connect(copied, read_only=True) as db:
            assert db.execute(count).fetchall() == expected
        with duckdb.connect(tmp_path / "linked.duckdb", read_only=True) as db:
            # As DuckDB's own S3 reader would; here that of the store serves.
            db.register_filesystem(StoreFileSystem(Store.open(url).files))
            assert db.execute(count).fetchall() == expected


class TestCommands:
    def test_import_status_query_sql_catalog(self, s3: str, cli: Cli, tmp_path: Path) -> None:
        part = tmp_path / "rank-0.csv"
        part.write_text("".join(f"{i},{1.0 if i % 3 == 0 else 0.5}\n" for i in range(300)))
        cli("import", "csv", part, "--checkpoint", "12b@143000", "--out", s3)
        assert "12b@143000" in cli("status", s3).stdout
        status = json.loads(cli("status", s3, "--format", "json").stdout)
        assert (status["store"], status["suites"][0]["checkpoints"][0]["memorized"]) == (s3, 100)
        assert cli("sql", "SELECT count(*) FROM memorized", s3, "--format", "csv").stdout.split()[1] == "100"
        assert "300" in cli("query", "counts", s3).stdout
        cli("catalog", s3)
        assert (tmp_path / "catalog.duckdb").exists()
        again = cli("import", "csv", part, "--checkpoint", "12b@143000", "--out", s3)
        assert "was here already" in again.stdout
        assert "there is no store at s3://bucket/none" in cli("status", "s3://bucket/none", code=4).stderr


class TestOutage:
    def test_a_server_that_is_gone_and_comes_back(
        self, bucket: Bucket, s3: str, checkpoint: Checkpoint, tmp_path: Path, cli: Cli
    ) -> None:
        store = made(s3, tmp_path)
        write(store, checkpoint, 0, 10)
        db = connect(s3)
        bucket.stop()
        try:
            with pytest.raises(StorageFailed, match=r"(?s)s3://bucket/.* could not be .*check the address"):
                write(store, checkpoint, 10, 20)
            said = cli("status", s3, code=7).stderr
            assert "could not be read" in said
            with pytest.raises(StorageFailed, match="could not be read"):
                execute(db, "SELECT sum(match_mask) FROM scores", s3)
        finally:
            bucket.start()
            db.close()
        write(store, checkpoint, 10, 20)
        assert len(store.read_scores("toy", "s", 7, 0, 20).sequence_id) == 20

    def test_a_bucket_that_is_not_there(self, bucket: Bucket, cli: Cli) -> None:
        assert "no store at s3://nobucket/x" in cli("status", "s3://nobucket/x", code=4).stderr
        assert (
            "nobucket"
            in cli(
                "import", "csv", "--checkpoint", "12b@143000", "--out", "s3://nobucket/x", __file__, code=None
            ).stderr
        )
