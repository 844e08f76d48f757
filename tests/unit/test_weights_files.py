"""Which files of a model folder are read: the same by every engine, whole, and of one export; or none."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weight_folders import INDEX, Tensors, reshard, save, save_shards, tensors_of

from memoserve.domain import Checkpoint, Weights
from memoserve.engines import fetch_weights
from memoserve.engines.weights.tensor_headers import DamagedFile, read_tensors
from memoserve.errors import EngineFailed
from memoserve.suites import Suite, select

Change = Callable[[Path, Tensors], object]
"""Does something to a folder with model.safetensors; is given the tensors of another step."""


@pytest.fixture
def good(mini: Suite) -> Checkpoint:
    return select(mini, "116k@1001")[0]


@pytest.fixture
def stale(mini: Suite) -> Tensors:
    (other,) = select(mini, "116k@161")
    assert other.weights.folder is not None
    return tensors_of(other.weights.folder)


@pytest.fixture
def folder(good: Checkpoint, tmp_path: Path) -> Path:
    assert good.weights.folder is not None
    return Path(shutil.copytree(good.weights.folder, tmp_path / "weights"))


def at(checkpoint: Checkpoint, folder: Path) -> Checkpoint:
    return replace(checkpoint, weights=Weights(folder=folder))


def as_vllm(folder: Path) -> Tensors:
    """What vLLM reads: every *.safetensors, by an index only those that it names."""
    files = sorted(folder.glob("*.safetensors"))
    if (folder / INDEX).exists():
        named = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        assert named <= {file.name for file in files}
        files = [file for file in files if file.name in named]
    return {name: tensor for file in files for name, tensor in tensors_of(folder, file.name).items()}


def as_transformers(folder: Path) -> Tensors:
    """What Transformers reads: model.safetensors, else the files of the index."""
    if (folder / "model.safetensors").exists():
        return tensors_of(folder)
    named = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    return {name: tensor for file in named for name, tensor in tensors_of(folder, file).items()}


def equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def keep(folder: Path, name: str) -> Path:
    return (folder / "model.safetensors").rename(folder / name)


def drop(*files: Path) -> int:
    for file in files:
        file.unlink()
    return len(files)


def beside(name: str) -> Change:
    return lambda folder, other: save(other, folder / name)


def sharded_and(change: Change) -> Change:
    def both(folder: Path, other: Tensors) -> None:
        reshard(folder, 3)
        change(folder, other)

    return both


HARMLESS: dict[str, Change] = {
    "as it is": lambda folder, other: None,
    "one shard": lambda folder, other: reshard(folder, 1),
    "four shards": lambda folder, other: reshard(folder, 4),
    "an older single file beside shards": sharded_and(beside("model.safetensors")),
    "shards of an older export beside shards": sharded_and(beside("model-00001-of-00002.safetensors")),
    "shards without index beside a single file": beside("model-00001-of-00002.safetensors"),
    "training state": lambda folder, other: save(
        {"state.exp_avg": np.zeros(4)}, folder / "optimizer.safetensors"
    ),
    "training state beside shards": sharded_and(beside("optimizer.safetensors")),
    "an adapter": lambda folder, other: (
        save(other, folder / "adapter_model.safetensors"),
        (folder / "adapter_config.json").write_text("{}"),
    ),
    "a consolidated file": beside("consolidated.safetensors"),
    "another precision": beside("model.fp16.safetensors"),
    "a moving average": beside("ema.safetensors"),
    "pickles": lambda folder, other: (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N."),
    "an index of pickles": lambda folder, other: (folder / "pytorch_model.bin.index.json").write_text("{}"),
    "a name of its own": lambda folder, other: keep(folder, "pythia.safetensors"),
    "a name of its own and training state": lambda folder, other: (
        keep(folder, "weights.safetensors"),
        save(other, folder / "optimizer-1.safetensors"),
    ),
    "a part of one": lambda folder, other: keep(folder, "model-00001-of-00001.safetensors"),
    "a download of something else that didn't end": lambda folder, other: (
        folder / "tf_model.h5.incomplete"
    ).write_bytes(b"x"),
    "weights in a folder below": lambda folder, other: (
        save(other, Path(tempfile.mkdtemp(prefix="old", dir=folder)) / "model.safetensors"),
    ),
}


@pytest.mark.parametrize("kind", HARMLESS)
def test_every_engine_finds_the_weights_and_no_others(
    kind: str, good: Checkpoint, folder: Path, stale: Tensors
) -> None:
    wanted = tensors_of(folder)
    before = fetch_weights(at(good, folder)).identity
    HARMLESS[kind](folder, stale)
    found = fetch_weights(at(good, folder))
    assert equal(as_vllm(found.folder), wanted)
    assert equal(as_transformers(found.folder), wanted)
    assert json.loads((found.folder / "config.json").read_text())["vocab_size"] == found.vocabulary_size
    assert not list(found.folder.glob("*.bin"))
    assert not (found.folder / "adapter_config.json").exists()
    # Stores name weights by what is read of them: another file beside them changes nothing.
    if (folder / "model.safetensors").exists() and not (folder / INDEX).exists():
        assert found.identity == before == fetch_weights(good).identity


def pointer(folder: Path, name: str) -> int:
    return (folder / name).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 238376\n"
    )


def moved(folder: Path, other: Tensors) -> None:
    """The index places a tensor in another file than it is in."""
    files = reshard(folder, 2)
    index = json.loads((folder / INDEX).read_text())
    name = next(name for name, file in index["weight_map"].items() if file == files[0])
    index["weight_map"][name] = files[1]
    (folder / INDEX).write_text(json.dumps(index))


def renamed_index(weight_map: object) -> Change:
    return lambda folder, other: (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


REFUSED: dict[str, tuple[Change, str]] = {
    "an empty file": (lambda f, o: (f / "model.safetensors").write_bytes(b""), "it is empty"),
    "a pointer": (lambda f, o: pointer(f, "model.safetensors"), "git lfs pull"),
    "a pointer for an index": (lambda f, o: (reshard(f, 2), pointer(f, INDEX)), "git lfs pull"),
    "a pointer for a shard": (
        lambda f, o: pointer(f, reshard(f, 2)[1]),
        "00002-of-00002.safetensors is damaged",
    ),
    "no file": (lambda f, o: drop(f / "model.safetensors"), "holds no *.safetensors"),
    "training state alone": (lambda f, o: keep(f, "optimizer.safetensors"), "only optimizer.safetensors"),
    "pickles alone": (lambda f, o: keep(f, "pytorch_model.bin"), "--allow-pickle-weights"),
    "parts without index": (lambda f, o: (reshard(f, 2), drop(f / INDEX)), "download it too"),
    "one part of two": (lambda f, o: keep(f, "model-00001-of-00002.safetensors"), "is a part of a model"),
    "two that could be meant": (
        lambda f, o: (keep(f, "a.safetensors"), save(o, f / "b.safetensors")),
        "a.safetensors, b.safetensors: which of them",
    ),
    "an unfinished download": (
        lambda f, o: keep(f, "model.safetensors.incomplete"),
        "model.safetensors.incomplete: a download that didn't end",
    ),
    "an older index": (
        lambda f, o: (
            reshard(f, 2),
            drop(*f.glob("model-*")),
            save(o, f / "model.safetensors"),
        ),
        f"take {INDEX} away if model.safetensors is the whole model",
    ),
    "an index of nothing": (renamed_index({}), "no index of weights"),
    "an index of no JSON": (lambda f, o: (f / INDEX).write_text("{"), "no index of weights"),
    "an index that leads out": (renamed_index({"a": "../model.safetensors"}), "no *.safetensors beside it"),
    "an index of pickles by its name": (renamed_index({"a": "model.bin"}), "no *.safetensors beside it"),
    "a tensor in two files": (
        lambda f, o: save(tensors_of(f, (files := reshard(f, 2))[0]) | tensors_of(f, files[1]), f / files[1]),
        "not of one export",
    ),
    "a tensor in another file": (moved, "not of one export"),
    "a shard of another export": (lambda f, o: save(o, f / reshard(f, 2)[0]), "not of one export"),
    "an empty model": (lambda f, o: save({}, f / "model.safetensors"), "holds no tensor"),
    "a configuration of numbers": (lambda f, o: (f / "config.json").write_text("[1]"), "not a model config"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_one_set_of_weights_is_refused(
    kind: str, good: Checkpoint, folder: Path, stale: Tensors
) -> None:
    change, said = REFUSED[kind]
    change(folder, stale)
    with pytest.raises(EngineFailed) as caught:
        fetch_weights(at(good, folder))
    assert str(caught.value).startswith("116k@1001: ")
    assert said in str(caught.value)


def test_any_missing_shard_is_named(good: Checkpoint, folder: Path) -> None:
    files = reshard(folder, 4)
    for file in files:
        content = (folder / file).read_bytes()
        (folder / file).unlink()
        with pytest.raises(EngineFailed, match=f"names {file}, which is not there"):
            fetch_weights(at(good, folder))
        (folder / file).write_bytes(content)
    fetch_weights(at(good, folder))


@given(share=st.floats(0, 1, exclude_max=True), shard=st.integers(0, 2), longer=st.booleans())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_file_of_another_length_is_read(
    share: float, shard: int, longer: bool, good: Checkpoint, tmp_path: Path
) -> None:
    folder = tmp_path / "length"
    shutil.rmtree(folder, ignore_errors=True)
    assert good.weights.folder is not None
    shutil.copytree(good.weights.folder, folder)
    file = folder / reshard(folder, 3)[shard]
    content = file.read_bytes()
    file.write_bytes(
        content + b"\0" * (1 + int(share * 99)) if longer else content[: int(share * len(content))]
    )
    with pytest.raises(EngineFailed, match=f"{file.name} is damaged or not safetensors"):
        fetch_weights(at(good, folder))


def header_of(content: bytes) -> dict[str, dict[str, Any]]:
    length = int.from_bytes(content[:8], "little")
    found: dict[str, dict[str, Any]] = json.loads(content[8 : 8 + length])
    return found


def with_header(content: bytes, header: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_poisoned_header_is_read(data: st.DataObject, folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    header = header_of(content)
    names = sorted(header.keys() - {"__metadata__"})
    entry = header[data.draw(st.sampled_from(names))]
    shape, (first, last) = entry["shape"], entry["data_offsets"]
    change: dict[str, object] = data.draw(
        st.sampled_from(
            [
                {"dtype": "F32"},
                {"dtype": "U8"},
                {"dtype": "F17"},
                {"dtype": 16},
                {"shape": [*shape, 2]},
                {"shape": [-1 if size == max(shape) else size for size in shape]},
                {"shape": [float(size) for size in shape]},
                {"shape": None},
                {"shape": [True, *shape[1:]] if shape[0] != 1 else [0]},
                {"data_offsets": [first + 2, last + 2]},
                {"data_offsets": [first, last - 2]},
                {"data_offsets": [first - 2, last - 2]},
                {"data_offsets": [last, first]},
                {"data_offsets": [first, last, last]},
                {"data_offsets": [first, 1 << 70]},
                {"data_offsets": None},
            ]
        )
    )
    entry.update(change)
    poisoned = folder / "poisoned.safetensors"
    poisoned.write_bytes(with_header(content, json.dumps(header).encode()))
    with pytest.raises(DamagedFile):
        read_tensors(poisoned)


@pytest.mark.parametrize(
    "begin", ['{"a": ', '{"a": {"dtype": "F16"}, "a": ', "[" * 100_000, "null", '{"a": []}', ""]
)
def test_a_header_of_anything_else_is_refused(begin: str, folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "odd.safetensors").write_bytes(with_header(content, begin.encode()))
    with pytest.raises(DamagedFile):
        read_tensors(folder / "odd.safetensors")


def test_a_tensor_twice_in_a_header_is_refused(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    text = json.dumps(header_of(content))
    name = next(iter(header_of(content).keys() - {"__metadata__"}))
    twice = f'{{"{name}": {json.dumps(header_of(content)[name])}, {text[1:]}'
    (folder / "twice.safetensors").write_bytes(with_header(content, twice.encode()))
    with pytest.raises(DamagedFile, match="twice"):
        read_tensors(folder / "twice.safetensors")


def test_the_headers_are_those_that_the_library_reads(mini: Suite) -> None:
    from safetensors import safe_open

    for checkpoint in select(mini, "*@final"):
        assert checkpoint.weights.folder is not None
        file = checkpoint.weights.folder / "model.safetensors"
        with safe_open(file, framework="np") as opened:
            theirs = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        assert {tensor.name: tensor.shape for tensor in read_tensors(file)} == theirs


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_the_stored_type_is_that_of_the_files(dtype: type, good: Checkpoint, folder: Path) -> None:
    tensors: Tensors = {name: tensor.astype(dtype) for name, tensor in tensors_of(folder).items()}
    save(tensors, folder / "model.safetensors")
    assert fetch_weights(at(good, folder)).dtype == np.dtype(dtype).name


def test_pickles_follow_the_same_rule(good: Checkpoint, folder: Path, stale: Tensors) -> None:
    keep(folder, "pytorch_model-00001-of-00002.bin")
    (folder / "pytorch_model-00002-of-00002.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(
        EngineFailed, match=r"pytorch_model\.bin\.index\.json, which says what belongs together"
    ):
        fetch_weights(at(good, folder), allow_pickle=True)
    names = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    assert fetch_weights(at(good, folder), allow_pickle=True).folder == folder
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04N.")
    (folder / "training_args.bin").write_bytes(b"\x80\x04N.")
    found = fetch_weights(at(good, folder), allow_pickle=True).folder
    assert {file.name for file in found.glob("*.bin")} == set(names.values())
    (folder / names["b"]).unlink()
    with pytest.raises(EngineFailed, match="names pytorch_model-00002-of-00002"):
        fetch_weights(at(good, folder), allow_pickle=True)
    # With a whole *.safetensors beside them pickles are never read.
    save_shards(stale, folder, 2)
    assert not list(fetch_weights(at(good, folder), allow_pickle=True).folder.glob("*.bin"))


def test_the_folder_of_links_goes_with_its_process(good: Checkpoint, folder: Path, stale: Tensors) -> None:
    import subprocess
    import sys

    save(stale, folder / "optimizer.safetensors")
    code = f"""
from dataclasses import replace
from pathlib import Path
from memoserve.engines import fetch_weights
from memoserve.domain import Weights
from memoserve.suites import load_suite, select
(good,) = select(load_suite("mini"), "116k@1001")
found = [fetch_weights(replace(good, weights=Weights(folder=Path({str(folder)!r})))).folder for _ in range(2)]
assert found[0] == found[1] and found[0].is_dir() and found[0] != Path({str(folder)!r})
print(found[0])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not Path(result.stdout.strip()).exists()
