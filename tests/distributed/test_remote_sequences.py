"""Sequences on web servers and in buckets, and packs: what is asked for, what is refused, what is resumed."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from command_line import Cli
from megatron_files import shard, write_dataset
from moto.server import ThreadedMotoServer
from numpy.typing import NDArray
from web_server import Answer, Fault, Request, WebServer, listening, serving

from memoserve.errors import BadInput, StorageFailed
from memoserve.files import retries
from memoserve.files.byte_ranges import REQUESTS
from memoserve.sequences import open_sequences, write_pack

pytestmark = pytest.mark.thorough

COUNT, LENGTH = 4000, 2049


@pytest.fixture(scope="module")
def rows() -> NDArray[np.uint32]:
    return np.random.default_rng(3).integers(0, 60000, (COUNT, LENGTH)).astype(np.uint32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, rows: NDArray[np.uint32]) -> Path:
    """`p`: an index and four shards of a .bin of 16 MB; `pack`: a pack of it; `a.npy`, `a.parquet`."""
    import pyarrow as pa
    from pyarrow import parquet

    folder = tmp_path_factory.mktemp("data")
    write_dataset(folder / "p", rows.tolist())
    shard(folder / "p", [4_000_001, 8_000_000, 12_000_000], last_is_count=False)
    write_pack(lambda: open_sequences(folder / "p"), folder / "pack", 64, rows_a_part=1024)
    np.save(folder / "a.npy", rows[:300].astype(np.uint16))
    some = pa.table({"tokens": [row.tolist() for row in rows[:300, :80]]})
    parquet.write_table(some, folder / "a.parquet", row_group_size=100)
    return folder


@pytest.fixture
def web(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.001)
    with serving(folder) as server:
        yield server


SHARDS = [f"p-0000{i}-of-00003.bin" for i in range(4)]
PACKED = [f"pack/tokens-0000{i}.npy" for i in range(4)]


class TestWhatIsAskedFor:
    def test_a_sample_costs_a_request_a_sequence_and_no_other_shard(
        self, web: WebServer, rows: NDArray[np.uint32]
    ) -> None:
        source = open_sequences(f"{web.address}/{SHARDS[0]}")
        assert {r.name for r in web.gets()} == {"p.idx"}
        source.identity()  # what a run asks for first: the whole index, 66 samples of the data
        asked = web.gets()
        assert sum(r.sent for r in asked if r.name == "p.idx") < 1.1 * (34 + 12 * COUNT + 16)
        assert sum(r.sent for r in asked if r.name != "p.idx") < 66 * 4096 + 4 * 100
        web.requests.clear()
        # 30 sequences from the second shard, all further apart than what is read over.
        ids = np.arange(1000, 1930, 31)
        ids = ids + (np.arange(len(ids)) % 7)
        found = source.take(ids, 64)
        assert (found == rows[ids, :64]).all()
        assert {r.name for r in web.gets()} == {SHARDS[1]}
        assert len(web.gets()) <= len(ids) + 2
        web.requests.clear()
        far = np.array([980, 1200, 1420, 1640, 1860])  # 900 kB apart: nothing is read over
        assert (source.take(far, 64) == rows[far, :64]).all()
        assert {r.name for r in web.gets()} == {SHARDS[1]}
        assert [r.sent for r in web.gets()] == [128] * 5

    def test_without_the_identity_entries_are_read_by_ranges_too(
        self, web: WebServer, rows: NDArray[np.uint32]
    ) -> None:
        source = open_sequences(f"{web.address}/{SHARDS[0]}")
        web.requests.clear()
        assert (source.take(np.array([5, 3000]), 64) == rows[[5, 3000], :64]).all()
        assert {r.name for r in web.gets()} == {"p.idx", SHARDS[0], SHARDS[3]}
        assert len(web.gets(SHARDS[0])) == len(web.gets(SHARDS[3])) == 3  # its two ends, once, and the data

    def test_a_full_pass_streams_each_byte_once_and_several_requests_at_once(
        self, web: WebServer, rows: NDArray[np.uint32]
    ) -> None:
        web.delay = 0.02
        source = open_sequences(f"{web.address}/{SHARDS[0]}")
        source.identity()
        web.requests.clear()
        web.concurrent = 0
        assert (source.read(0, COUNT, 64) == rows[:, :64]).all()
        assert COUNT * LENGTH * 2 * 0.99 < sum(r.sent for r in web.gets()) <= COUNT * LENGTH * 2
        assert len(web.gets()) < 12
        assert 1 < web.concurrent <= REQUESTS

    def test_a_pack_reads_blocks_of_the_parts_that_are_needed(
        self, web: WebServer, rows: NDArray[np.uint32]
    ) -> None:
        for address in (f"{web.address}/pack", f"{web.address}/pack/manifest.json"):
            source = open_sequences(address)
            assert {r.name for r in web.requests} <= {
                "pack",
                "pack/manifest.json",
                "pack/checksums.npy",
                "pack.idx",
            }
            web.requests.clear()
            ids = np.array([1030, 2047])
            assert (source.take(ids, 64) == rows[ids, :64]).all()
            assert {r.name for r in web.requests} == {PACKED[1]}
            assert len(web.requests) <= 4
            assert (source.read(0, COUNT, 64) == rows[:, :64]).all()
            web.requests.clear()

    def test_other_kinds(self, web: WebServer, rows: NDArray[np.uint32], folder: Path) -> None:
        for name in ("a.npy", "a.parquet"):
            source = open_sequences(f"{web.address}/{name}")
            assert source.identity() == open_sequences(folder / name).identity()
            ids = np.array([0, 99, 100, 250, 299])
            assert (source.take(ids, 64) == rows[ids, :64]).all()
            assert (source.read(0, 300, 64) == rows[:300, :64]).all()


def once_in(n: int, fault: Fault) -> Fault:
    """A fault in every n-th answer."""
    count = iter(range(10**9))

    def some(request: Request, content: bytes, answer: Answer) -> None:
        if next(count) % n == 0:
            fault(request, content, answer)

    return some


def first_time(fault: Fault, times: int = 1) -> Fault:
    """A fault in the first answers about each range (which ends where it ends, wherever it goes on)."""
    seen: dict[tuple[str, int | None], int] = {}

    def some(request: Request, content: bytes, answer: Answer) -> None:
        key = (request.name, request.last)
        seen[key] = seen.get(key, 0) + 1
        if seen[key] <= times:
            fault(request, content, answer)

    return some


def unavailable(status: int = 503, after: str = "") -> Fault:
    def fault(request: Request, content: bytes, answer: Answer) -> None:
        answer.status, answer.body = status, b"an error page"
        answer.headers = {"Retry-After": after} if after else {}

    return fault


def cut(share: float) -> Fault:
    def fault(request: Request, content: bytes, answer: Answer) -> None:
        answer.cut = int(len(answer.body) * share)

    return fault


def ignores_ranges(request: Request, content: bytes, answer: Answer) -> None:
    answer.status, answer.body, answer.headers = 200, content, {}


def shifted(by: int, honest: bool) -> Fault:
    """Sends what lies `by` bytes further on, and says so or doesn't."""

    def fault(request: Request, content: bytes, answer: Answer) -> None:
        assert request.first is not None
        assert request.last is not None
        first, last = max(request.first + by, 0), request.last + by
        answer.body = content[first : last + 1]
        if honest:
            answer.headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"

    return fault


def changed(**headers: str) -> Fault:
    def fault(request: Request, content: bytes, answer: Answer) -> None:
        answer.headers.update({key.replace("_", "-"): value for key, value in headers.items()})

    return fault


def short(request: Request, content: bytes, answer: Answer) -> None:
    answer.body = answer.body[: len(answer.body) // 2]


def longer(request: Request, content: bytes, answer: Answer) -> None:
    answer.body += bytes(100)


def flipped(request: Request, content: bytes, answer: Answer) -> None:
    answer.body = bytes([answer.body[0] ^ 1]) + answer.body[1:]


class TestAServerThatMisbehaves:
    @pytest.mark.parametrize(
        "fault",
        [
            first_time(unavailable(), times=4),
            first_time(unavailable(429, after="0")),
            first_time(unavailable(500)),
            first_time(cut(0.0)),
            first_time(cut(0.7), times=5),
            first_time(cut(0.999)),
        ],
    )
    def test_what_may_pass_is_asked_for_again(
        self, web: WebServer, rows: NDArray[np.uint32], fault: Fault
    ) -> None:
        web.fault = web.head_fault = fault
        source = open_sequences(f"{web.address}/{SHARDS[0]}")
        ids = np.arange(0, COUNT, 131)
        assert (source.take(ids, 64) == rows[ids, :64]).all()
        assert (source.read(0, COUNT, 64) == rows[:, :64]).all()

    def test_what_came_before_a_connection_broke_is_not_asked_for_again(
        self, web: WebServer, rows: NDArray[np.uint32]
    ) -> None:
        source = open_sequences(f"{web.address}/{SHARDS[0]}")
        source.identity()
        web.requests.clear()
        web.fault = first_time(cut(0.7))
        assert (source.read(0, COUNT, 64) == rows[:, :64]).all()
        # But for what was still on its way through the network's buffers.
        assert sum(r.sent for r in web.gets()) <= COUNT * LENGTH * 2 * 1.15

    def test_a_server_says_when_to_come_back(self, web: WebServer, rows: NDArray[np.uint32]) -> None:
        source = open_sequences(f"{web.address}/{SHARDS[0]}")
        source.take(np.array([0]), 64)
        web.fault = first_time(unavailable(after="1"))
        began = time.monotonic()
        assert (source.take(np.array([7]), 64) == rows[[7], :64]).all()
        assert 1.0 <= time.monotonic() - began < 5.0
        web.fault = unavailable(after="3600")
        began = time.monotonic()
        with pytest.raises(StorageFailed, match=r"p\.idx.*503.*left alone for 3600 s"):
            source.take(np.array([0]), 64)
        assert time.monotonic() - began < 1.0

    @pytest.mark.parametrize(
        ("fault", "error", "said"),
        [
            (unavailable(), StorageFailed, "answers 503.*try again later"),
            (cut(0.0), StorageFailed, "reading at byte"),
            (unavailable(403), BadInput, "may not be read.*403.*credentials"),
            (unavailable(404), BadInput, "no longer there"),
            (unavailable(416), BadInput, "no longer 4000001 bytes"),
            (unavailable(418), StorageFailed, "answers 418"),
            (ignores_ranges, BadInput, "doesn't answer range requests.*download it"),
            (shifted(1, honest=True), BadInput, "were asked for, its server sends 'bytes.*download it"),
            (shifted(1, honest=False), BadInput, "were asked for, its server sends 15"),
            (shifted(-1, honest=False), BadInput, "were asked for, its server sends 15"),
            (shifted(4098, honest=False), BadInput, "were asked for"),
            (short, BadInput, "were asked for, its server sends"),
            (longer, BadInput, "were asked for, its server sends"),
            (changed(Content_Range=""), BadInput, "an unnamed range"),
            (changed(Content_Range="bytes 0-0/*"), BadInput, "bytes 0-0"),
            (changed(Content_Range="bits 1-2/3\u00b2"), BadInput, "were asked for"),
            (changed(Content_Encoding="gzip"), BadInput, "packs what it sends"),
        ],
    )
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
    def test_wrong_answers_are_never_data(
        self, web: WebServer, fault: Fault, error: type[Exception], said: str
    ) -> None:
        source = open_sequences(f"{web.address}/{SHARDS[0]}")
        web.requests.clear()

        def on_data(request: Request, content: bytes, answer: Answer) -> None:
            if request.name.endswith(".bin"):
                fault(request, content, answer)

        web.fault = on_data
        for ids in ([0], [3, 500], [970]):
            with pytest.raises(error, match=said) as refusal:
                source.take(np.array(ids), 64)
            assert f"{web.address}/{SHARDS[0]}" in str(refusal.value)
        # A server that sends 4 MB for 128 bytes is hung up on, not listened to.
        assert sum(r.sent for r in web.gets(SHARDS[0])) < 30_000_000
        web.fault = None
        source.take(np.array([0]), 64)

    def test_a_file_that_changes_is_refused(self, web: WebServer) -> None:
        source = open_sequences(f"{web.address}/{SHARDS[0]}")
        source.take(np.array([0]), 64)
        web.fault = changed(ETag='"2"')
        with pytest.raises(BadInput, match=r"p\.idx changed.*ETag was \"1\", is now \"2\""):
            source.take(np.array([0]), 64)

        def grown(request: Request, content: bytes, answer: Answer) -> None:
            span = answer.headers["Content-Range"].partition("/")[0]
            answer.headers["Content-Range"] = f"{span}/99999999"

        web.fault = grown
        with pytest.raises(BadInput, match="now 99999999 bytes long"):
            source.take(np.array([0]), 64)

    def test_a_file_that_changes_without_an_etag_is_refused(self, web: WebServer) -> None:
        web.fault = changed(ETag='W/"1"', Last_Modified="Mon, 02 Nov 2026 10:00:00 GMT")
        source = open_sequences(f"{web.address}/{SHARDS[0]}")
        source.take(np.array([0]), 64)
        source.take(np.array([3]), 64)
        web.fault = changed(ETag='W/"1"', Last_Modified="Mon, 02 Nov 2026 10:00:01 GMT")
        with pytest.raises(BadInput, match=r"p\.idx changed.*Last-Modified was .*10:00:00 .*10:00:01"):
            source.take(np.array([0]), 64)

    @pytest.mark.parametrize("name", ["p.idx", "p", "a.npy", "a.parquet", "lines.jsonl", "pack"])
    def test_pythons_own_web_server_which_knows_no_ranges(
        self, folder: Path, tmp_path: Path, name: str
    ) -> None:
        for file in folder.iterdir():
            (tmp_path / file.name).symlink_to(file)
        (tmp_path / "lines.jsonl").write_text('{"tokens": [1, 2, 3, 4]}\n' * 9)

        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                """Silence."""

        handler = functools.partial(Quiet, directory=str(tmp_path))
        refusal = pytest.raises(BadInput, match=r"doesn't answer range requests.*download it")
        with listening(handler) as address, refusal:
            open_sequences(f"{address}/{name}").take(np.array([3]), 3)

    @pytest.mark.parametrize("fault", [flipped, shifted(1, honest=False), shifted(-64, honest=False)])
    @pytest.mark.parametrize("n", [1, 3])
    def test_a_pack_finds_even_lies_that_no_header_shows(
        self, web: WebServer, rows: NDArray[np.uint32], fault: Fault, n: int
    ) -> None:
        source = open_sequences(f"{web.address}/pack")
        source.take(np.array([0, 1500, 2500, 3500]), 64)  # past the look at each part's ends
        web.fault = once_in(n, fault)
        refused = 0
        for i in random.Random(5).sample(range(COUNT), 12):
            try:
                assert (source.take(np.array([i]), 64) == rows[[i], :64]).all()
            except BadInput as error:
                refused += "checksum differs" in str(error) or "were asked for" in str(error)
        assert refused == 12 if n == 1 else 2 <= refused <= 6

    def test_a_refusal_at_opening_is_asked_again_and_then_told(self, web: WebServer) -> None:
        web.fault = web.head_fault = unavailable()
        with pytest.raises(BadInput, match=rf"{web.address}/p\.idx .*503"):
            open_sequences(f"{web.address}/p.idx")
        web.fault = web.head_fault = unavailable(404)
        with pytest.raises(BadInput, match=r"p\.idx does not exist"):
            open_sequences(f"{web.address}/p.idx")


@pytest.fixture(scope="module")
def bucket(folder: Path) -> Iterator[str]:
    """`s3://pile` on a real S3-compatible server, with what `folder` holds."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    environment = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        remote = fsspec.filesystem("s3", skip_instance_cache=True)
        remote.mkdir("pile")
        for path in folder.rglob("*"):
            if path.is_file():
                remote.pipe_file(f"pile/{path.relative_to(folder)}", path.read_bytes())
        fsspec.filesystem("s3").clear_instance_cache()
        yield "s3://pile"
    fsspec.filesystem("s3").clear_instance_cache()
    server.stop()


class TestABucket:
    @pytest.mark.parametrize(
        "name", ["p", "p.idx", "p-00002-of-00003.bin", "pack", "pack/manifest.json", "a.npy", "a.parquet"]
    )
    def test_reads_as_the_local_files(
        self, bucket: str, folder: Path, rows: NDArray[np.uint32], name: str
    ) -> None:
        source, local = open_sequences(f"{bucket}/{name}"), open_sequences(folder / name)
        assert source.identity() == local.identity()
        assert source.count == local.count
        ids = np.unique(np.linspace(0, source.count - 1, 7).astype(int))
        assert (source.take(ids, 64) == rows[ids, :64]).all()
        assert (source.read(3, source.count, 64) == rows[3 : source.count, :64]).all()

    def test_only_what_is_needed_is_asked_for(
        self, bucket: str, rows: NDArray[np.uint32], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from s3fs import S3FileSystem

        asked: list[tuple[str, str]] = []
        call = S3FileSystem._call_s3

        async def counted(self: S3FileSystem, method: str, *args: object, **kwargs: object) -> object:
            asked.append((method, f"{kwargs.get('Key')} {kwargs.get('Range')}"))
            return await call(self, method, *args, **kwargs)

        source = open_sequences(f"{bucket}/p.idx")
        source.identity()
        monkeypatch.setattr(S3FileSystem, "_call_s3", counted)
        ids = np.array([980, 1200, 1420, 1640, 1860])
        assert (source.take(ids, 64) == rows[ids, :64]).all()
        assert [method for method, _ in asked] == ["get_object"] * 5
        assert all(what.startswith(f"{SHARDS[1]} bytes=") for _, what in asked)

    def test_what_is_not_there_is_named(self, bucket: str) -> None:
        for name in ("nothing.idx", "nothing.npy", "nothing"):
            with pytest.raises(BadInput, match=rf"s3://pile/{name}"):
                open_sequences(f"{bucket}/{name}")
        with pytest.raises(BadInput, match="s3://nobucket"):
            open_sequences("s3://nobucket/p.npy")


class TestPacks:
    @pytest.mark.parametrize(("rows_a_part", "context"), [(1000, 32), (4000, 1), (1 << 20, 32), (7, 200)])
    def test_what_is_packed_is_what_the_original_holds(
        self, tmp_path: Path, rows: NDArray[np.uint32], rows_a_part: int, context: int
    ) -> None:
        np.save(tmp_path / "a.npy", rows[:, :300].astype(np.uint16))
        length = context + 32
        original = open_sequences(tmp_path / "a.npy")
        write_pack(lambda: original, tmp_path / "pack", length, rows_a_part)
        packed = open_sequences(tmp_path / "pack")
        assert packed.kind == "pack"
        assert packed.count == COUNT
        assert packed.identity() == original.identity()
        assert (packed.read(0, COUNT, length) == rows[:, :length]).all()
        assert (packed.read(5, 9, 3) == rows[5:9, :3]).all()
        ids = np.sort(np.random.default_rng(1).choice(COUNT, 300))
        assert (packed.take(ids, length) == rows[ids, :length]).all()
        assert packed.lengths(ids[:3]).tolist() == [length] * 3
        with pytest.raises(BadInput, match=f"pack.*has {length} tokens, {length + 1} are needed"):
            packed.read(0, 1, length + 1)
        # Plain NumPy reads it, and any sha256 checks it.
        parts = sorted((tmp_path / "pack").glob("tokens-*.npy"))
        assert (np.concatenate([np.load(part) for part in parts]) == rows[:, :length]).all()
        manifest = json.loads((tmp_path / "pack" / "manifest.json").read_text())
        first = np.load(parts[0])[: manifest["rows_a_block"]]
        checksums = np.load(tmp_path / "pack" / "checksums.npy")
        assert hashlib.sha256(first.tobytes()).digest() == checksums[0].tobytes()
        assert {path.name for path in tmp_path.iterdir()} == {"a.npy", "pack"}

    def test_it_is_small(self, folder: Path) -> None:
        """What 146,432,000 sequences will take follows from this: 128 bytes each, 32 per 512 of them."""
        total = sum(file.stat().st_size for file in (folder / "pack").iterdir())
        assert COUNT * 128 < total < COUNT * 128 + 4 * 128 + 8 * 32 + 128 + 1500

    def test_token_ids_above_u16(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.full((3, 64), 2**32 - 1, dtype=np.uint32))
        write_pack(lambda: open_sequences(tmp_path / "a.npy"), tmp_path / "pack", 64)
        assert (open_sequences(tmp_path / "pack").read(0, 3, 64) == 2**32 - 1).all()

    def test_no_sequences(self, tmp_path: Path) -> None:
        np.save(tmp_path / "a.npy", np.zeros((0, 64), dtype=np.uint16))
        write_pack(lambda: open_sequences(tmp_path / "a.npy"), tmp_path / "pack", 64)
        assert open_sequences(tmp_path / "pack").read(0, 0, 64).shape == (0, 64)

    def test_every_flipped_bit_is_found(self, tmp_path: Path, rows: NDArray[np.uint32]) -> None:
        np.save(tmp_path / "a.npy", rows[:50, :64].astype(np.uint16))
        write_pack(lambda: open_sequences(tmp_path / "a.npy"), tmp_path / "pack", 64, rows_a_part=20)
        rng = random.Random(11)
        for path in sorted((tmp_path / "pack").iterdir()):
            content = path.read_bytes()
            begin = 128 if path.name.startswith("tokens") else 0  # the .npy header is not used
            refused = 0
            for _ in range(60):
                at = rng.randrange(begin, len(content))
                bad = bytearray(content)
                bad[at] ^= 1 << rng.randrange(8)
                path.write_bytes(bad)
                try:
                    found = open_sequences(tmp_path / "pack").read(0, 50, 64)
                except BadInput as error:
                    refused += path.name in str(error)
                else:
                    # JSON has several ways to write one thing; what it means is the same then.
                    refused += path.name == "manifest.json" and bool((found == rows[:50, :64]).all())
            assert refused == 60
            for truncated in (content[:-1], b"", content + b"x"):
                path.write_bytes(truncated)
                try:
                    found = open_sequences(tmp_path / "pack").read(0, 50, 64)
                except BadInput:
                    continue
                assert (found == rows[:50, :64]).all()
            path.write_bytes(content)

    def test_what_stands_in_its_place_is_kept(self, tmp_path: Path, rows: NDArray[np.uint32]) -> None:
        np.save(tmp_path / "a.npy", rows[:50, :80].astype(np.uint16))
        np.save(tmp_path / "b.npy", rows[50:100, :80].astype(np.uint16))

        def pack(name: str, place: str, length: int = 64) -> None:
            write_pack(lambda: open_sequences(tmp_path / name), tmp_path / place, length)

        (tmp_path / "thesis").mkdir()
        with pytest.raises(BadInput, match="thesis exists and is not a pack"):
            pack("a.npy", "thesis")
        pack("a.npy", "pack")
        before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "pack").iterdir()}
        pack("a.npy", "pack")
        with pytest.raises(BadInput, match="pack of other sequences"):
            pack("b.npy", "pack")
        with pytest.raises(BadInput, match=r"pack of other lengths \(50 sequences, 64 tokens"):
            pack("a.npy", "pack", 65)
        assert before == {file.name: file.stat().st_mtime_ns for file in (tmp_path / "pack").iterdir()}

    def test_sequences_that_change_meanwhile_are_refused(
        self, tmp_path: Path, rows: NDArray[np.uint32]
    ) -> None:
        opened = iter("ab")
        for name in "ab":
            np.save(tmp_path / f"{name}.npy", rows[:50, :64].astype(np.uint16) + (name == "b"))
        with pytest.raises(BadInput, match="changed while they were packed"):
            write_pack(lambda: open_sequences(tmp_path / f"{next(opened)}.npy"), tmp_path / "pack", 64)
        assert not (tmp_path / "pack").exists()
        with pytest.raises(BadInput, match="beginning of another pack"):
            write_pack(lambda: open_sequences(tmp_path / "b.npy"), tmp_path / "pack", 64)
        with pytest.raises(BadInput, match="not finished"):
            open_sequences(tmp_path / "pack.unfinished")

    def test_a_sequence_that_is_too_short_is_named(self, tmp_path: Path, cli: Cli) -> None:
        lines = [json.dumps({"tokens": list(range(size))}) for size in (70, 63)]
        (tmp_path / "p.jsonl").write_text("\n".join(lines))
        said = cli("sequences", "pack", "p.jsonl", "-o", "pack", code=3).stderr
        assert "sequence 1 has 63 tokens, 64 are needed" in said
        # An index of sequences of unlike length is one of documents, of whatever length.
        write_dataset(tmp_path / "p", [list(range(70)), list(range(63))])
        assert "63 to 70 tokens" in cli("sequences", "pack", "p.idx", "-o", "pack", code=3).stderr
        assert not (tmp_path / "pack").exists()

    def test_killed_at_any_moment_it_goes_on_and_is_never_half_there(
        self, tmp_path: Path, rows: NDArray[np.uint32]
    ) -> None:
        np.save(tmp_path / "a.npy", np.tile(rows[:, :64], (10, 1)).astype(np.uint16))
        program = (
            "import sys, time\n"
            "from pathlib import Path\n"
            "from memoserve.sequences import open_sequences, write_pack\n"
            "from memoserve.sequences import packing\n"
            "packing.AT_ONCE = 1 << 16\n"
            "print('up', flush=True)\n"
            "def slowly(done, total):\n"
            "    print(done, flush=True); time.sleep(0.004)\n"
            "write_pack(lambda: open_sequences('a.npy'), Path('pack'), 64, 5000, slowly)\n"
        )
        rng = random.Random(2)
        kills = 0
        went_on = 0
        while not (tmp_path / "pack").exists():
            assert kills < 60
            process = subprocess.Popen(
                [sys.executable, "-c", program],
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            )
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            began = process.stdout.readline()
            went_on += bool(began.strip()) and int(began) > 5000
            time.sleep(rng.uniform(0, 0.25))
            process.send_signal(signal.SIGKILL)
            process.stdout.close()
            process.wait()
            kills += 1
        assert kills >= 2
        assert went_on >= 1
        packed = open_sequences(tmp_path / "pack")
        assert (packed.read(0, 40_000, 64) == np.tile(rows[:, :64], (10, 1))).all()
        np.save(tmp_path / "b.npy", np.load(tmp_path / "a.npy"))
        write_pack(lambda: open_sequences(tmp_path / "b.npy"), tmp_path / "undisturbed", 64, 5000)
        for file in (tmp_path / "undisturbed").iterdir():
            assert file.read_bytes() == (tmp_path / "pack" / file.name).read_bytes(), file.name
        assert len(list((tmp_path / "pack").iterdir())) == len(list((tmp_path / "undisturbed").iterdir()))

    def test_a_part_that_was_damaged_in_between_is_made_again(
        self, tmp_path: Path, rows: NDArray[np.uint32]
    ) -> None:
        np.save(tmp_path / "a.npy", rows[:, :64].astype(np.uint16))

        def pack(stop_after: int | None = None) -> None:
            def progress(done: int, total: int) -> None:
                if stop_after is not None and done > stop_after:
                    raise KeyboardInterrupt

            write_pack(lambda: open_sequences(tmp_path / "a.npy"), tmp_path / "pack", 64, 1000, progress)

        with pytest.raises(KeyboardInterrupt):
            pack(2500)
        part = tmp_path / "pack.unfinished" / "tokens-00001.npy"
        part.write_bytes(part.read_bytes()[:-1] + b"\x00")
        pack()
        assert (open_sequences(tmp_path / "pack").read(0, COUNT, 64) == rows[:, :64]).all()

    def test_two_writers(self, tmp_path: Path, rows: NDArray[np.uint32]) -> None:
        np.save(tmp_path / "a.npy", rows[:, :64].astype(np.uint16))

        def pack(progress: Callable[[int, int], None] | None = None) -> None:
            write_pack(lambda: open_sequences(tmp_path / "a.npy"), tmp_path / "pack", 64, 1000, progress)

        def meddling(done: int, total: int) -> None:
            with pytest.raises(BadInput, match="being written by another process"):
                pack()

        pack(meddling)
        assert (open_sequences(tmp_path / "pack").read(0, COUNT, 64) == rows[:, :64]).all()

    def test_a_full_disk_is_told_and_what_is_whole_is_kept(
        self, tmp_path: Path, rows: NDArray[np.uint32]
    ) -> None:
        np.save(tmp_path / "a.npy", rows[:, :64].astype(np.uint16))
        limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)); "
        limited += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        limited += "from memoserve.cli import main; main()"
        said = subprocess.run(
            [sys.executable, "-c", limited, "sequences", "pack", "a.npy", "-o", "pack"],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert said.returncode == 7, said.stderr
        assert "File too large" in said.stderr
        assert "goes on from there" in said.stderr
        assert not (tmp_path / "pack").exists()

    def test_memory_is_bounded(self, tmp_path: Path) -> None:
        """300,000 sequences of 2049 tokens are 1.2 GB, sparse here."""
        import struct

        count = 300_000
        with open(tmp_path / "p.idx", "wb") as index:
            index.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, count, 1))
            index.write(np.full(count, 2049, dtype="<i4").tobytes())
            index.write((np.arange(count, dtype="<i8") * 4098).tobytes() + struct.pack("<q", 0))
        with open(tmp_path / "p.bin", "wb") as data:
            data.truncate(count * 4098)
        program = (
            "import resource, sys; from memoserve.cli import main\n"
            "def peak(): return next(int(l.split()[1]) for l in open('/proc/self/status') if 'VmHWM' in l)\n"
            "from memoserve.sequences import open_sequences; import rich.progress; before = peak()\n"
            "try: main()\n"
            "except SystemExit as end: assert not end.code, end.code\n"
            "print(peak() - before)"
        )
        ended = subprocess.run(
            [sys.executable, "-c", program, "sequences", "pack", "p", "-o", "pack"],
            capture_output=True, text=True, check=True, cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )  # fmt: skip
        assert "300,000 sequences of 64 tokens (uint16)" in ended.stdout
        assert int(ended.stdout.split()[-1]) < 150_000, "kB"
        assert open_sequences(tmp_path / "pack").identity() == open_sequences(tmp_path / "p").identity()


@pytest.mark.engine
class TestRuns:
    def test_a_run_on_the_pack_goes_on_with_a_store_of_the_original(self, tmp_path: Path, cli: Cli) -> None:
        """And the other way round; other data are refused by name."""
        import memoserve

        mini = Path(memoserve.__file__).parent / "suites" / "shipped" / "mini"
        cli("sequences", "pack", "--suite", "mini", "-o", "pack")
        run = ["run", "--suite", "mini", "--checkpoints", "116k@161", "--mode", "extract"]
        run += ["--engine", "transformers", "--out", "store"]
        cli(*run, "--data", mini / "data" / "train.idx", "--sequences", "0:300")
        said = cli(*run, "--data", "pack", "--sequences", "0:600").stdout
        assert "300 scores written" in said
        with serving(tmp_path) as server:
            said = cli(*run, "--data", f"{server.address}/pack", "--sequences", "0:600").stdout
        assert "nothing to do: all scores exist" in said
        np.save(tmp_path / "other.npy", np.ones((600, 64), dtype=np.uint16))
        cli("sequences", "pack", "other.npy", "-o", "other")
        said = cli(*run, "--data", "other", "--sequences", "0:600", code=4).stderr
        assert "sequences_data_sha256" in said
        cli("sequences", "pack", "pack", "-o", "short", "--context", "8")
        said = cli(*run, "--data", "short", "--sequences", "0:601", code=3).stderr
        assert "make one with a longer context" in said


def test_the_command_packs_and_shows(tmp_path: Path, cli: Cli) -> None:
    cli("sequences", "pack", "--suite", "mini", "-o", "pack", "--context", "40")
    said = cli("sequences", "info", "pack").stdout
    assert "kind                      pack\n" in said
    assert "tokens each               72 to 72" in said
    original = cli("sequences", "info", "--suite", "mini").stdout
    identity = [line for line in original.splitlines() if line.startswith("identity")]
    assert [line for line in said.splitlines() if line.startswith("identity")] == identity
    assert "sequence 77" in cli("sequences", "show", "pack", "--ids", "0,77").stdout
