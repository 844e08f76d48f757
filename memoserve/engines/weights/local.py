"""A checkpoint's weights on this machine: fetched, checked before any engine starts, and identified.

Nothing here imports torch. Formats: a Hugging Face model folder (config.json, *.safetensors).
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memoserve.domain import Checkpoint
from memoserve.engines.weights.files import (
    NoWeights,
    WeightFiles,
    check_index,
    choose_weight_files,
    folder_of,
)
from memoserve.engines.weights.hub_download import download
from memoserve.engines.weights.tensor_headers import DamagedFile, Tensor, not_content, read_tensors
from memoserve.engines.weights.tensor_values import FileState, state_of
from memoserve.errors import EngineFailed

DTYPES = ("float32", "float16", "bfloat16")
_DTYPE_OF = {"F32": "float32", "F64": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class LocalWeights:
    """A model folder that has been checked.

    folder: where engines find config.json and exactly the chosen weight files; identity: `hub-repo@commit`
    or `sha256:…` over config and weights; positions: the longest sequence the model takes; dtype: what most
    of the weights are stored in; left_out: files beside the weights that no engine reads.
    """

    folder: Path
    identity: str
    vocabulary_size: int
    positions: int
    dtype: str
    architecture: str
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelFolder:
    """A folder as it is, its files chosen by the rule of weight_files and found whole.

    tensors: of all chosen files, by file and offset; none for pickles, which are not read here.
    """

    folder: Path
    config: dict[str, Any]
    chosen: WeightFiles
    tensors: tuple[Tensor, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(self.folder / name for name in self.chosen.files)

    @property
    def text_config(self) -> dict[str, Any]:
        """The configuration of the language model, which a model of several kinds of input keeps apart."""
        text = self.config.get("text_config")
        return text if isinstance(text, dict) else self.config


def fetch_weights(checkpoint: Checkpoint, allow_pickle: bool = False) -> LocalWeights:
    """The weights of `checkpoint` in a local folder, downloaded if they are on the hub.

    Raises EngineFailed, naming checkpoint and file, if they are absent, damaged or not safetensors,
    EngineStorageFailed if there is no room to keep them.
    """
    weights = checkpoint.weights
    if weights.folder is not None:
        model = open_folder(checkpoint, weights.folder, allow_pickle)
        identity = identity_of(model)
    else:
        folder = download(checkpoint, allow_pickle)
        model = open_folder(checkpoint, folder, allow_pickle)
        # The hub cache keeps a snapshot under the hash of its commit.
        identity = f"{weights.hub}@{folder.name}"
    text = model.text_config
    try:
        return LocalWeights(
            folder=folder_of(model.folder, model.chosen),
            identity=identity,
            vocabulary_size=int(text["vocab_size"]),
            positions=positions_of(text) or 1 << 30,
            dtype=stored_dtype(model),
            architecture=str((model.config.get("architectures") or ["unknown"])[0]),
            left_out=model.chosen.left_out,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EngineFailed(f"{checkpoint}: {model.folder / 'config.json'} lacks a usable {error}") from None


def open_folder(checkpoint: Checkpoint, folder: Path, allow_pickle: bool = False) -> ModelFolder:
    """The folder of a checkpoint, its weight files chosen and found whole (headers are read, not values).

    Raises EngineFailed, naming checkpoint and file.
    """
    config = _read_config(checkpoint, folder)
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_file()]
        chosen = choose_weight_files(names, lambda name: (folder / name).read_bytes(), allow_pickle)
    except (NoWeights, OSError) as error:
        raise EngineFailed(f"{checkpoint}: {folder} {_predicate(error)}") from None
    tensors: list[Tensor] = []
    for file in (folder / name for name in chosen.files):
        try:
            if not chosen.pickled:
                tensors += read_tensors(file)
            elif reason := not_content(file):
                raise DamagedFile(reason)
        except (DamagedFile, OSError) as error:
            what = "damaged" if chosen.pickled else "damaged or not safetensors"
            raise EngineFailed(f"{checkpoint}: {file} is {what}: {error}") from None
    if not chosen.pickled:
        try:
            if not tensors:
                raise NoWeights(f"{chosen.files[0]} holds no tensor")
            check_index(tensors, chosen)
        except NoWeights as error:
            raise EngineFailed(f"{checkpoint}: {folder}: {error}") from None
    return ModelFolder(folder, config, chosen, tuple(tensors))


def _predicate(error: NoWeights | OSError) -> str:
    """What a folder `holds`, or after a colon what else is wrong with it."""
    if isinstance(error, OSError):
        return f"can't be read: {error}"
    reason = str(error)
    return reason if reason.startswith("holds") else f"can't be used: {reason}"


def positions_of(config: dict[str, Any]) -> int | None:
    """The longest sequence that a model takes, by its configuration, or None if that says nothing."""
    for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if config.get(key):
            return int(config[key])
    return None


def stored_dtype(model: ModelFolder) -> str:
    """What most weights are stored in, by the files; by the configuration where these don't say."""
    held: Counter[str] = Counter()
    for tensor in model.tensors:
        held[tensor.dtype] += tensor.elements
    for dtype, _ in held.most_common():
        if dtype in _DTYPE_OF:
            return _DTYPE_OF[dtype]
    config = model.config
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


def _read_config(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        state = "has no config.json" if folder.is_dir() else "does not exist"
        raise EngineFailed(f"{checkpoint}: the weights folder {folder} {state}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise EngineFailed(f"{checkpoint}: {file} can't be read: {error}") from None
    if not isinstance(config, dict):
        raise EngineFailed(f"{checkpoint}: {file} is not a model configuration")
    return config


def identity_of(model: ModelFolder) -> str:
    """`sha256:…` over the whole of config.json and the chosen files. Raises OSError."""
    digest = hashlib.sha256()
    for file in (model.folder / "config.json", *model.files):
        digest.update(file_digest(file))
    return f"sha256:{digest.hexdigest()}"


_digests: dict[FileState, bytes] = {}
_digests_lock = threading.Lock()


def file_digest(file: Path) -> bytes:
    """The SHA-256 of a whole file, read once a process while it is unchanged. Raises OSError."""
    state = state_of(file)
    with _digests_lock:
        if state in _digests:
            return _digests[state]
    with open(file, "rb") as content:
        digest = hashlib.file_digest(content, "sha256").digest()
    with _digests_lock:
        _digests[state] = digest
    return digest
