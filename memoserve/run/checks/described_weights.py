"""Weights against the suite's description of the model: as far as headers and config.json say."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.checks import CheckResult
from memoserve.domain import CONTINUATION, Checkpoint, Model
from memoserve.engines.vllm.heads import unsupported_head_size
from memoserve.engines.weights.local import ModelFolder, positions_of
from memoserve.engines.weights.model_tensors import Parameters, parameters_of
from memoserve.engines.weights.tensor_headers import Tensor
from memoserve.engines.weights.tensor_values import FLOATS, sampled, sampled_values
from memoserve.suites import Suite

LONGEST = "longest sequence"
"""The name of the check whether a model takes a context and its continuation."""

TOLERANCE = 0.01
"""How far a suite's parameter counts may be off, as a share: budgets are then off by as much."""

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks?|layer)\.(\d+)\.")


@dataclass(frozen=True)
class Use:
    """What the weights are wanted for: an engine (None: any) on a device, after `context` tokens."""

    engine: str | None = None
    device: str = "cpu"
    context: int = 32


@dataclass(frozen=True)
class Finding:
    """One comparison; of_suite: if it failed, it is the suite that is wrong, whatever the weights are."""

    name: str
    result: CheckResult
    detail: str
    figure: float | None = None
    of_suite: bool = False


def findings(suite: Suite, checkpoint: Checkpoint, folder: ModelFolder, use: Use) -> Iterator[Finding]:
    """What the folder of one checkpoint says, beside what the suite says. Raises OSError."""
    config = folder.text_config
    model = checkpoint.model
    if folder.chosen.pickled:
        yield _pickled(model, folder)
        parameters = None
    else:
        parameters = parameters_of(folder.tensors, config)
        yield from _counts(model, folder.config, parameters)
        yield from _layers(config, parameters)
        yield _values(folder.config, parameters, trained=checkpoint.step > 0)
    yield from _vocabulary(suite, config, parameters)
    yield from _positions(suite, config, use)
    yield from _heads(config, use)


def _counts(model: Model, config: dict[str, Any], parameters: Parameters) -> Iterator[Finding]:
    stated = (
        ("parameters", model.parameters, parameters.count),
        (
            "parameters without embeddings",
            model.parameters_without_embeddings,
            parameters.count_without_embeddings,
        ),
    )
    for name, expected, held in stated:
        key = name.replace(" ", "_")
        if "quantization_config" in config:
            yield Finding(name, "not checked", "quantized weights hold several numbers in one")
        elif held is None:
            yield Finding(name, "not checked", "no tensor is known to be an embedding")
        elif held == expected:
            yield Finding(name, "passed", f"{held:,}, in the files and in the suite", held)
        else:
            both = f"the files hold {held:,} {name}, and the suite says {key} = {expected:,}"
            if abs(held - expected) > TOLERANCE * expected:
                advice = "budgets would be wrong: correct the suite file, or give it this model's weights"
                yield Finding(name, "failed", f"{both}; {advice}", held)
            else:
                yield Finding(name, "warning", f"{both}: {abs(held / expected - 1):.2%} apart", held)


def _pickled(model: Model, folder: ModelFolder) -> Finding:
    """Of pickles an index says how many bytes they are, buffers counted, and nothing else does."""
    try:
        assert folder.chosen.index is not None
        index = json.loads((folder.folder / folder.chosen.index).read_bytes())
        total = int(index["metadata"]["total_size"])
    except (AssertionError, KeyError, TypeError, ValueError):
        return Finding("parameters", "not checked", "pickled weights don't say how many they are")
    return of_size(model, total, "the index of these pickled weights", "more can't be told of pickles")


def of_size(model: Model, total: int, source: str, rest: str) -> Finding:
    """What so many bytes of weights say: parameters take one to four bytes, and buffers come on top."""
    size = f"{source} says {total:,} bytes"
    if model.parameters * 0.9 <= total <= model.parameters * 6:
        return Finding("parameters", "not checked", f"{size}, which may be the suite's; {rest}", total)
    detail = (
        f"{size}, which in no precision are the {model.parameters:,} parameters that the suite says: correct"
        " one of them"
    )
    return Finding("parameters", "failed", detail, total)


def _layers(config: dict[str, Any], parameters: Parameters) -> Iterator[Finding]:
    stated = config.get("num_hidden_layers", config.get("n_layer"))
    found = {int(m[1]) for tensor in parameters.tensors if (m := _LAYER.search(tensor.name))}
    if not isinstance(stated, int) or not found:
        return
    if found == set(range(stated)):
        yield Finding("layers", "passed", f"{stated}, in the files and in config.json", stated)
    else:
        detail = (
            f"the files hold {len(found)} layers, {min(found)} to {max(found)}, and config.json says"
            f" {stated}: one of them is another model's"
        )
        yield Finding("layers", "failed", detail, len(found))


def _values(config: dict[str, Any], parameters: Parameters, trained: bool) -> Finding:
    """Whether sampled values can be weights, read as the type that the files say.

    No matrix is all zeros once training has begun: a file that was made room for, and not filled, is.

    A type of the same width gives numbers without a word: 16 bits of one type read as the other leave either
    hardly any values near zero, or most of them many orders of magnitude below the largest.
    """
    name = "weight values"
    if "quantization_config" in config:
        return Finding(name, "not checked", "quantized weights are no numbers by themselves")
    held = {tensor.dtype: tensor for tensor in parameters.tensors}
    if strange := [tensor for dtype, tensor in held.items() if dtype not in FLOATS]:
        return Finding(name, "failed", f"{strange[0].name} is stored as {strange[0].dtype}: no weights are")
    if {"F16", "BF16"} <= held.keys():
        both = f"{held['F16'].name} is stored as F16, {held['BF16'].name} as BF16"
        return Finding(name, "failed", f"{both}: one of the two is mislabelled; export the checkpoint again")
    misread = 0
    matrices = [tensor for tensor in parameters.tensors if len(tensor.shape) > 1 and tensor.elements]
    for tensor in parameters.tensors:
        with np.errstate(invalid="ignore"):
            values = sampled_values(tensor).astype(np.float64)
        if not np.isfinite(values).all():
            detail = (
                f"{tensor.name} holds values that are no finite numbers: training diverged, or it is damaged"
            )
            return Finding(name, "failed", detail)
        if trained and len(tensor.shape) > 1 and len(values) and not values.any():
            detail = (
                f"{tensor.name} holds nothing but zeros, as in a file that was not written to its end: get"
                " the checkpoint again"
            )
            return Finding(name, "failed", detail)
        misread += len(tensor.shape) > 1 and _misread(tensor.dtype, values)
    if matrices and misread > len(matrices) / 2:
        detail = (
            f"the values of {misread} of {len(matrices)} matrices are none of weights when read as"
            f" {matrices[0].dtype}: that label is wrong; export the checkpoint again"
        )
        return Finding(name, "failed", detail, misread)
    if trained and (twice := _twice(matrices)):
        detail = (
            f"{twice[0].name} and {twice[1].name} hold the same values, as far as sampled: right if"
            " the model shares them, else one was written over the other"
        )
        return Finding(name, "warning", detail, misread)
    return Finding(name, "passed", f"finite in samples of {len(parameters.tensors)} tensors", misread)


def _twice(matrices: list[Tensor]) -> tuple[Tensor, Tensor] | None:
    """Two matrices of the same values, which training makes of no two."""
    seen: dict[object, Tensor] = {}
    for tensor in matrices:
        sample = sampled(tensor)
        other = seen.setdefault((tensor.dtype, tensor.shape, sample.digest), tensor)
        if other is not tensor and not sample.constant:
            return other, tensor
    return None


def _misread(dtype: str, values: NDArray[np.float64]) -> bool:
    size = np.abs(values[values != 0])
    if not len(size) or len(size) < len(values) / 2 or dtype not in ("F16", "BF16"):
        return False
    typical = float(np.sqrt(np.mean(size**2)))
    if dtype == "F16":  # exponents of bfloat16 below 1 all become those of 0.25 to 2
        return 0.25 < typical < 2 and float(np.mean(size)) > 0.95 * typical
    return float(np.median(size)) < 1e-3 * typical


def _vocabulary(suite: Suite, config: dict[str, Any], parameters: Parameters | None) -> Iterator[Finding]:
    try:
        size = int(config["vocab_size"])
    except (KeyError, TypeError, ValueError):
        yield Finding("vocabulary", "failed", "config.json lacks a usable vocab_size")
        return
    if parameters is not None:
        embeddings = (*parameters.inputs, *parameters.outputs)
        wrong = [tensor for tensor in embeddings if tensor.shape[0] != size]
        if wrong:
            detail = (
                f"{wrong[0].name} has {wrong[0].shape[0]:,} rows, and config.json says vocab_size = {size:,}:"
                " one of them is another model's"
            )
            yield Finding("vocabulary", "failed", detail, wrong[0].shape[0])
        elif embeddings:
            yield Finding("vocabulary", "passed", f"{size:,}, in the files and in config.json", size)
        else:
            yield Finding("vocabulary", "not checked", "no tensor is known to be an embedding", size)
    eos = suite.eos_token_id
    if eos >= size:
        detail = (
            f"the model has {size:,} token ids, and the suite's eos_token_id is {eos}: correct the suite file"
        )
        yield Finding("end-of-text token", "failed", detail, eos, of_suite=True)
        return
    stated = config.get("eos_token_id")
    known = stated if isinstance(stated, list) else [stated]
    if isinstance(known[0] if known else None, int) and eos not in known:
        detail = (
            f"the suite's eos_token_id is {eos}, and config.json says {', '.join(map(str, known))}: one of"
            " them is not what stood between the documents of the training data"
        )
        yield Finding("end-of-text token", "warning", detail, eos)
    else:
        yield Finding("end-of-text token", "passed", f"{eos}, of a vocabulary of {size:,}", eos)


def _positions(suite: Suite, config: dict[str, Any], use: Use) -> Iterator[Finding]:
    positions = positions_of(config)
    if positions is None:
        yield Finding(LONGEST, "not checked", "config.json says no maximum")
        return
    needed = use.context + CONTINUATION
    if positions < needed:
        detail = (
            f"the model takes {positions:,} tokens at most; a context of {use.context} tokens and its"
            f" continuation are {needed}: use a shorter --context"
        )
        yield Finding(LONGEST, "failed", detail, positions)
    elif positions < suite.sequence_length:
        detail = (
            f"the model takes {positions:,} tokens at most, and the suite says that it was trained on"
            f" sequences of {suite.sequence_length:,}"
        )
        yield Finding(LONGEST, "warning", detail, positions)
    else:
        yield Finding(LONGEST, "passed", f"{positions:,} tokens, of which {needed} are needed", positions)


def _heads(config: dict[str, Any], use: Use) -> Iterator[Finding]:
    if use.engine not in ("vllm", None):
        return
    reason = unsupported_head_size(config, use.device)
    if reason is None:
        yield Finding("head size", "passed", f"vLLM has attention for it on {use.device}")
    elif use.engine is None:
        yield Finding("head size", "warning", f"{reason}: there it takes --engine transformers")
    else:
        yield Finding("head size", "failed", f"{reason}: use --engine transformers")
