"""NumPy, Parquet and JSONL files, and tokenizers."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memoserve.errors import BadInput
from memoserve.sequences import jsonl, load_tokenizer, open_sequences, printable
from memoserve.sequences.source import SequenceSource

WORDS = ["the", "cat", "sat", "on", "a", "mat"]


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Word n of WORDS is token n; it asks for truncation and padding, as some published files do."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    made = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="the"))
    made.pre_tokenizer = Whitespace()
    made.enable_truncation(2)
    made.enable_padding(length=50)
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def check_against(source: SequenceSource, rows: list[list[int]], data: st.DataObject) -> None:
    """Ranges, single sequences and lengths, in an order that goes forwards and back."""
    assert source.count == len(rows)
    length = min(map(len, rows), default=1)
    for _ in range(4):
        first = data.draw(st.integers(0, len(rows)))
        stop = data.draw(st.integers(first, len(rows)))
        block = source.read(first, stop, length)
        assert block.dtype == np.uint32
        assert block.shape == (stop - first, length)
        assert block.tolist() == [row[:length] for row in rows[first:stop]]
        drawn = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9)) if rows else []
        ids = np.array(sorted(drawn), dtype=np.int64)
        assert source.take(ids, length).tolist() == [rows[i][:length] for i in ids]
        assert source.lengths(ids).tolist() == [len(rows[i]) for i in ids]
    with pytest.raises(BadInput, match="tokens"):
        source.read(0, len(rows), max(map(len, rows)) + 1)


ROWS = st.lists(st.lists(st.integers(0, 100), min_size=2, max_size=7), min_size=1, max_size=40)


@given(
    st.integers(1, 20),
    st.integers(1, 9),
    st.sampled_from(["<u1", "<u2", ">u2", "<u4", ">i8", "<i4", "|i1", "<u8"]),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_npy(count: int, length: int, dtype: str, data: st.DataObject) -> None:
    array = np.random.default_rng(count).integers(0, 120, (count, length)).astype(dtype)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/a.npy", array)
        check_against(open_sequences(f"{folder}/a.npy"), array.tolist(), data)


def test_npy_with_a_long_header(tmp_path: Path) -> None:
    header = b"{'descr': '<u2', 'fortran_order': False, 'shape': (2, 2), }".ljust(400) + b"\n"
    numbers = np.array([5, 6, 7, 8], "<u2").tobytes()
    for version in (1, 2):
        size = len(header).to_bytes(2 * version, "little")
        (tmp_path / "a.npy").write_bytes(b"\x93NUMPY" + bytes([version, 0]) + size + header + numbers)
        assert open_sequences(tmp_path / "a.npy").read(0, 2, 2).tolist() == [[5, 6], [7, 8]]


def test_npy_that_is_no_array_of_sequences_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.npy"

    def refused(array: Any, says: str, **options: Any) -> None:
        np.save(file, array, **options)
        with pytest.raises(BadInput, match=says) as refusal:
            open_sequences(file)
        assert str(file) in str(refusal.value)

    refused(np.zeros((2, 3), np.float32), "float32, not integers")
    refused(np.zeros((2, 3), bool), "not integers")
    refused(np.array([[{}]], dtype=object), "not integers", allow_pickle=True)
    refused(np.zeros(6, np.uint16), "shape")
    refused(np.zeros((2, 3, 1), np.uint16), "shape")
    refused(np.zeros((2, 0), np.uint16), "0 tokens")
    refused(np.asfortranarray(np.zeros((2, 3), np.uint16)), "Fortran")
    np.save(file, np.zeros((2, 64), np.uint16))
    os.truncate(file, 300)
    with pytest.raises(BadInput, match=r"expected 384 bytes .* found 300"):
        open_sequences(file)
    np.save(file, np.array([[1, 2], [3, 2**32]]))
    with pytest.raises(BadInput, match="sequence 1 has 4294967296 at position 1"):
        open_sequences(file).read(0, 2, 2)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_npy_is_refused_or_reads(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.npy"
        np.save(file, np.arange(12, dtype=np.uint16).reshape(4, 3))
        content = bytearray(file.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            # The bytes of a header: digits, brackets and quotes as well as anything.
            new = data.draw(
                st.one_of(st.sampled_from(list(b"0123456789()[]{}',:<>|fiuO ")), st.integers(0, 255))
            )
            content[data.draw(st.integers(0, 127))] = new
        file.write_bytes(content)
        try:
            source = open_sequences(file)
            source.read(0, source.count, 1)
        except BadInput:
            pass


LIST_TYPES = [pa.list_(pa.uint16()), pa.large_list(pa.int64()), pa.list_(pa.int32()), pa.list_(pa.uint32())]


@given(ROWS, st.sampled_from(LIST_TYPES), st.integers(1, 7), st.integers(1, 4), st.data())
@settings(max_examples=50, deadline=None)
def test_parquet(rows: list[list[int]], kind: Any, group: int, files: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        cuts = [len(rows) * i // files for i in range(files + 1)]
        for i in range(files):
            part = rows[cuts[i] : cuts[i + 1]]
            table = pa.table({"source": ["x"] * len(part), "tokens": pa.array(part, kind)})
            pq.write_table(table, f"{folder}/part-{i}.parquet", row_group_size=group)
        check_against(open_sequences(folder), rows, data)
        check_against(open_sequences(f"{folder}/part-*.parquet"), rows, data)


def test_parquet_reads_on_within_a_row_group_of_many_batches(tmp_path: Path) -> None:
    rows = (np.arange(9000 * 4) % 50000).reshape(9000, 4)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel(), pa.uint16()), 4)
    pq.write_table(pa.table({"tokens": column}), tmp_path / "a.parquet", row_group_size=5000)
    source = open_sequences(tmp_path / "a.parquet")
    for first in (0, 1000, 2000, 3000, 4000, 5000, 6000, 2500, 100, 8900, 4999):
        stop = min(first + 1000, 9000)
        assert source.read(first, stop, 4).tolist() == rows[first:stop].tolist()
    ids = np.arange(7, 9000, 311)
    assert source.take(ids, 3).tolist() == rows[ids, :3].tolist()
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/tables/a.parquet", (tmp_path / "a.parquet").read_bytes())
    remote = open_sequences("memory://tables")
    assert remote.take(ids, 3).tolist() == rows[ids, :3].tolist()
    assert remote.identity() == source.identity()
    memory.rm("/tables", recursive=True)


def test_parquet_without_usable_tokens_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"

    def refused(says: str, **columns: Any) -> None:
        pq.write_table(pa.table(columns), file)
        with pytest.raises(BadInput, match=says) as refusal:
            open_sequences(file).read(0, 2, 2)
        assert str(file) in str(refusal.value)

    lists = [[1, 2], [3, 4]]
    refused("column `tokens`.*found: a int64", a=[1, 2])
    refused("column `tokens`", a=lists, b=lists)
    refused("double, not of integers", tokens=[[0.5, 1.0], [1.0, 2.0]])
    refused("sequence 1 is null", tokens=[[1, 2], None])
    refused("sequence 1 has a null", tokens=[[1, 2], [3, None]])
    refused("sequence 1 has -4", tokens=[[1, 2], [3, -4]])
    refused("sequence 1 has 1 tokens, 2 are needed", tokens=[[1, 2], [3]])
    file.write_bytes(b"PAR1 nothing of the kind PAR1")
    with pytest.raises(BadInput, match="Parquet"):
        open_sequences(file)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_damaged_parquet_is_refused_or_reads(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.parquet"
        pq.write_table(pa.table({"tokens": [[1, 2, 3]] * 20}), file, row_group_size=10)
        content = bytearray(file.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        if data.draw(st.booleans()):
            content = content[: data.draw(st.integers(0, len(content)))]
        file.write_bytes(content)
        try:
            source = open_sequences(file)
            source.read(0, min(source.count, 1000), 3)
            source.identity()
        except BadInput:
            pass


@given(ROWS, st.booleans(), st.sampled_from([1, 3, 4096]), st.sampled_from([1, 40, 10**6]), st.data())
@settings(max_examples=60, deadline=None)
def test_jsonl_of_tokens(
    rows: list[list[int]], newline: bool, mark_lines: int, mark_bytes: int, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonl, "MARK_LINES", mark_lines)
        patch.setattr(jsonl, "MARK_BYTES", mark_bytes)
        patch.setattr(jsonl, "BLOCK", data.draw(st.integers(1, 100)))
        text = "\n".join(json.dumps({"tokens": row}) for row in rows) + "\n" * newline
        Path(f"{folder}/a.jsonl").write_text(text)
        check_against(open_sequences(f"{folder}/a.jsonl"), rows, data)


def test_jsonl_marks_are_sparse(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"tokens": [1]}\n' * 100_000)  # 1.6 MB: 24 marks by lines
    source = open_sequences(file)
    assert isinstance(source, jsonl.JsonlSequences)
    numbers, offsets = source._marks
    assert numbers.tolist() == [4096 * i for i in range(25)]
    assert offsets.tolist() == [16 * 4096 * i for i in range(25)]


@given(st.lists(st.lists(st.sampled_from(WORDS), min_size=3, max_size=9), min_size=1, max_size=20))
@settings(max_examples=20, deadline=None)
def test_jsonl_of_text(texts: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        vocabulary = {word: i for i, word in enumerate(WORDS)}
        model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "the"}
        tokenizer = {"version": "1.0", "model": model, "pre_tokenizer": {"type": "Whitespace"}}
        Path(f"{folder}/tokenizer.json").write_text(json.dumps(tokenizer))
        lines = "".join(json.dumps({"text": " ".join(words)}) + "\n" for words in texts)
        Path(f"{folder}/a.jsonl").write_text(lines)
        source = open_sequences(f"{folder}/a.jsonl", tokenizer=folder)
        expected = [[WORDS.index(word) for word in words] for words in texts]
        assert source.read(0, len(texts), 3).tolist() == [row[:3] for row in expected]
        assert source.lengths(np.arange(len(texts))).tolist() == [len(row) for row in expected]


def test_jsonl_text_uses_the_tokenizer_alone(tmp_path: Path, tokenizer: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "a mat on the cat"}\n')
    source = open_sequences(file, tokenizer=tokenizer)
    assert source.read(0, 1, 5).tolist() == [[4, 5, 3, 0, 1]]  # neither cut at 2 nor padded to 50
    assert source.lengths(np.array([0])).tolist() == [5]
    identity = source.identity()
    tokenizer.write_text(tokenizer.read_text() + "\n")
    other = open_sequences(file, tokenizer=tokenizer).identity()
    assert {key for key in identity if identity[key] != other[key]} == {"tokenizer_sha256"}
    file.write_text('{"tokens": [1]}\n')
    assert "tokenizer_sha256" not in open_sequences(file, tokenizer=tokenizer).identity()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1, 2]", "not an object"),
        (b'{"content": "a"}', "not an object"),
        (b'{"text": "the cat"}', 'no list "tokens"'),
        (b'{"tokens": "12"}', 'no list "tokens"'),
        (b'{"tokens": [1, 2.0]}', "2.0 is not a token id"),
        (b'{"tokens": [1, true]}', "True is not a token id"),
        (b'{"tokens": [-1, 2]}', "-1 is not a token id"),
        (b'{"tokens": [1, 4294967296]}', "4294967296 is not a token id"),
        (b'{"tokens": [1, 1e400]}', "inf is not a token id"),
        (b'{"tokens": [1, "\\u001b[2J"]}', r"'\\x1b\[2J' is not a token id"),
        (b'{"tokens": [1, ' + b"9" * 5000 + b"]}", "not JSON"),
        (b'{"tokens": [7]}', "1 tokens, 2 are needed"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: bytes, says: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"tokens": [1, 2]}\n' + line + b'\n{"tokens": [3, 4]}\n')
    source = open_sequences(file)
    assert source.read(0, 1, 2).tolist() == [[1, 2]]
    assert source.read(2, 3, 2).tolist() == [[3, 4]]
    with pytest.raises(BadInput, match=says) as refusal:
        source.read(0, 3, 2)
    assert f"{file}: sequence 1" in str(refusal.value)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": 5}', 'no string "text"'),
        ('{"tokens": [1, 2]}', 'no string "text"'),
        ('{"text": "\\ud800"}', "surrogate"),
    ],
)
def test_bad_text_is_named(tmp_path: Path, tokenizer: Path, line: str, says: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "the cat"}\n' + line)
    with pytest.raises(BadInput, match=f"sequence 1 .*{says}"):
        open_sequences(file, tokenizer).read(0, 2, 1)


def test_text_needs_a_tokenizer(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "the cat"}\n')
    with pytest.raises(BadInput, match="holds text: give the tokenizer"):
        open_sequences(file)


def test_an_endless_line_is_refused(tmp_path: Path) -> None:
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.truncate(200 << 20)  # sparse zeros
    with pytest.raises(BadInput, match="a line above 64 MiB"):
        open_sequences(tmp_path / "a.jsonl")


def test_an_empty_jsonl_has_no_sequences(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    source = open_sequences(tmp_path / "a.jsonl")
    assert source.count == 0
    assert source.read(0, 0, 64).shape == (0, 64)


def test_tokenizers_that_are_none_are_refused(tmp_path: Path) -> None:
    bad = tmp_path / "tokenizer.json"
    for content in (b"", b"{}", b"\xff", b'{"model": {"type": "BPE"}}', b"[" * 100_000):
        bad.write_bytes(content)
        with pytest.raises(BadInput, match=r"tokenizer\.json"):
            load_tokenizer(bad)
    with pytest.raises(BadInput, match="does not exist"):
        load_tokenizer(tmp_path / "nothing.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match=r"empty/tokenizer\.json does not exist"):
        load_tokenizer(tmp_path / "empty")


@pytest.mark.parametrize("name", ["a.txt", "a", "a.npz"])
def test_kinds_that_are_not_known_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(BadInput, match=r"can't be told .* \.npy"):
        open_sequences(tmp_path / name)
    with pytest.raises(BadInput, match=r"0 \.parquet and 0 \.idx"):
        open_sequences(tmp_path)
    with pytest.raises(BadInput, match="matches"):
        open_sequences(tmp_path / "*.parquet")
    with pytest.raises(BadInput, match="not a path"):
        open_sequences("a\0b.npy")


@given(st.text(max_size=40))
def test_printable_text_is_harmless_and_unambiguous(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert shown == "" or min(shown) >= " "
    decoded = shown.encode("latin-1", "backslashreplace").decode("unicode_escape")
    assert decoded == text
    assert printable(text, "ascii").isascii()


def test_printable_keeps_what_can_be_read() -> None:
    assert printable("naïve 日本 [bold]x[/]") == "naïve 日本 [bold]x[/]"
    assert printable("a\x1b[31m\n\u202e\x9b\\") == r"a\x1b[31m\n\u202e\x9b\\"
    assert printable("naïve", "ascii") == r"na\xefve"
