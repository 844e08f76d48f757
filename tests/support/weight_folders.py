"""Model folders made wrong, for tests: written with the safetensors library, not by memoserve."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from memoserve.suites import Suite

Tensors = dict[str, NDArray[np.generic]]

INDEX = "model.safetensors.index.json"


def tensors_of(folder: Path, name: str = "model.safetensors") -> Tensors:
    """The tensors of one file."""
    return dict(load_file(folder / name))


def save(tensors: Mapping[str, NDArray[np.generic]], file: Path, **metadata: str) -> Path:
    """Write one file, and give it."""
    whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(whole, file, metadata={"format": "pt", **metadata})
    return file


def save_shards(tensors: Tensors, folder: Path, count: int) -> list[str]:
    """Write so many files, tensors dealt out by turns, and their index; the names."""
    files = [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
    names = sorted(tensors)
    for number, file in enumerate(files):
        save({name: tensors[name] for name in names[number::count]}, folder / file)
    places = {name: files[place % count] for place, name in enumerate(names)}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return files


def reshard(folder: Path, count: int) -> list[str]:
    """Replace model.safetensors by so many files of the same tensors."""
    tensors = tensors_of(folder)
    (folder / "model.safetensors").unlink()
    return save_shards(tensors, folder, count)


def own_suite(mini: Suite, root: Path, model: str, steps: list[int], more: str = "") -> Path:
    """A suite file, and copies of one model's steps below root/weights; `more` is put before [sequences]."""
    (one,) = (m for m in mini.models if m.name == model)
    for step in steps:
        source = mini.checkpoint(one, step).weights.folder
        assert source is not None
        shutil.copytree(source, root / f"weights/{step}", dirs_exist_ok=True)
    first, stop = mini.sequences.control or (0, 0)
    (root / "suite.toml").write_text(
        f"""
name = "own"
batch_size = {mini.batch_size}
sequence_length = {mini.sequence_length}
eos = "ban"
eos_token_id = 0
steps = {steps}
{more}
[sequences]
path = "{mini.sequences.path}"
trained = {mini.sequences.trained}
control = [{first}, {stop}]

[[models]]
name = "{model}"
folder = "weights/{{step}}"
parameters = {one.parameters}
parameters_without_embeddings = {one.parameters_without_embeddings}
"""
    )
    return root / "suite.toml"
