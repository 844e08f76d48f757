"""Which files of a model folder are its weights: one rule, whatever engine reads them, here or on the hub.

1. `model.safetensors.index.json`, if it is there: exactly the files that it names.
2. Else `model.safetensors`.
3. Else the only other *.safetensors, unless its name says that it is no model or one part of several.
4. With pickles allowed, and where there is no *.safetensors: the same with `pytorch_model.bin.index.json`,
   `pytorch_model.bin` and `pytorch_model*.bin`.

vLLM reads every *.safetensors of a folder, by an index if there is one; Transformers takes model.safetensors
before an index. So a folder that holds more than the chosen files is shown to both as a folder of links.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from memoserve.engines.weights.tensor_headers import LFS_POINTER, Tensor

_SAFE, _SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
_PICKLED, _PICKLED_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

# What an engine may take for weights, or for a reason to read other files (an adapter).
_WEIGHT_LIKE = re.compile(
    r"(\.(safetensors|bin|pt|pth|ckpt|gguf|h5|msgpack)|\.index\.json|\.index\.\w+\.json)$|^adapter_config\.json$"
)
_NOT_A_MODEL = re.compile(
    r"(^|[._-])(optim\w*|scheduler|scaler|train\w*|rng\w*|random_states?|adapter\w*|lora|ema|exp_avg\w*)([._-]|$)"
)
_PART = re.compile(r"-(\d+)-of-(\d+)\.\w+$")
_UNFINISHED = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".tmp", ".download")
# What else an engine reads of a model folder.
CONFIGURATION = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json")


class NoWeights(ValueError):
    """No file, or no one set of files, is the weights; the message says why and what to do."""


@dataclass(frozen=True)
class WeightFiles:
    """The chosen ones.

    files: their names, sorted; index: the file that names them, or None; tensors: where the index says that
    each tensor is, by name, empty without an index; pickled: *.bin; left_out: what else is in the folder
    that an engine might have read.
    """

    files: tuple[str, ...]
    index: str | None
    tensors: Mapping[str, str]
    pickled: bool
    left_out: tuple[str, ...]


def choose_weight_files(
    names: Iterable[str], read: Callable[[str], bytes], allow_pickle: bool = False
) -> WeightFiles:
    """By the rule above, of the files `names` of one folder; `read` gives the content of an index.

    Raises NoWeights, and what `read` raises.
    """
    there = frozenset(name for name in names if "/" not in name)
    unfinished = sorted(name for name in there if name.endswith(_UNFINISHED))
    try:
        chosen = _chosen(there, ".safetensors", _SAFE, _SAFE_INDEX, read)
        if chosen is None:
            pickles = _chosen(there, ".bin", _PICKLED, _PICKLED_INDEX, read) if allow_pickle else None
            if pickles is None:
                raise NoWeights(_nothing(there))
            chosen = pickles
    except NoWeights as error:
        if not unfinished:
            raise
        raise NoWeights(f"{error} ({', '.join(unfinished)}: a download that didn't end?)") from None
    files, index, tensors = chosen
    kept = {*files, index}
    return WeightFiles(
        files=files,
        index=index,
        tensors=tensors,
        pickled=files[0].endswith(".bin"),
        left_out=tuple(sorted(name for name in there - kept if _WEIGHT_LIKE.search(name))),
    )


def _chosen(
    there: frozenset[str], suffix: str, whole: str, index: str, read: Callable[[str], bytes]
) -> tuple[tuple[str, ...], str | None, dict[str, str]] | None:
    if index in there:
        tensors = _weight_map(index, read(index), suffix)
        files = sorted(set(tensors.values()))
        if missing := [name for name in files if name not in there]:
            advice = "download what is missing"
            if whole in there:
                advice += f", or take {index} away if {whole} is the whole model"
            raise NoWeights(f"{index} names {listed(missing)}, which is not there: {advice}")
        return tuple(files), index, tensors
    if whole in there:
        return (whole,), None, {}
    stem = whole.partition(".")[0] if suffix == ".bin" else ""
    others = sorted(
        name
        for name in there
        if name.endswith(suffix) and name.startswith(stem) and not _NOT_A_MODEL.search(name.lower())
    )
    if not others:
        return None
    parts = [part for name in others if (part := _PART.search(name))]
    if parts and int(parts[0][2]) > 1:
        raise NoWeights(
            f"{listed(others)} {'is a part' if len(others) == 1 else 'are parts'} of a model, and {index},"
            " which says what belongs together, is not there: download it too"
        )
    if len(others) > 1:
        raise NoWeights(f"{listed(others)}: which of them is the model? Call it {whole}, or leave only that")
    return (others[0],), None, {}


def _weight_map(index: str, content: bytes, suffix: str) -> dict[str, str]:
    if content.startswith(LFS_POINTER):
        raise NoWeights(f"{index} is a Git LFS pointer, not the file that it stands for: run git lfs pull")
    try:
        tensors = json.loads(content)["weight_map"]
        if not tensors or not all(isinstance(name, str) for name in tensors.values()):
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise NoWeights(f"{index} is damaged, or no index of weights: download it again") from None
    for name in tensors.values():
        if "/" in name or "\\" in name or not name.endswith(suffix):
            raise NoWeights(f"{index} names {name!r}, which is no *{suffix} beside it")
    return dict(tensors)


def _nothing(there: frozenset[str]) -> str:
    others = sorted(name for name in there if name.endswith(".safetensors"))
    if any(name.startswith("pytorch_model") and name.endswith(".bin") for name in there):
        more = (
            ", only pickled weights, which can run code of their author: say --allow-pickle-weights"
            " if you trust them"
        )
    else:
        more = f" that is a model, only {listed(others)}" if others else ""
    return f"holds no *.safetensors{more}"


def listed(names: Sequence[str]) -> str:
    """The first four names, and how many more there are."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def check_index(tensors: Iterable[Tensor], chosen: WeightFiles) -> None:
    """Hold the tensors of the chosen files against the index, if there is one.

    Raises NoWeights if a tensor is in two files, or not in the file where the index says that it is.
    """
    held: dict[str, str] = {}
    for tensor in tensors:
        if tensor.name in held:
            raise NoWeights(
                f"{tensor.name} is in {held[tensor.name]} and in {tensor.file.name}: which of the two"
                " counts can't be told; these files are not of one export"
            )
        held[tensor.name] = tensor.file.name
    absent = [name for name, file in chosen.tensors.items() if held.get(name) != file]
    if absent:
        raise NoWeights(
            f"{chosen.tensors[absent[0]]} lacks {listed(absent)}, which {chosen.index} places there:"
            " these files are not of one export"
        )


_views: dict[tuple[Path, tuple[str, ...]], Path] = {}
_views_lock = threading.Lock()


def folder_of(folder: Path, chosen: WeightFiles) -> Path:
    """A folder in which any engine finds the chosen files and no other weights.

    `folder` itself where that is so; else a temporary one of links, which goes when this process ends.
    """
    only = chosen.files[0] if len(chosen.files) == 1 and chosen.index is None else None
    renamed = (_PICKLED if chosen.pickled else _SAFE) if only else None
    if not chosen.left_out and renamed == only:
        return folder
    folder = folder.resolve()
    key = folder, (*chosen.files, chosen.index or "")
    with _views_lock:
        if key not in _views or not _views[key].is_dir():
            view = Path(tempfile.mkdtemp(prefix="memoserve-weights-"))
            atexit.register(_remove, view, os.getpid())
            for name in (*chosen.files, *((chosen.index,) if chosen.index else ()), *CONFIGURATION):
                if (folder / name).exists():
                    (view / (renamed if renamed and name == only else name)).symlink_to(folder / name)
            _views[key] = view
        return _views[key]


def _remove(view: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a process that was forked from the owner
        shutil.rmtree(view, ignore_errors=True)
