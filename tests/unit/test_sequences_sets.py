"""Which files make a set of sequences, in which order, and which columns of them are tokens."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from megatron_files import write_dataset
from web_server import serving

from memoserve.errors import BadInput
from memoserve.sequences import check_sequences, open_sequences, write_pack

LENGTH = 20


def rows(count: int, begin: int = 0) -> list[list[int]]:
    return [[begin + i, *range(7000 + i, 7000 + i + LENGTH - 1)] for i in range(count)]


def write(file: Path, tokens: list[list[int]], **more: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"tokens": pa.array(tokens, pa.list_(pa.int32())), **more}), file)


# Files of a set

NAMINGS: dict[str, Callable[[int, int], str]] = {
    "plain": lambda i, n: f"{i}.parquet",
    "padded": lambda i, n: f"{i:04}.parquet",
    "shard": lambda i, n: f"shard_{i}.parquet",
    "part": lambda i, n: f"part-{i:05}.parquet",
    "of": lambda i, n: f"train-{i:05}-of-{n:05}.parquet",
    "of, from one": lambda i, n: f"train-{i + 1:05}-of-{n:05}.parquet",
    "from one": lambda i, n: f"shard_{i + 1}.parquet",
    "spark": lambda i, n: f"part-{i:05}-8f1b2c-c000.snappy.parquet",
    "two": lambda i, n: f"part-{i // 3}-{i % 3:05}.parquet",
    "dots": lambda i, n: f"pile.{i:03}.parquet",
    "version": lambda i, n: f"pile-v2-{i}.parquet",
}


@given(
    naming=st.sampled_from(sorted(NAMINGS)),
    count=st.sampled_from([1, 2, 3, 11, 12, 14]),
    change=st.sampled_from(
        ["none", "none", "none", "drop", "drop first", "drop last", "twice", "stranger", "split", "columns"]
    ),
    pattern=st.booleans(),
    remote=st.booleans(),
    dice=st.randoms(use_true_random=False),
)
@settings(max_examples=200, deadline=None)
def test_a_set_is_whole_and_in_order_or_refused(
    naming: str, count: int, change: str, pattern: bool, remote: bool, dice: random.Random
) -> None:
    names = [NAMINGS[naming](i, count) for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        sizes = [dice.randint(1, 4) for _ in names]
        expected = rows(sum(sizes))
        contents = {name: expected[sum(sizes[:i]) :][: sizes[i]] for i, name in enumerate(names)}
        dropped = None
        if change.startswith("drop") and count > 1:
            at = {"drop": dice.randrange(count), "drop first": 0, "drop last": count - 1}[change]
            dropped = names[at]
            del contents[dropped]
        if change == "twice":
            number = "".join(c if c.isdigit() else " " for c in names[-1]).split()[-1]
            contents[names[-1].replace(number, "0" + number)] = rows(1)
        if change == "stranger":
            contents["validation.parquet"] = rows(1)
        if change == "split":
            contents["test-00000-of-00001.parquet"] = rows(1)
        written = list(contents.items())
        dice.shuffle(written)
        for i, (name, tokens) in enumerate(written):
            other = {"source": ["x"] * len(tokens)} if change == "columns" and i == 0 and count > 1 else {}
            write(Path(folder) / name, tokens, **other)
        here = folder
        if remote:
            import fsspec

            fsspec.filesystem("memory").put(folder, "/sets", recursive=True)
            here = "memory://sets"
        try:
            source = open_sequences(f"{here}/*.parquet" if pattern else here)
            found = source.read(0, source.count, LENGTH).tolist()
        except BadInput:
            source, found = None, None
        finally:
            if remote:
                fsspec.filesystem("memory").rm("/sets", recursive=True)
    whole = found == expected
    uneven = naming == "two" and count > 3 and count % 3
    if change == "none" and naming != "from one" and not uneven:
        assert whole
        assert source is not None
        in_name_order = sorted(names) == names
        assert ("order of their numbers" in source.description) is not in_name_order
    elif found is not None and not whole:
        # Nothing says how many there should be, but the suite does.
        assert dropped == names[-1]
        assert "-of-" not in naming
        assert source is not None
        checks = check_sequences(
            source,
            trained=len(expected),
            control=None,
            sequence_length=LENGTH,
            vocabulary_size=50_000,
            length=10,
        )
        assert "failed" in {check.result for check in checks if check.name == "sequence count"}
    if change in ("twice", "stranger", "split") or (change == "columns" and count > 1):
        assert found is None


@pytest.mark.parametrize(
    ("name", "others", "says"),
    [
        ("train-00000-of-00003.parquet", [], "one of 3 files"),
        ("train-00001-of-00003.parquet", [], "one of 3 files"),
        ("train-00000-of-00001.parquet", [], None),
        ("0000.parquet", [], "one of several"),
        ("0001.parquet", [], "one of several"),
        ("part-00001.parquet", [], "one of several"),
        ("part-00000-8f1b2c.snappy.parquet", [], "one of several"),
        ("shard_3.parquet", [], "one of several"),
        ("pile.0003.parquet", [], "one of several"),
        ("shard.0.snappy.parquet", [], "one of several"),
        ("a-0.parquet", ["a-1.parquet", "a-2.parquet"], r"\(3 of such names lie there\)"),
        ("a-0.parquet", [], None),
        ("pile.parquet", [], None),
        ("pile-v2.parquet", [], None),
        ("pile_2048.parquet", ["pile_1024.parquet"], None),
        ("dolma-2.parquet", [], None),
        ("part-0-00000.npy", [], "one of several.*put them together"),
        ("00.jsonl", [], "one of several.*put them together"),
        ("tokens-00000.npy", [], "one of several"),
        ("tokens-2048.npy", [], None),
    ],
)
def test_one_of_several_files_is_not_the_whole(
    tmp_path: Path, name: str, others: list[str], says: str | None
) -> None:
    for one in [name, *others]:
        if one.endswith(".parquet"):
            write(tmp_path / one, rows(3))
        elif one.endswith(".npy"):
            np.save(tmp_path / one, np.array(rows(3)))
        else:
            (tmp_path / one).write_text("".join(json.dumps({"tokens": row}) + "\n" for row in rows(3)))
    if says is None:
        assert open_sequences(tmp_path / name).read(0, 3, LENGTH).tolist() == rows(3)
    else:
        with pytest.raises(BadInput, match=says) as refusal:
            open_sequences(tmp_path / name)
        assert str(tmp_path / name) in str(refusal.value)
    with serving(tmp_path) as server:
        if says is None:
            assert open_sequences(f"{server.address}/{name}").count == 3
        elif not others:  # which a web server doesn't list
            with pytest.raises(BadInput, match=says.split(".*")[0]):
                open_sequences(f"{server.address}/{name}")


# Columns

TYPES: list[Any] = [pa.int8(), pa.uint16(), pa.int32(), pa.int64(), pa.uint32()]
KINDS = ("list", "large", "fixed")


def column(tokens: list[list[int]], kind: str, inner: Any) -> Any:
    if kind == "fixed":
        return pa.FixedSizeListArray.from_arrays(pa.array(np.concatenate(tokens), inner), len(tokens[0]))
    return pa.array(tokens, pa.large_list(inner) if kind == "large" else pa.list_(inner))


@given(
    names=st.lists(
        st.sampled_from(
            [
                "tokens",
                "input_ids",
                "attention_mask",
                "labels",
                "special_tokens_mask",
                "Tokens",
                "ids",
                "tokens ",
            ]
        ),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    kinds=st.lists(st.sampled_from(KINDS), min_size=4, max_size=4),
    inner=st.lists(st.sampled_from(TYPES[1:]), min_size=4, max_size=4),
    same=st.booleans(),
    named=st.booleans(),
    text=st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_tokens_are_the_column_that_is_called_so(
    names: list[str], kinds: list[str], inner: list[Any], same: bool, named: bool, text: bool
) -> None:
    contents = {
        name: [[(i * 31 + j * 7 + (0 if same else 100 * at)) % 1000 for j in range(6)] for i in range(9)]
        for at, name in enumerate(names)
    }
    table = {
        name: column(contents[name], kind, one) for name, kind, one in zip(names, kinds, inner, strict=False)
    }
    if text:
        table = {"text": pa.array(["x"] * 9), **table}
    usual = [name for name in names if name in ("tokens", "input_ids")]
    asked = names[-1] if named else None
    with tempfile.TemporaryDirectory() as folder:
        pq.write_table(pa.table(table), f"{folder}/a.parquet", row_group_size=4)
        try:
            source = open_sequences(f"{folder}/a.parquet", column=asked)
            found = source.read(0, 9, 6).tolist()
            identity = source.identity()
        except BadInput:
            found, identity = None, {}
        plain = None
        if asked is not None and usual and (same or len(usual) == 1):
            plain = open_sequences(f"{folder}/a.parquet").identity()
    if asked is not None:
        assert found == contents[asked]
        if plain is not None:  # other tokens never go on where these were read
            assert (identity == plain) == (usual == [asked])
    elif len(usual) == 1:
        assert found == contents[usual[0]]
    elif len(usual) == 2 and same:
        assert found == contents["tokens"]
    else:
        assert found is None


def test_nested_and_other_lists_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    for wrong, says in (
        ([[[1, 2]], [[3]]], "not of integers"),
        ([[1.0], [2.0]], "not of integers"),
        ([["a"], ["b"]], "not of integers"),
        ([[True], [False]], "not of integers"),
        ([1, 2], "integer lists is needed"),
        (["a", "b"], "integer lists is needed"),
    ):
        pq.write_table(pa.table({"tokens": wrong}), file)
        with pytest.raises(BadInput, match=says):
            open_sequences(file)
        # What is no list of integers doesn't stand for the tokens, whatever its name.
        pq.write_table(pa.table({"tokens": wrong, "input_ids": [[1, 2], [3, 4]]}), file)
        assert open_sequences(file).read(0, 2, 2).tolist() == [[1, 2], [3, 4]]
    pq.write_table(pa.table({"tokens": [[1, 2]]}), file)
    with pytest.raises(BadInput, match="`nothing` of integer lists is needed; found: tokens"):
        open_sequences(file, column="nothing")
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.uint16))
    with pytest.raises(BadInput, match="has no columns"):
        open_sequences(tmp_path / "a.npy", column="tokens")


@given(
    count=st.integers(1, 30),
    name=st.sampled_from(["sequence_id", "index", "__index_level_0__"]),
    change=st.sampled_from(["none", "shuffle", "duplicate", "gap", "offset", "null", "reverse", "text"]),
    files=st.integers(1, 3),
    dice=st.randoms(use_true_random=False),
)
@settings(max_examples=100, deadline=None)
def test_a_column_of_ids_is_the_order_or_the_file_is_refused(
    count: int, name: str, change: str, files: int, dice: random.Random
) -> None:
    ids: list[Any] = list(range(count))
    at = dice.randrange(count)
    if change == "shuffle":
        dice.shuffle(ids)
    if change == "duplicate":
        ids[at] = ids[at - 1]
    if change == "gap":
        ids[at:] = [i + 1 for i in ids[at:]]
    if change == "offset":
        ids = [i + 5 for i in ids]
    if change == "null":
        ids[at] = None
    if change == "reverse":
        ids.reverse()
    names = change == "text" and name == "__index_level_0__"  # an index of names says nothing about the order
    right = ids == list(range(count)) and (change != "text" or names)
    if change == "text":
        ids = list(map(str, ids))
    kind = pa.string() if change == "text" else pa.int64()
    with tempfile.TemporaryDirectory() as folder:
        cuts = [count * i // files for i in range(files + 1)]
        for i in range(files):
            part = slice(cuts[i], cuts[i + 1])
            write(Path(folder) / f"part-{i}.parquet", rows(count)[part], **{name: pa.array(ids[part], kind)})
        try:
            source = open_sequences(folder)
            against = source.order_evidence().against
            found = source.read(0, count, LENGTH).tolist()
        except BadInput as error:
            against, found = (str(error),), None
    assert (not against) == right
    assert (found == rows(count)) == right
    if not right and change not in ("null", "text"):
        wrong = next(i for i, one in enumerate(ids) if one != i)
        assert f"row {wrong} has {name} {ids[wrong]}" in against[0]


@given(
    count=st.integers(2, 30),
    name=st.sampled_from(["id", "idx", "seq_id", "Order", "none of them"]),
    change=st.sampled_from(["none", "offset", "swap", "gap", "twice", "text"]),
    kind=st.sampled_from(["parquet", "jsonl", "npy"]),
    dice=st.randoms(use_true_random=False),
)
@settings(max_examples=120, deadline=None)
def test_what_may_number_the_rows_raises_a_doubt_and_no_refusal(
    count: int, name: str, change: str, kind: str, dice: random.Random
) -> None:
    ids: list[Any] = list(range(count))
    at = dice.randrange(1, count)
    if change == "offset":
        ids = [i + 1 for i in ids]
    if change == "swap":
        ids[at - 1], ids[at] = ids[at], ids[at - 1]
    if change == "gap":
        ids[at:] = [i + 1 for i in ids[at:]]
    if change == "twice":
        ids[at] = ids[at - 1]
    if change == "text":
        ids = [f"doc{i}" for i in ids]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"data.{kind}"
        if kind == "parquet":
            write(file, rows(count), **{name: pa.array(ids)})
        elif kind == "jsonl":
            lines = [json.dumps({"tokens": row, name: i}) for row, i in zip(rows(count), ids, strict=True)]
            file.write_text("\n".join(lines))
        else:
            np.save(file, np.array(rows(count), np.uint16))
        source = open_sequences(file)
        (check,) = (one for one in check_sequences_of(source) if one.name == "training order")
        assert source.read(0, count, LENGTH).tolist() == rows(count)
    told = kind != "npy" and change != "text" and name != "none of them"
    jumps = change in ("swap", "gap", "twice")
    assert check.result == ("not checked" if not told else "warning" if jumps else "passed"), check
    if told and jumps:
        wrong = next(i for i, one in enumerate(ids) if one != ids[0] + i)
        assert f" {wrong} has {name} {ids[wrong]}" in check.detail


def check_sequences_of(source: Any) -> Any:
    said = {"trained": source.count, "sequence_length": LENGTH, "vocabulary_size": 8000}
    return check_sequences(source, control=None, length=LENGTH, **said)


# JSONL


@pytest.mark.parametrize("key", ["sequence_id", "index"])
@pytest.mark.parametrize("ids", [[0, 2, 1], [0, 1, 1], [1, 2, 3], [0, 1, "two"], [0, 1, None]])
def test_lines_that_are_numbered_otherwise_are_refused(key: str, ids: list[Any], tmp_path: Path) -> None:
    def written(numbers: list[Any]) -> Path:
        lines = [json.dumps({key: n, "tokens": [1, 2]}) for n in numbers]
        (tmp_path / "a.jsonl").write_text("\n".join(lines))
        return tmp_path / "a.jsonl"

    assert open_sequences(written([0, 1, 2])).read(0, 3, 2).tolist() == [[1, 2]] * 3
    with pytest.raises(BadInput, match=f"has {key} "):
        open_sequences(written(ids)).read(0, 3, 2)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (['{"input_ids": [1, 2]}', '{"input_ids": [3, 4]}'], [[1, 2], [3, 4]]),
        (['{"input_ids": [1, 2], "attention_mask": [1, 1]}'], [[1, 2]]),
        (['{"tokens": [1, 2], "input_ids": [1, 2]}'], [[1, 2]]),
        (['{"tokens": [1, 2], "input_ids": [1, 3]}'], "differ"),
        (['{"tokens": [1, 2]}', '{"input_ids": [3, 4]}'], 'no list "tokens"'),
        (['{"text": "a", "tokens": [1, 2]}'], [[1, 2]]),
        (['{"tokens": [1, 2]}', '{"text": "a"}'], 'no list "tokens"'),
        (['{"attention_mask": [1, 1]}'], "not an object with one of"),
    ],
)
def test_jsonl_keys(tmp_path: Path, lines: list[str], expected: Any) -> None:
    (tmp_path / "a.jsonl").write_text("\r\n".join(lines) + "\r\n\r\n")

    def read() -> list[list[int]]:
        source = open_sequences(tmp_path / "a.jsonl")
        found: list[list[int]] = source.read(0, source.count, 2).tolist()
        return found

    if isinstance(expected, str):
        with pytest.raises(BadInput, match=expected):
            read()
    else:
        assert read() == expected


def test_jsonl_with_a_named_key(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"tokens": [1, 2], "ids": [3, 4]}\n')
    named = open_sequences(tmp_path / "a.jsonl", column="ids")
    assert named.read(0, 1, 2).tolist() == [[3, 4]]
    assert named.identity() != open_sequences(tmp_path / "a.jsonl").identity()
    with pytest.raises(BadInput, match='one of "nothing"'):
        open_sequences(tmp_path / "a.jsonl", column="nothing")


# What isn't read


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a.jsonl.zst", "compressed JSONL: unpack it"),
        ("a.jsonl.gz", "compressed JSONL: unpack it"),
        ("a.parquet.gz", "compressed: unpack it"),
        ("a.json", "one object a line"),
        ("a.arrow", "to_parquet"),
        ("shard.00000.mds", "MDS shard"),
        ("shard-000000.tar", "WebDataset"),
        ("a.tfrecord", "TFRecord"),
        ("a.ds", "datatrove"),
        ("train.bin", r"reshape\(-1, LENGTH\)"),
        ("a.npy", "has no header.*fromfile"),
        ("part-0-00000.npy", "has no header.*fromfile"),
        ("global_indices.npy", "in which order training read"),
        ("d_doc_idx.npy", "in which order training read"),
    ],
)
def test_other_kinds_are_called_by_their_names(tmp_path: Path, name: str, says: str) -> None:
    np.arange(4000, dtype=np.uint16).tofile(tmp_path / name)
    with pytest.raises(BadInput, match=says) as refusal:
        open_sequences(tmp_path / name)
    assert str(tmp_path / name) in str(refusal.value)
    with serving(tmp_path) as server, pytest.raises(BadInput, match=says):
        open_sequences(f"{server.address}/{name}")


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["index.json", "shard.00000.mds"], "MosaicML"),
        (["index.json", "chunk-0-0.bin"], "litdata"),
        (["data-00000-of-00001.arrow", "dataset_info.json", "state.json"], "Hugging Face datasets"),
        (["shard-000000.tar", "shard-000001.tar"], "WebDataset"),
    ],
)
def test_other_folders_are_called_by_their_names(tmp_path: Path, names: list[str], says: str) -> None:
    for name in names:
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(BadInput, match=says):
        open_sequences(tmp_path)
    if "chunk-0-0.bin" in names:
        with pytest.raises(BadInput, match="litdata"):
            open_sequences(tmp_path / "chunk-0-0.bin")


def test_one_half_of_each_sequence_is_not_the_sequences(tmp_path: Path) -> None:
    for name in ("train_prefix.npy", "train_suffix.npy"):
        np.save(tmp_path / name, np.zeros((4, 50), np.uint16))
    for name in ("train_prefix.npy", "train_suffix.npy"):
        with pytest.raises(BadInput, match="one half of each sequence"):
            open_sequences(tmp_path / name)


# Files that change


@pytest.mark.parametrize("kind", ["parquet", "many shards"])
def test_a_file_that_is_exchanged_under_its_reader_is_refused(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memoserve.files import byte_ranges

    monkeypatch.setattr(byte_ranges, "KEPT_OPEN", 0)
    if kind == "parquet":
        write(tmp_path / "d.parquet", rows(3000))
        source = open_sequences(tmp_path / "d.parquet")
        source.read(2900, 2910, 4)  # what is open now has gone past the beginning
    else:
        write_dataset(tmp_path / "d", rows(300))
        source = open_sequences(tmp_path / "d.idx")
        assert source.read(0, 10, 4).tolist() == [row[:4] for row in rows(10)]
    if kind == "parquet":
        write(tmp_path / "e.parquet", rows(3000, 1))
        (tmp_path / "e.parquet").replace(tmp_path / "d.parquet")
    else:
        content = (tmp_path / "d.bin").read_bytes()
        (tmp_path / "e.bin").write_bytes(content[:-2] + b"\0\0")
        (tmp_path / "e.bin").replace(tmp_path / "d.bin")
    with pytest.raises(BadInput, match=r"d\.(parquet|bin) changed while it was being read"):
        source.read(0, 10, 4)


def test_another_order_is_another_identity(tmp_path: Path) -> None:
    """A store that was begun when files stood in the order of their names doesn't go on with another."""
    for i in range(11):
        write(tmp_path / "a" / f"shard_{i}.parquet", rows(2, 10 * i))
    by_name = sorted(f"shard_{i}.parquet" for i in range(11))
    for i, name in enumerate(by_name):
        target = tmp_path / "b" / f"{i:02}.parquet"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((tmp_path / "a" / name).read_bytes())
    now, before = open_sequences(tmp_path / "a"), open_sequences(tmp_path / "b")
    assert now.identity()["index_sha256"] != before.identity()["index_sha256"]
    assert now.read(0, now.count, 1)[:, 0].tolist() == [10 * i + j for i in range(11) for j in range(2)]
    write_pack(lambda: now, tmp_path / "pack", 8)
    assert open_sequences(tmp_path / "pack").identity() == now.identity()
