"""What is held against what before sequences are used: new contradictions, none of which may get through."""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from memoserve.checks import Check, failures
from memoserve.errors import BadInput
from memoserve.sequences import (
    SequenceSource,
    check_sequences,
    open_sequences,
    short_sequences,
    write_pack,
)

VOCABULARY = 50_304
LENGTH = 24


def some_tokens(count: int, length: int = LENGTH, top: int = VOCABULARY, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, top, (count, length))


def checked(source: SequenceSource, **more: Any) -> dict[str, Check]:
    """All checks by name, against a suite that the sequences fit if they are what they should be."""
    arguments: dict[str, Any] = {
        "trained": source.count,
        "control": None,
        "sequence_length": LENGTH,
        "vocabulary_size": VOCABULARY,
        "length": 16,
        **more,
    }
    return {check.name: check for check in check_sequences(source, **arguments)}


def failed(source: SequenceSource, **more: Any) -> dict[str, str]:
    """The name and detail of what failed."""
    return {check.name: check.detail for check in failures(checked(source, **more).values())}


def npy(folder: Path | str, array: NDArray[Any]) -> SequenceSource:
    np.save(Path(folder) / "a.npy", array)
    return open_sequences(Path(folder) / "a.npy")


def test_what_fits_passes_and_says_what_was_compared(tmp_path: Path) -> None:
    checks = checked(npy(tmp_path, some_tokens(40).astype(np.uint16)), trained=30, control=(30, 40))
    assert checks.pop("training order").result == "not checked"  # an array says nothing about it
    assert {check.result for check in checks.values()} == {"passed"}
    assert all(
        check.subject.endswith("40 sequences of 24 tokens, uint16, NumPy") for check in checks.values()
    )
    assert checks["sequence count"].figure == 40
    assert "30" in checks["sequence count"].detail
    assert "50,304" in checks["token type"].detail
    assert "40 of 40 sequences" in checks["token ids"].detail


def test_without_a_suite_or_a_vocabulary_little_can_be_told(tmp_path: Path) -> None:
    source = npy(tmp_path, some_tokens(40))
    checks = checked(source, trained=None, sequence_length=None, vocabulary_size=None)
    unchecked = {name for name, check in checks.items() if check.result == "not checked"}
    assert unchecked == {"training order", "sequence count", "sequence lengths", "token type", "token ids"}


# Count and lengths


@given(
    found=st.integers(1, 60),
    trained=st.integers(1, 60),
    control=st.none() | st.integers(1, 20),
    partial=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_the_count_is_that_of_the_suite(found: int, trained: int, control: int | None, partial: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        source = npy(folder, some_tokens(found))
        expected = trained + (control or 0)
        span = None if control is None else (trained, expected)
        result = checked(source, trained=trained, control=span, partial=partial)["sequence count"]
    if found == expected:
        assert result.result == "passed"
    elif found < expected and partial:
        assert result.result == "warning"
    elif found > expected and control is None:
        assert result.result == "warning"  # what follows may be held out without the suite saying so
        assert f"control = [{trained}, {found}]" in result.detail
    else:
        assert result.result == "failed"
        assert f"{found:,} sequences" in result.detail
        assert f"{trained:,}" in result.detail


@pytest.mark.parametrize(
    ("length", "plain", "partial"),
    [
        (LENGTH, "passed", "passed"),
        (LENGTH + 1, "passed", "passed"),
        (LENGTH + 2, "failed", "failed"),
        (2 * LENGTH, "failed", "failed"),
        (LENGTH - 1, "failed", "warning"),
        (16, "failed", "warning"),
    ],
)
def test_lengths_are_those_of_the_suite(tmp_path: Path, length: int, plain: str, partial: str) -> None:
    source = npy(tmp_path, some_tokens(30, length))
    assert checked(source)["sequence lengths"].result == plain
    assert checked(source, partial=True)["sequence lengths"].result == partial
    write_pack(lambda: source, tmp_path / "pack", 16)
    packed = open_sequences(tmp_path / "pack")
    assert checked(packed)["sequence lengths"].result == plain  # a pack hides nothing
    write_pack(lambda: packed, tmp_path / "again", 10)
    assert checked(open_sequences(tmp_path / "again"), length=10)["sequence lengths"].result == plain


def test_a_pack_that_does_not_say_what_it_was_cut_from_is_not_checked(tmp_path: Path) -> None:
    source = npy(tmp_path, some_tokens(30))
    write_pack(lambda: source, tmp_path / "pack", 16)
    manifest = tmp_path / "pack" / "manifest.json"
    found = json.loads(manifest.read_text())
    del found["source_lengths"], found["sha256"], found["format"]
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    manifest.write_text(json.dumps({**found, "format": 1, "sha256": digest}))
    checks = checked(open_sequences(tmp_path / "pack"))
    assert checks["sequence lengths"].result == "not checked"
    assert not failures(checks.values())


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(1, 30), st.booleans())
@settings(max_examples=40, deadline=None)
def test_short_sequences_are_counted_and_named(sizes: list[int], length: int, parquet: bool) -> None:
    rows = [[5 + i % 7 for i in range(size)] for size in sizes]
    with tempfile.TemporaryDirectory() as folder:
        if parquet:
            column = pa.array(rows, pa.list_(pa.int32()))
            pq.write_table(pa.table({"tokens": column}), f"{folder}/a.parquet", row_group_size=7)
            source = open_sequences(f"{folder}/a.parquet")
        else:
            Path(f"{folder}/a.jsonl").write_text("".join(json.dumps({"tokens": row}) + "\n" for row in rows))
            source = open_sequences(f"{folder}/a.jsonl")
        short = [i for i, size in enumerate(sizes) if size < length]
        ids = np.arange(len(sizes))
        assert np.flatnonzero(short_sequences(source, ids, length)).tolist() == short
        result = checked(source, length=length)["window fits"]
        skipped = checked(source, length=length, skip_short=True)["window fits"]
        if not short:
            assert result.result == skipped.result == "passed"
            return
        assert (result.result, skipped.result) == ("failed", "warning")
        assert result.figure == len(short)
        assert f"{len(short)} of {len(sizes)}" in result.detail
        assert all(f"{i} ({sizes[i]})" in result.detail for i in short[:5])
        with pytest.raises(BadInput, match=f"sequence {short[0]} has {sizes[short[0]]} tokens") as refusal:
            source.read(0, len(sizes), length)
        if len(short) > 1 and not parquet:
            assert f"{len(short)} of the {len(sizes)}" in str(refusal.value)


# Token ids


@pytest.mark.parametrize(
    ("dtype", "vocabulary", "fits"),
    [
        ("<u2", 65_536, True),
        ("<u2", 65_537, False),
        ("<u2", 70_016, False),
        ("<i2", 32_768, True),
        ("<i2", 50_304, False),
        ("<u1", 256, True),
        ("<u1", 1024, False),
        ("|i1", 129, False),
        ("<u4", 250_000, True),
        ("<i4", 250_000, True),
        ("<i8", 250_000, True),
        (">u2", 70_016, False),
    ],
)
def test_the_type_holds_the_vocabulary(tmp_path: Path, dtype: str, vocabulary: int, fits: bool) -> None:
    source = npy(tmp_path, some_tokens(40, top=100).astype(dtype))
    assert ("token type" in failed(source, vocabulary_size=vocabulary)) is not fits
    write_pack(lambda: source, tmp_path / "pack", 16)
    packed = failed(open_sequences(tmp_path / "pack"), vocabulary_size=vocabulary)
    assert ("token type" in packed) is (vocabulary > 65_536 and not dtype.endswith(("4", "8")))


@given(st.integers(0, 2999), st.integers(0, LENGTH - 1), st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_an_id_beyond_the_vocabulary_where_it_is_looked_for(row: int, column: int, token: int) -> None:
    tokens = some_tokens(3000).astype(np.uint32)
    tokens[row, column] = token
    with tempfile.TemporaryDirectory() as folder:
        source = npy(folder, tokens)
        looked_at = set()
        for start in [(3000 - 64) * i // 15 for i in range(16)]:
            looked_at |= set(range(start, start + 64))
        found = failed(source).get("token ids", "")
    assert bool(found) == (token >= VOCABULARY and row in looked_at)
    if found:
        assert f"sequence {row} has token id {token} at position {column}" in found


@pytest.mark.parametrize("kind", ["npy", "parquet"])
def test_negative_ids_fail(tmp_path: Path, kind: str) -> None:
    tokens = some_tokens(40).astype(np.int32)
    tokens[17, 3] = -100  # what labels hold where nothing is to be learnt
    if kind == "npy":
        source = npy(tmp_path, tokens)
    else:
        pq.write_table(pa.table({"tokens": list(tokens)}), tmp_path / "a.parquet")
        source = open_sequences(tmp_path / "a.parquet")
    assert "sequence 17 has -100 at position 3" in failed(source)["token ids"]


def _mask(rng: np.random.Generator) -> NDArray[np.int64]:
    return (rng.random((50, LENGTH)) < rng.random()).astype(np.int64)


def _segments(rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.integers(0, 3, (50, LENGTH)), axis=1)


def _documents(rng: np.random.Generator) -> NDArray[np.int64]:
    return np.cumsum(rng.random((50, LENGTH)) < 0.2, axis=1) + rng.integers(0, 9000)


def _positions(rng: np.random.Generator) -> NDArray[np.int64]:
    return np.tile(np.arange(LENGTH), (50, 1)) + rng.integers(0, 3)


def _copies(rng: np.random.Generator) -> NDArray[np.int64]:
    return np.tile(rng.integers(0, VOCABULARY, LENGTH), (50, 1))


def _unfilled(rng: np.random.Generator) -> NDArray[np.int64]:
    tokens = rng.integers(0, VOCABULARY, (50, LENGTH))
    tokens[int(rng.integers(5, 40)) :] = 0
    return tokens


@given(
    st.sampled_from([_mask, _segments, _documents, _positions, _copies, _unfilled]),
    st.integers(0, 2**32),
    st.sampled_from(["<u2", "<i4", "<i8"]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_no_token_ids_fails(make: Any, seed: int, dtype: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = make(np.random.default_rng(seed)).astype(dtype)
        assert "token content" in failed(npy(folder, found)), found


@given(st.integers(0, 2**32), st.integers(1, 400), st.floats(1.05, 3.0))
@settings(max_examples=30, deadline=None)
def test_token_ids_pass(seed: int, count: int, exponent: float) -> None:
    """As in text: few ids are most of it."""
    rng = np.random.default_rng(seed)
    tokens = np.minimum(rng.zipf(exponent, (count, LENGTH)), VOCABULARY) - 1
    tokens[:, 0] = rng.permutation(VOCABULARY)[:count]  # no two of them are the same
    with tempfile.TemporaryDirectory() as folder:
        assert "token ids" not in failed(npy(folder, tokens.astype(np.uint16)))
        content = checked(npy(folder, tokens.astype(np.uint16)))["token content"]
        repeated = (np.isin(np.diff(tokens, axis=1), (0, 1))).mean()
        if repeated < 0.9:
            assert content.result != "failed", content


def relabelled(file: Path, dtype: str, tokens: int) -> None:
    """Other words about the same bytes in a .npy's header."""
    content = file.read_bytes()
    begin = 10 + int.from_bytes(content[8:10], "little")
    count = (len(content) - begin) // (np.dtype(dtype).itemsize * tokens)
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': ({count}, {tokens}), }}"
    file.write_bytes(content[:10] + header.ljust(begin - 11).encode() + b"\n" + content[begin:])


@given(st.sampled_from(["<u1", "<u2", "<i2", "<u4", "<i4", "<i8", ">u2", ">u4", "<f4"]), st.data())
@settings(max_examples=60, deadline=None)
def test_relabelled_types_are_seen(written: str, data: st.DataObject) -> None:
    said = data.draw(st.sampled_from(["<u1", "<u2", "<i2", "<u4", "<i4", "<i8", ">u2", ">u4"]))
    top = min(VOCABULARY, int(np.iinfo(written).max) + 1) if "f" not in written else VOCABULARY
    tokens = some_tokens(64, top=top).astype(written)
    width = np.dtype(written).itemsize * LENGTH // np.dtype(said).itemsize
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "a.npy"
        np.save(file, tokens)
        relabelled(file, said, width)
        try:
            source = open_sequences(file)
            found = failed(source)
            same = not found and (source.read(0, source.count, LENGTH) == tokens).all()
        except BadInput as error:
            found, same = {"open": str(error)}, False
        assert found or same, f"{written} read as {said}"


# Megatron


def write_index(
    prefix: Path, tokens: Sequence[NDArray[np.int64]], documents: Sequence[int], modes: bytes = b""
) -> Path:
    """By struct, as its description says."""
    sizes = [len(one) for one in tokens]
    pointers = [2 * sum(sizes[:i]) for i in range(len(sizes))]
    prefix.with_suffix(".bin").write_bytes(b"".join(one.astype("<u2").tobytes() for one in tokens))
    index = prefix.with_suffix(".idx")
    index.write_bytes(
        b"MMIDIDX\0\0"
        + struct.pack("<QBQQ", 1, 8, len(sizes), len(documents))
        + struct.pack(f"<{len(sizes)}i", *sizes)
        + struct.pack(f"<{len(sizes)}q", *pointers)
        + struct.pack(f"<{len(documents)}q", *documents)
        + modes
    )
    return index


@given(st.sampled_from([1, 2, 3, 4, 5, 8]), st.integers(1, 70_000), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_relabelled_index_is_seen(code: int, vocabulary: int, resized: bool, seed: int) -> None:
    """The dtype code of u16 data is another; sizes and pointers may be mended so that all bytes are used."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, min(vocabulary, 65_536), (20, LENGTH))
    width = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 8: 2}[code]
    with tempfile.TemporaryDirectory() as folder:
        index = write_index(Path(folder) / "d", list(tokens), range(21))
        content = bytearray(index.read_bytes())
        content[17] = code
        if resized:
            content[34 : 34 + 80] = struct.pack("<20i", *[LENGTH * 2 // width] * 20)
        index.write_bytes(content)
        try:
            source = open_sequences(index)
            found = failed(source, vocabulary_size=vocabulary)
            same = not found and source.read(0, 20, LENGTH).tolist() == tokens.tolist()
        except BadInput:
            return
        assert found or same


DOCUMENTS = ["each", "each without the end", "none", "one", "zero", "some", "shuffled", "short", "empty ones"]


@given(
    count=st.integers(3, 30),
    sizes=st.sampled_from(["samples", "samples and target", "documents", "one longer", "one empty", "other"]),
    documents=st.sampled_from(DOCUMENTS),
    modes=st.sampled_from(["absent", "text", "an image"]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=150, deadline=None)
def test_documents_are_told_from_training_sequences(
    count: int, sizes: str, documents: str, modes: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    lengths = np.full(count, LENGTH + (sizes == "samples and target") + 4 * (sizes == "other"))
    if sizes == "documents":
        lengths = rng.integers(LENGTH // 2, 2 * LENGTH, count)
        lengths[:2] = 17, 18
    if sizes == "one longer":
        lengths[rng.integers(count)] += 1
    if sizes == "one empty":
        lengths[rng.integers(count)] = 0
    cuts = sorted(rng.choice(np.arange(1, count), count // 2, replace=False).tolist())
    permuted = rng.permutation(count).tolist()
    if permuted == sorted(permuted):
        permuted[:2] = 1, 0
    index = {
        "each": list(range(count + 1)),
        "each without the end": list(range(count)),
        "none": [],
        "one": [0, count],
        "zero": [0],
        "some": [0, *cuts, count],
        "shuffled": [*permuted, count],
        "short": list(range(count - 1)),
        "empty ones": [0, *range(count + 1)],
    }[documents]
    mode = {"absent": b"", "text": bytes(count), "an image": bytes(count - 1) + b"\1"}[modes]
    tokens = [rng.integers(0, VOCABULARY, size) for size in lengths]
    with tempfile.TemporaryDirectory() as folder:
        source = open_sequences(write_index(Path(folder) / "d", tokens, index, mode))
        found = failed(source)
        usual = documents in ("each", "each without the end", "none", "one", "zero")
        right = sizes in ("samples", "samples and target") and usual and modes != "an image"
        assert (not found) == right, found
        for i, one in enumerate(tokens):
            if len(one):
                assert source.read(i, i + 1, len(one)).tolist() == [one.tolist()]
        # What a pack would hide is refused before.
        if source.order_evidence().against:
            with pytest.raises(BadInput, match=r"training order|training sequences"):
                write_pack(lambda: source, Path(folder) / "pack", 8)
        assert bool(source.order_evidence().against) == (
            not usual or modes == "an image" or sizes in ("documents", "one longer", "one empty")
        )


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("d_train_indexmap_500ns_24sl_1234s_doc_idx.npy", True),
        ("d_train_indexmap_500ns_24sl_1234s_sample_idx.npy", True),
        ("d_train_indexmap_500ns_24sl_1234s_shuffle_idx.npy", True),
        ("0a1b-GPTDataset-train-document_index.npy", True),
        ("cache/GPTDataset_indices/0a1b-GPTDataset-train-shuffle_index.npy", True),
        ("other_train_indexmap_500ns_24sl_1234s_doc_idx.npy", False),
        ("notes.npy", False),
    ],
)
@pytest.mark.parametrize("remote", [False, True])
def test_files_that_hold_the_order_are_seen(tmp_path: Path, name: str, theirs: bool, remote: bool) -> None:
    tokens = list(some_tokens(20))
    write_index(tmp_path / "d", tokens, range(21))
    if name.startswith("other"):
        write_index(tmp_path / "other", tokens, range(21))
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    np.save(tmp_path / name, np.arange(20))
    here = str(tmp_path)
    if remote:
        import fsspec

        fsspec.filesystem("memory").put(here, "/order", recursive=True)
        here = "memory://order"
    try:
        for given_as in ("d", "d.idx", "d.bin"):
            found = failed(open_sequences(f"{here}/{given_as}"))
            assert ("training order" in found) is theirs
            assert (name in found.get("training order", "")) is theirs
    finally:
        if remote:
            fsspec.filesystem("memory").rm("/order", recursive=True)
    if name.endswith(("_idx.npy", "_index.npy")):
        with pytest.raises(BadInput, match="in which order training read its data"):
            open_sequences(tmp_path / name)


# Blank lines


@given(st.lists(st.sampled_from(["row", "row", "", " ", "\t"]), max_size=30), st.sampled_from(["\n", "\r\n"]))
@settings(max_examples=80, deadline=None)
def test_a_blank_line_is_named_and_one_at_the_end_is_none(kinds: list[str], end: str) -> None:
    lines = [
        json.dumps({"tokens": [i, *range(1000, 1023)]}) if k == "row" else k for i, k in enumerate(kinds)
    ]
    with tempfile.TemporaryDirectory() as folder:
        Path(f"{folder}/a.jsonl").write_bytes("".join(line + end for line in lines).encode())
        while lines and not lines[-1].strip():
            lines.pop()
        if lines and not lines[0].strip():
            with pytest.raises(BadInput, match=r"line 1\) is not JSON"):
                open_sequences(f"{folder}/a.jsonl")
            return
        source = open_sequences(f"{folder}/a.jsonl")
        assert source.count == len(lines)
        blank = next((i for i, line in enumerate(lines) if not line.strip()), None)
        if blank is None:
            assert source.order_evidence().against == ()
            assert source.read(0, len(lines), 1)[:, 0].tolist() == list(range(len(lines)))
        else:
            assert f"line {blank + 1} is blank" in source.order_evidence().against[0]
            with pytest.raises(BadInput, match=f"sequence {blank} "):
                source.read(0, len(lines), 1)
