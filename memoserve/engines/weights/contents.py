"""Are two model folders the same weights? By values, not by files.

File names, sharding, the header's metadata, the sign of zero and a change of precision don't make weights
others. Blocks sampled from the tensors prove a difference; only where these are equal are values compared one
by one, once a process.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.engines.weights.local import ModelFolder, file_digest
from memoserve.engines.weights.model_tensors import parameters_of
from memoserve.engines.weights.tensor_headers import Tensor
from memoserve.engines.weights.tensor_values import (
    FLOATS,
    FileState,
    Sample,
    equal_values,
    sampled,
    sampled_values,
    state_of,
    values_digest,
)

# What in a config.json changes nothing of what the model computes from token ids in evaluation.
_IDLE = (
    *("dtype", "torch_dtype", "transformers_version", "_name_or_path", "_commit_hash"),
    *("use_cache", "initializer_range", "gradient_checkpointing", "torchscript", "return_dict"),
    *("output_attentions", "output_hidden_states", "id2label", "label2id", "problem_type"),
)

# What stands before a name where a model was saved with what it was wrapped in, or without its head.
_WRAPPER = re.compile(r"^((model|gpt_neox|transformer|language_model|base_model|module|_orig_mod)\.)+")

_MATRICES = 16
"""So many of the largest matrices say where a model is in the space of weights."""


@dataclass(frozen=True)
class Contents:
    """The parameters of a model folder, read as far as they are asked for."""

    model: ModelFolder

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """By name: parameters alone, no buffers, a tied output embedding once.

        The names are those that engines make of them: a wrapper before a name, or another name of the head,
        doesn't make weights others.
        """
        parameters = parameters_of(self.model.tensors, self.model.text_config)
        heads = {tensor.name for tensor in parameters.outputs} if len(parameters.outputs) == 1 else set()
        named = {
            "lm_head.weight" if tensor.name in heads else _WRAPPER.sub("", tensor.name): tensor
            for tensor in parameters.tensors
        }
        if len(named) < len(parameters.tensors):  # then a wrapper tells two of them apart
            return {tensor.name: tensor for tensor in parameters.tensors}
        return named

    @cached_property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple((name, tensor.shape) for name, tensor in sorted(self.tensors.items()))

    @cached_property
    def dtypes(self) -> tuple[str, ...]:
        return tuple(tensor.dtype for _, tensor in sorted(self.tensors.items()))

    @cached_property
    def telling(self) -> tuple[str, ...]:
        """The names of the tensors, the largest first: training changes them most surely."""
        return tuple(sorted(self.tensors, key=lambda name: (-self.tensors[name].elements, name)))

    def computes_as(self, other: Contents) -> bool:
        """Whether the configurations make the same of equal weights.

        Files that differ are compared as Transformers reads them: a field that is left out has a default, and
        versions call some by other names.
        """
        if computing(self.model.config) == computing(other.model.config):
            return True
        mine, theirs = _as_transformers_reads(self.model.folder), _as_transformers_reads(other.model.folder)
        return mine is not None and theirs is not None and computing(mine) == computing(theirs)

    @cached_property
    def kind(self) -> object:
        """Names and shapes of the tensors, or sizes of pickles: weights of unlike kinds are not the same."""
        return self.shapes or tuple(sorted(file.stat().st_size for file in self.model.files))

    @cached_property
    def _samples(self) -> dict[str, Sample]:
        return {}

    def sample(self, name: str) -> Sample:
        """Of one tensor. Raises OSError."""
        if name not in self._samples:
            self._samples[name] = sampled(self.tensors[name])
        return self._samples[name]

    def same_as(self, other: Contents) -> bool:
        """Whether all parameters have the same values, in the coarser of the two precisions.

        Compared value by value only where all samples are equal. Pickles are compared as files. Raises
        OSError.
        """
        if self.kind != other.kind or self.model.chosen.pickled != other.model.chosen.pickled:
            return False
        if not self._maybe_same_as(other):
            return False
        key = frozenset((_state(self), _state(other)))
        with _lock:
            if key in _compared:
                return _compared[key]
        if self.model.chosen.pickled:
            equal = sorted(map(file_digest, self.model.files)) == sorted(map(file_digest, other.model.files))
        elif self.dtypes == other.dtypes:
            equal = self._digest == other._digest
        else:
            equal = all(equal_values(self.tensors[name], other.tensors[name]) for name in self.telling)
        with _lock:
            _compared[key] = equal
        return equal

    @property
    def _digest(self) -> bytes:
        """Of all values. Kept, as many steps may have to be told from one another."""
        state = _state(self)
        with _lock:
            if state in _digests:
                return _digests[state]
        digest = values_digest(tensor for _, tensor in sorted(self.tensors.items()))
        with _lock:
            return _digests.setdefault(state, digest)

    def _maybe_same_as(self, other: Contents) -> bool:
        """By samples."""
        if self.model.chosen.pickled:
            return sorted(map(_ends, self.model.files)) == sorted(map(_ends, other.model.files))
        if self.dtypes == other.dtypes:
            return all(self.sample(name) == other.sample(name) for name in self.telling)
        return all(
            equal_values(self.tensors[name], other.tensors[name], sampled=True) for name in self.telling
        )

    @cached_property
    def position(self) -> NDArray[np.float32]:
        """Where in the space of weights this model is: sampled values of its largest matrices.

        Empty where there is none of floating-point numbers. Raises OSError.
        """
        matrices = (tensor for name in self.telling if len((tensor := self.tensors[name]).shape) > 1)
        values = [sampled_values(tensor) for tensor in islice(matrices, _MATRICES) if tensor.dtype in FLOATS]
        return np.concatenate(values) if values else np.zeros(0, np.float32)

    @cached_property
    def pieces(self) -> dict[tuple[str, object], float]:
        """Each matrix, by name and sampled values, and its share of all parameters.

        Matrices of one repeated value, which tell nothing, are left out. Raises OSError.
        """
        total = sum(tensor.elements for tensor in self.tensors.values())
        return {
            (name, (tensor.dtype, tensor.shape, self.sample(name).digest)): tensor.elements / total
            for name, tensor in self.tensors.items()
            if len(tensor.shape) > 1 and tensor.elements and not self.sample(name).constant
        }


_compared: dict[frozenset[tuple[FileState, ...]], bool] = {}
_digests: dict[tuple[FileState, ...], bytes] = {}
_lock = threading.Lock()


def _state(contents: Contents) -> tuple[FileState, ...]:
    return tuple(state_of(file) for file in contents.model.files)


def _ends(file: Path) -> bytes:
    """The last 64 KiB of a file: a pickle's sums of all its values, as it is a ZIP archive."""
    with open(file, "rb") as opened:
        opened.seek(max(file.stat().st_size - (1 << 16), 0))
        return opened.read()


def _as_transformers_reads(folder: Path) -> dict[str, Any] | None:
    """A config.json with its defaults, None where Transformers isn't installed or doesn't know the model."""
    try:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        return dict(config.to_dict())
    except Exception:  # whatever it can't read, or lacks
        return None


def computing(config: Any) -> str:
    """A configuration without what changes nothing of what a model computes; equal ones give equal texts."""
    return repr(_without_idle(config))


def _without_idle(config: Any) -> Any:
    if isinstance(config, dict):
        return [
            (key, _without_idle(value))
            for key, value in sorted(config.items())
            if key not in _IDLE and not key.endswith(("dropout", "_token_id")) and value is not None
        ]
    return config
