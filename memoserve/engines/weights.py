"""A checkpoint's weights on this machine: fetched, checked before any engine starts, and identified.

Nothing here imports torch. Formats: a Hugging Face model folder (config.json, *.safetensors).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memoserve.errors import (
    GOES_ON,
    EngineFailed,
    EngineStorageFailed,
    StorageFailed,
    advice_on,
    in_words,
)
from memoserve.suites import Checkpoint

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class LocalWeights:
    """A model folder that has been checked.

    identity: `hub-repo@commit` or `sha256:…` over config and weights; positions: the longest sequence
    the model takes; dtype: what the weights are stored in.
    """

    folder: Path
    identity: str
    vocabulary_size: int
    positions: int
    dtype: str
    architecture: str


def fetch_weights(checkpoint: Checkpoint, allow_pickle: bool = False) -> LocalWeights:
    """The weights of `checkpoint` in a local folder, downloaded if they are on the hub.

    Raises EngineFailed, naming checkpoint and file, if they are absent, damaged or not safetensors,
    EngineStorageFailed if there is no room to keep them.
    """
    weights = checkpoint.weights
    if weights.folder is not None:
        folder, identity = weights.folder, None
    else:
        folder = _download(checkpoint, allow_pickle)
        # The hub cache keeps a snapshot under the hash of its commit.
        identity = f"{weights.hub}@{folder.name}"
    config = _read_config(checkpoint, folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files and allow_pickle:
        files = sorted(folder.glob("pytorch_model*.bin"))
    elif files:
        for file in files:
            _check_safetensors(checkpoint, file)
    if not files:
        pickled = any(folder.glob("pytorch_model*.bin"))
        raise EngineFailed(
            f"{checkpoint}: {folder} holds no *.safetensors"
            + (
                ", only pickled weights, which can run code of their author: say --allow-pickle-weights"
                " if you trust them"
                if pickled
                else ""
            )
        )
    text: dict[str, Any] = config.get("text_config") or config
    try:
        return LocalWeights(
            folder=folder,
            identity=identity or _sha256([folder / "config.json", *files]),
            vocabulary_size=int(text["vocab_size"]),
            positions=int(text.get("max_position_embeddings") or 1 << 30),
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
            architecture=str((config.get("architectures") or ["unknown"])[0]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise EngineFailed(f"{checkpoint}: {folder / 'config.json'} lacks a usable {error}") from None


def _download(checkpoint: Checkpoint, allow_pickle: bool) -> Path:
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ImportError:
        raise EngineFailed(
            f"{checkpoint} is on the Hugging Face hub, and huggingface_hub is not installed:"
            " pip install 'memoserve[cpu]' or 'memoserve[cuda]'"
        ) from None
    patterns = ["*.json", "*.safetensors"] + (["pytorch_model*.bin"] if allow_pickle else [])
    weights = checkpoint.weights
    try:
        return Path(snapshot_download(str(weights.hub), revision=weights.revision, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if isinstance(in_words(error), StorageFailed):
            raise EngineStorageFailed(
                f"{checkpoint}: {weights} can't be kept: {reason} ({advice_on(error)}, or let the environment"
                f" variable HF_HOME name a folder on another disk).\n{GOES_ON}"
            ) from None
        raise EngineFailed(f"{checkpoint}: {weights} can't be fetched from the hub: {reason}") from None


def _read_config(checkpoint: Checkpoint, folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        state = "has no config.json" if folder.is_dir() else "does not exist"
        raise EngineFailed(f"{checkpoint}: the weights folder {folder} {state}") from None
    except (OSError, ValueError) as error:
        raise EngineFailed(f"{checkpoint}: {file} can't be read: {error}") from None
    if not isinstance(config, dict):
        raise EngineFailed(f"{checkpoint}: {file} is not a model configuration")
    return config


def _check_safetensors(checkpoint: Checkpoint, file: Path) -> None:
    """Header against length, which safetensors does on opening: finds truncation and garbage."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as opened:
            opened.keys()
    except (SafetensorError, OSError) as error:
        raise EngineFailed(f"{checkpoint}: {file} is damaged or not safetensors: {error}") from None


def _sha256(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"sha256:{digest.hexdigest()}"
