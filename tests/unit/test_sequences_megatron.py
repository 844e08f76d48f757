"""Megatron indexed datasets: whole, in shards, damaged, remote, and larger than memory."""

from __future__ import annotations

import hashlib
import os
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron_files import CODES, shard, write_dataset
from web_server import listening

from memoserve.errors import BadInput, StorageFailed
from memoserve.files import retries
from memoserve.sequences import check_tokens, open_sequences


@st.composite
def datasets(draw: st.DrawFn, least: int = 0, fewest: int = 0) -> tuple[int, list[list[int]]]:
    code = draw(st.sampled_from(sorted(CODES)))
    top = min(np.iinfo(CODES[code]).max, 2**32 - 1)
    one = st.lists(st.integers(0, int(top)), min_size=least, max_size=12)
    return code, draw(st.lists(one, min_size=fewest, max_size=12))


@given(datasets(least=3), st.data())
@settings(max_examples=60, deadline=None)
def test_reads_back_what_was_written(dataset: tuple[int, list[list[int]]], data: st.DataObject) -> None:
    code, sequences = dataset
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "train.set"
        write_dataset(prefix, sequences, code)
        whole = open_sequences(f"{prefix}.idx")
        identity = whole.identity()
        cuts = data.draw(st.lists(st.integers(0, sum(map(len, sequences)) * 8), max_size=4))
        size = prefix.with_name("train.set.bin").stat().st_size
        shard(prefix, [min(cut, size) for cut in cuts], data.draw(st.booleans()))
        sharded = open_sequences(prefix)
        assert whole.count == sharded.count == len(sequences)
        assert sharded.identity() == identity
        length = data.draw(st.integers(1, 3))
        first = data.draw(st.integers(0, len(sequences)))
        stop = data.draw(st.integers(first, len(sequences)))
        ids = np.array(
            sorted(data.draw(st.sets(st.integers(0, len(sequences) - 1)))) if sequences else [], int
        )
        for source in (whole, sharded):
            block = source.read(first, stop, length)
            assert block.dtype == np.uint32
            assert block.shape == (stop - first, length)
            assert block.tolist() == [tokens[:length] for tokens in sequences[first:stop]]
            assert source.take(ids, length).tolist() == [sequences[i][:length] for i in ids]
            assert source.lengths(ids).tolist() == [len(sequences[i]) for i in ids]


@given(st.sampled_from(sorted(CODES)), st.lists(st.integers(0, 10), max_size=12), st.data())
@settings(max_examples=300, deadline=None)
def test_a_damaged_index_is_refused_or_reads_right(code: int, sizes: list[int], data: st.DataObject) -> None:
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    # Every token differs from the others, so that a wrong place shows.
    sequences = [list(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "d"
        write_dataset(prefix, sequences, code)
        index = Path(f"{prefix}.idx")
        content = bytearray(index.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            at = data.draw(st.integers(0, len(content) - 1))
            # Small changes are the dangerous ones: what they point at is there.
            changed = data.draw(st.one_of(st.integers(0, 255), st.integers(-4, 4).map(content[at].__add__)))
            content[at] = changed % 256
        if data.draw(st.integers(0, 4)) == 0:
            content = content[: data.draw(st.integers(0, len(content)))]
        content += data.draw(st.one_of(st.just(b""), st.binary(max_size=9)))
        index.write_bytes(content)
        try:
            source = open_sequences(index)
            assert source.count == len(sequences)
            for i, tokens in enumerate(sequences):
                if tokens:
                    assert source.read(i, i + 1, len(tokens)).tolist() == [tokens]
                assert source.lengths(np.array([i])).tolist() == [len(tokens)]
        except BadInput:
            pass


@given(st.binary(max_size=80), st.binary(max_size=20))
@settings(max_examples=100, deadline=None)
def test_garbage_is_refused(index: bytes, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for start in (b"", b"MMIDIDX\0\0", b"MMIDIDX\0\0" + struct.pack("<Q", 1)):
            (Path(folder) / "d.idx").write_bytes(start + index)
            (Path(folder) / "d.bin").write_bytes(data + b"odd" * 7)
            with pytest.raises(BadInput, match=r"d\.(idx|bin)"):
                open_sequences(f"{folder}/d.idx")


def damage(prefix: Path, offset: int, content: bytes, file: str = ".idx") -> None:
    with open(f"{prefix}{file}", "r+b") as opened:
        opened.seek(offset)
        opened.write(content)


TEN = [[10 * i + j for j in range(4)] for i in range(10)]


def test_messages_say_what_was_expected_and_found(tmp_path: Path) -> None:
    def refused(*mentions: str) -> None:
        with pytest.raises(BadInput) as refusal:
            open_sequences(f"{prefix}.idx").read(0, 10, 4)
        for mention in mentions:
            assert mention in str(refusal.value)
        write_dataset(prefix, TEN)

    prefix = tmp_path / "p"
    write_dataset(prefix, TEN)
    os.truncate(f"{prefix}.bin", 70)
    refused(f"{prefix}.bin", "expected 80 bytes", "found 70")
    Path(f"{prefix}.bin").write_bytes(bytes(90))
    refused("expected 80 bytes", "found 90")
    os.truncate(f"{prefix}.idx", 100)
    refused(f"{prefix}.idx", "10 sequences", "take 170 bytes", "100 bytes were found")
    damage(prefix, 0, b"TNTIDX\0\0\0")
    refused("TNTIDX", "MMIDIDX")
    damage(prefix, 9, b"\2")
    refused("version 2")
    damage(prefix, 17, b"\6")
    refused("float32")
    damage(prefix, 17, b"\x09")
    refused("dtype code 9")
    # A count that would take 2**60 entries must be refused by the size of the file, not tried.
    damage(prefix, 18, struct.pack("<Q", 2**60))
    refused("1,152,921,504,606,846,976 sequences")
    damage(prefix, 34 + 4 * 3, struct.pack("<i", -5))
    refused("sequence 3", "-5 tokens")
    damage(prefix, 34 + 40 + 8 * 6, struct.pack("<q", 2**62))
    refused("sequence 6", str(2**62))
    write_dataset(prefix, [[1, 2, 3]])
    damage(prefix, 34, struct.pack("<iq", 2, 2))  # ends where the data end, but doesn't begin there
    with pytest.raises(BadInput, match="sequence 0 has 2 tokens at byte 2"):
        open_sequences(prefix).read(0, 1, 2)


def test_damage_far_from_what_is_read_does_not_matter_but_at_the_neighbour_does(tmp_path: Path) -> None:
    write_dataset(tmp_path / "p", TEN)
    damage(tmp_path / "p", 34 + 4 * 7, struct.pack("<i", 3))
    source = open_sequences(tmp_path / "p")
    assert source.read(0, 5, 4).tolist() == TEN[:5]
    with pytest.raises(BadInput, match="sequence 8"):
        source.read(7, 8, 2)
    with pytest.raises(BadInput, match="sequence 8"):
        source.take(np.array([1, 8]), 2)


def test_short_sequence_is_named(tmp_path: Path) -> None:
    write_dataset(tmp_path / "p", [[1, 2, 3], [1, 2], [1]])
    with pytest.raises(BadInput, match=r"p\.idx: sequence 1 has 2 tokens, 3 are needed"):
        open_sequences(tmp_path / "p.bin").read(0, 3, 3)


@pytest.mark.parametrize("first_stop", [(0, 11), (-1, 3), (5, 4)])
def test_ranges_outside_are_refused(tmp_path: Path, first_stop: tuple[int, int]) -> None:
    write_dataset(tmp_path / "p", TEN)
    source = open_sequences(tmp_path / "p.bin")
    with pytest.raises(BadInput, match="0:10"):
        source.read(*first_stop, 2)
    with pytest.raises(BadInput, match="no sequence 10"):
        source.take(np.array([3, 10]), 2)
    with pytest.raises(BadInput, match="ascending"):
        source.take(np.array([3, 2]), 2)
    with pytest.raises(BadInput, match="at least 1"):
        source.read(0, 1, 0)


@pytest.mark.parametrize(("code", "bad"), [(2, -1), (3, -7), (4, -(2**31)), (5, -1), (5, 2**32)])
def test_what_is_no_token_id_is_refused(tmp_path: Path, code: int, bad: int) -> None:
    write_dataset(tmp_path / "p", [[1, 2], [3, bad]], code)
    source = open_sequences(tmp_path / "p.idx")
    assert source.read(0, 1, 2).tolist() == [[1, 2]]
    with pytest.raises(BadInput, match=f"sequence 1 has {bad} at position 1"):
        source.read(0, 2, 2)


def test_missing_files_are_named(tmp_path: Path) -> None:
    prefix = tmp_path / "p"
    with pytest.raises(BadInput, match=r"p does not exist \(nor .*p\.idx\)"):
        open_sequences(prefix)
    write_dataset(prefix, TEN)
    shard(prefix, [7, 30, 30, 61], last_is_count=False)
    assert open_sequences(tmp_path / "p-00002-of-00004.bin").read(0, 10, 4).tolist() == TEN
    assert open_sequences(tmp_path).read(0, 10, 4).tolist() == TEN
    (tmp_path / "p-00001-of-00004.bin").rename(tmp_path / "aside")
    with pytest.raises(BadInput, match=r"p-00001-of-00004\.bin"):
        open_sequences(prefix)
    (tmp_path / "aside").rename(tmp_path / "p-00001-of-00004.bin")
    (tmp_path / "p-00004-of-00004.bin").unlink()
    with pytest.raises(BadInput, match=r"expected 80 bytes by .*, found 61: .*shards are missing"):
        open_sequences(prefix)
    (tmp_path / "p-00000-of-00009.bin").write_bytes(b"")
    with pytest.raises(BadInput, match="different sets"):
        open_sequences(prefix)
    (tmp_path / "p.idx").unlink()
    with pytest.raises(BadInput, match=r"p\.idx does not exist"):
        open_sequences(tmp_path / "p-00000-of-00004.bin")


def test_a_pipe_and_a_folder_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.idx")
    (tmp_path / "p.bin").mkdir()
    with pytest.raises(BadInput, match="not a file"):
        open_sequences(tmp_path / "p.idx")


def test_data_truncated_after_opening_are_an_error_not_a_crash(tmp_path: Path) -> None:
    write_dataset(tmp_path / "p", TEN)
    source = open_sequences(tmp_path / "p.idx")
    os.truncate(tmp_path / "p.bin", 40)
    with pytest.raises(BadInput, match=r"p\.bin was truncated while"):
        source.read(0, 10, 4)


def test_far_apart_and_many_sequences_are_read_in_several_reads(tmp_path: Path) -> None:
    # 3000 sequences of 2049 tokens are 12 MB: more than one read, and gaps wider than what is read over.
    rows = np.random.default_rng(1).integers(0, 60000, (3000, 2049))
    write_dataset(tmp_path / "p", rows.tolist())
    source = open_sequences(tmp_path / "p")
    assert (source.read(0, 3000, 64) == rows[:, :64]).all()
    assert (source.read(0, 3000, 2049) == rows).all()
    ids = np.array([0, 1, 1, 2, 700, 1499, 1500, 2999])
    assert (source.take(ids, 64) == rows[ids, :64]).all()


def test_identity_follows_the_content_not_the_place(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    rows = np.arange(400_000).reshape(200, 2000) % 50000  # 800 kB: sampled, not hashed whole
    write_dataset(tmp_path / "p", rows.tolist())
    write_dataset(tmp_path / "elsewhere" / "q", rows.tolist())
    identity = open_sequences(tmp_path / "p").identity()
    assert identity == open_sequences(tmp_path / "elsewhere" / "q.bin").identity()
    assert identity["kind"] == "megatron"
    assert identity["count"] == 200
    assert identity["bytes"] == 800_000
    for offset in (0, 799_999):
        write_dataset(tmp_path / "p", rows.tolist())
        damage(tmp_path / "p", offset, b"\xaa", ".bin")
        other = open_sequences(tmp_path / "p").identity()
        assert {key for key in identity if identity[key] != other[key]} == {"data_sha256"}
    write_dataset(tmp_path / "p", rows.reshape(400, 1000).tolist())
    other = open_sequences(tmp_path / "p").identity()
    assert {key for key in identity if identity[key] != other[key]} == {"count", "index_sha256"}


def test_tokens_beyond_the_vocabulary_are_named() -> None:
    tokens = np.array([[1, 2], [3, 50], [4, 99]], dtype=np.uint32)
    check_tokens(tokens, 7, 100, "a.bin")
    with pytest.raises(BadInput, match=r"a\.bin: sequence 8 has token id 50 at position 1.* 50 ids"):
        check_tokens(tokens, 7, 50, "a.bin")
    with pytest.raises(BadInput, match="sequence 30 has token id 99"):
        check_tokens(tokens, np.array([10, 20, 30]), 99, "a.bin")


def test_remote_files_read_as_local_ones(tmp_path: Path) -> None:
    rows = np.random.default_rng(2).integers(0, 60000, (600, 2049)).tolist()
    write_dataset(tmp_path / "p", rows)
    local = open_sequences(tmp_path / "p")
    identity = local.identity()
    shard(tmp_path / "p", [1_000_001, 2_000_000], last_is_count=False)
    memory = fsspec.filesystem("memory")
    for file in tmp_path.iterdir():
        memory.pipe_file(f"/bucket/{file.name}", file.read_bytes())
    try:
        for name in ("p", "p.idx", "p-00001-of-00002.bin", ""):
            source = open_sequences(f"memory://bucket/{name}")
            assert source.identity() == identity
            ids = np.array([3, 243, 244, 487, 599])
            assert source.take(ids, 64).tolist() == [rows[i][:64] for i in ids]
        with pytest.raises(BadInput, match=r"memory://.*other"):
            open_sequences("memory://bucket/other.idx")
    finally:
        memory.rm("/bucket", recursive=True)


class Web(BaseHTTPRequestHandler):
    folder: Path
    ranges = True
    failures = 0
    sent = 0

    def log_message(self, *_: object) -> None:
        """Silence."""

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        file = self.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        content = file.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted and type(self).failures > 0:
            type(self).failures -= 1
            self.send_error(503)
            return
        if wanted and self.ranges:
            part = content[int(wanted[1]) : int(wanted[2]) + 1]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {wanted[1]}-{wanted[2]}/{len(content)}")
        else:
            part = content
            self.send_response(200)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if body:
            type(self).sent += len(part)
            self.wfile.write(part)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[tuple[type[Web], str]]:
    handler = type("Handler", (Web,), {"folder": tmp_path})
    with listening(handler) as address:
        yield handler, address


def test_a_web_server_is_asked_for_ranges_only(
    tmp_path: Path, web: tuple[type[Web], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE", 0.0)
    handler, address = web
    rows = (np.arange(3000 * 2049) % 60000).reshape(3000, 2049).tolist()
    write_dataset(tmp_path / "p", rows)
    shard(tmp_path / "p", [5_000_000], last_is_count=False)
    source = open_sequences(f"{address}/p-00000-of-00001.bin")  # no listing there: a shard tells the rest
    handler.sent = 0
    handler.failures = 2
    ids = np.array([0, 300, 600, 1219, 1220, 1221, 2999])
    assert source.take(ids, 64).tolist() == [rows[i][:64] for i in ids]
    assert handler.failures == 0
    assert 0 < handler.sent < 60_000  # 36 kB of them the index
    handler.failures = 1000
    with pytest.raises(StorageFailed, match="503"):
        source.read(0, 3, 64)
    handler.failures = 0
    with pytest.raises(BadInput, match="give the address of one shard"):
        open_sequences(f"{address}/p.idx")
    with pytest.raises(BadInput, match=r"127\.0\.0\.1:9/p\.idx .*doesn't answer \(.*[Cc]onnect"):
        open_sequences("http://127.0.0.1:9/p.idx")
    (tmp_path / "p-00001-of-00001.bin").unlink()
    with pytest.raises(BadInput, match="no longer there"):
        source.read(2000, 2001, 64)


def test_a_web_server_without_ranges_is_refused(tmp_path: Path, web: tuple[type[Web], str]) -> None:
    handler, address = web
    write_dataset(tmp_path / "p", TEN)
    handler.ranges = False
    with pytest.raises(BadInput, match=r"p\.idx"):
        open_sequences(f"{address}/p.bin")


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(BadInput, match="nonsense://"):
        open_sequences("nonsense://bucket/p.idx")


LARGE = """
import sys
import numpy as np
from memoserve.sequences import Selection, open_sequences

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

prefix, text = sys.argv[1:]
before = peak()
source = open_sequences(prefix + "-00000-of-00001.bin")
assert source.count == 6_000_000
identity = source.identity()
assert identity["bytes"] == 6_000_000 * 4098
assert source.read(5_999_990, 6_000_000, 64)[9, :3].tolist() == [7, 8, 9]
assert source.read(2_500_000, 2_520_000, 64).sum() == 0  # 82 MB from the first to the last byte
ids = Selection(0, source.count, fraction=0.0002, seed=5).ids(0, source.count)
assert 1000 < len(ids) < 1400
assert source.take(ids, 64).shape == (len(ids), 64)
lines = open_sequences(text)
assert lines.read(lines.count // 2, lines.count // 2 + 3, 64).tolist() == [list(range(100, 164))] * 3
print(peak() - before, identity["index_sha256"])
"""


def test_memory_stays_small_whatever_the_size_of_the_data(tmp_path: Path) -> None:
    count = 6_000_000
    sizes = np.full(count, 2049, dtype="<i4")
    pointers = np.arange(count, dtype="<i8") * 4098
    with open(tmp_path / "big.idx", "wb") as index:
        index.write(b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, count, 1))
        index.write(sizes.tobytes() + pointers.tobytes() + struct.pack("<q", 0))
    for number, size in enumerate([12 * 10**9, count * 4098 - 12 * 10**9]):  # sparse: 24 GB take no room
        with open(tmp_path / f"big-{number:05}-of-00001.bin", "wb") as data:
            data.truncate(size)
            if number == 1:
                data.seek(size - 4098)
                data.write(struct.pack("<3H", 7, 8, 9))
    line = b'{"tokens": [' + b", ".join(b"%d" % i for i in range(100, 400)) + b"]}\n"
    with open(tmp_path / "big.jsonl", "wb") as text:
        for _ in range(60):
            text.write(line * 1000)  # 90 MB
    ended = subprocess.run(
        [sys.executable, "-c", LARGE, str(tmp_path / "big"), str(tmp_path / "big.jsonl")],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert ended.returncode == 0, ended.stderr
    grown, index_sha256 = ended.stdout.split()
    assert int(grown) < 40_000, "kB: the index alone has 72 MB, the text 90 MB"
    assert index_sha256 == hashlib.sha256((tmp_path / "big.idx").read_bytes()).hexdigest()
