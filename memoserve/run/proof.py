"""A few windows of a checkpoint go a second way, before its scores count.

What an engine computes is held against Transformers' own eager forward, at an engine's start and at its first
switch of weights (at every switch, if the settings say so): no configuration that nobody has tested can then
be wrong without a word. And what the checkpoint makes of its own training data is held against the
frequencies of single tokens, which every trained model beats.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memoserve.checks import Check, CheckResult
from memoserve.definitions import CONTINUATION
from memoserve.engines import EngineProcess, EngineSettings, Forward, LocalWeights, agreement
from memoserve.errors import EngineFailed
from memoserve.suites import Checkpoint

AGREES = "engine agrees with Transformers"
PLAUSIBLE = "plausible"

_WINDOWS = 32
_MOST_WINDOWS = 512

_UNTRAINED = 0.01
"""Of its training, what a checkpoint may have gone through and still be worse than token frequencies."""

_COUNTED_WINDOWS = 1 << 14
_FEWEST_TOKENS = 1024
_UNIFORM_SHARE = 0.1
"""Of the unigram model's probability, what is spread over the whole vocabulary, for tokens it never saw."""


@dataclass(frozen=True)
class Trial:
    """A checkpoint in an engine: what to hold against each other.

    windows: distinct ones of the data, u32[n, context + 32]; trained: sequences of the whole training.
    """

    engine: EngineProcess
    checkpoint: Checkpoint
    weights: LocalWeights
    windows: NDArray[np.uint32]
    trained: int


class _NoSecondWay(Exception):
    """Transformers' forward can't have the model; says why."""


def agrees(trial: Trial, log_file: Path, device: str = "") -> Check:
    """Hold an engine against the second way. The check failed if they disagree; it was not made if the second
    way can't have the model. `device`: see EngineProcess. Raises EngineFailed if the engine itself fails.
    """
    began = time.monotonic()
    settings = trial.engine.settings
    try:
        with _second_way(trial, log_file, device) as forward:
            found, windows = _agreement(trial, forward)
    except _NoSecondWay as why:
        detail = f"Transformers' own forward can't have this model: {why}"
        return _check(AGREES, trial.checkpoint, "not checked", detail)
    return _agreement_check(trial.checkpoint, settings, found, windows, time.monotonic() - began)


def plausible(trial: Trial) -> Check:
    """Hold what a checkpoint makes of windows of its training data against the frequencies of their tokens.

    The figure is its mean log-likelihood of a token of a continuation, in nats.
    """
    checkpoint = trial.checkpoint
    some, rest = _spread(trial.windows, _WINDOWS)
    logliks = trial.engine.logliks(some)
    if logliks is None:
        return _check(PLAUSIBLE, checkpoint, "not checked", "this engine gives no log-likelihoods here")
    ours = float(logliks.mean()) / CONTINUATION
    continuations = some[:, trial.engine.settings.context :]
    if rest.size < _FEWEST_TOKENS:
        detail = f"{ours:.2f} nats a token; too few sequences to count token frequencies on"
        return _check(PLAUSIBLE, checkpoint, "not checked", detail, ours)
    unigram = unigram_loglik(continuations, rest, trial.weights.vocabulary_size)
    detail = f"{ours:.2f} nats a token of {len(some)} windows, token frequencies alone {unigram:.2f}"
    if ours >= unigram:
        return _check(PLAUSIBLE, checkpoint, "passed", detail, ours)
    if checkpoint.sequences_seen < _UNTRAINED * trial.trained:
        return _check(PLAUSIBLE, checkpoint, "passed", f"{detail}; it has hardly been trained", ours)
    return _check(
        PLAUSIBLE,
        checkpoint,
        "failed",
        f"{detail}: it knows its own training data worse than frequencies do. Wrong weights, a wrong config.json "
        "or sequences of another tokenizer are likely; its scores are kept. If all is as it should be, say "
        "--allow-implausible",
        ours,
    )


def unigram_loglik(continuations: NDArray[np.uint32], others: NDArray[np.uint32], vocabulary: int) -> float:
    """Mean log-likelihood, in nats, of the tokens u32[n, m] under the frequencies of tokens in `others`."""
    counts = np.bincount(others.ravel(), minlength=vocabulary)
    shares = (1 - _UNIFORM_SHARE) * counts / others.size + _UNIFORM_SHARE / vocabulary
    return float(np.log(shares[continuations]).mean())


@contextmanager
def _second_way(
    trial: Trial, log_file: Path, device: str
) -> Iterator[Callable[[NDArray[np.uint32]], Forward]]:
    """Transformers' forward of the same files, in a process of its own. Raises _NoSecondWay."""
    settings = replace(trial.engine.settings, engine="eager", tensor_parallel=1)
    try:
        eager = EngineProcess(settings, trial.weights.folder, log_file, device=device)
    except EngineFailed as error:
        raise _NoSecondWay(str(error).splitlines()[0]) from None

    def forward(windows: NDArray[np.uint32]) -> Forward:
        try:
            return eager.forward(windows)
        except EngineFailed as error:
            raise _NoSecondWay(str(error).splitlines()[0]) from None

    try:
        yield forward
    finally:
        eager.close()


def _agreement(
    trial: Trial, forward: Callable[[NDArray[np.uint32]], Forward]
) -> tuple[agreement.Agreement, int]:
    """What was compared, and of how many windows; more of them until enough positions are decisive."""
    settings = trial.engine.settings
    done = 0
    found = agreement.Agreement(0, 0, 0, 0.0)
    number = _WINDOWS
    while found.decisive < agreement.ENOUGH and done < min(len(trial.windows), _MOST_WINDOWS):
        chosen = _spread(trial.windows, number)[0]
        found = agreement.Agreement(0, 0, 0, 0.0)
        truth = forward(chosen)
        if settings.mode == "score":
            context = chosen[:, : settings.context]
            begun = np.concatenate([context, trial.engine.generations(chosen)], axis=1)
            found = agreement.of_generations(forward(begun), settings.dtype)
        else:
            prefix = trial.engine.evaluate(chosen).matched_prefix
            found = agreement.of_prefixes(truth, prefix, settings.dtype)
        logliks = trial.engine.logliks(chosen)
        if logliks is not None:
            found = found.and_also(agreement.of_logliks(truth, logliks, settings.dtype))
        done, number = len(chosen), 4 * number
    return found, done


def _agreement_check(
    checkpoint: Checkpoint,
    settings: EngineSettings,
    found: agreement.Agreement,
    windows: int,
    seconds: float,
) -> Check:
    tolerance = agreement.TOLERANCES[settings.dtype]
    compared = f"{found.decisive:,} of {found.positions:,} tokens"
    if found.logliks:
        compared += f" and {found.logliks} log-likelihoods"
    compared += f" of {windows} windows compared in {seconds:.1f} s"
    differences = (
        f"{found.disagreeing:,} tokens differ, up to {found.largest:.2g} logits apart "
        f"(near-ties: up to {tolerance.near_tie:g})"
    )
    if found.logliks:
        differences += (
            f"; {found.loglik_beyond} log-likelihoods differ by more than {tolerance.loglik:g} nats + "
            f"{tolerance.loglik_share:.2%}, the largest difference is {found.loglik_difference:.2g}"
        )
    if not found.holds:
        return _check(
            AGREES,
            checkpoint,
            "failed",
            f"the {settings.engine} engine in {settings.dtype} and Transformers' own forward of the same "
            f"files disagree: {differences}; {compared}. This checkpoint is not evaluated: try --engine "
            "transformers, or --dtype float32",
            found.decisive,
        )
    if found.decisive < agreement.ENOUGH:
        weak = f"only {compared}: too few to say much ({agreement.ENOUGH} wanted); {differences}"
        return _check(AGREES, checkpoint, "warning", weak, found.decisive)
    return _check(AGREES, checkpoint, "passed", f"{compared}; {differences}", found.decisive)


def _spread(windows: NDArray[np.uint32], number: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """So many windows from all over, and others (not all of them)."""
    if len(windows) <= number:
        return windows, windows[:0]
    chosen = np.zeros(len(windows), dtype=bool)
    chosen[np.linspace(0, len(windows) - 1, number).astype(np.int64)] = True
    rest = np.flatnonzero(~chosen)
    return windows[chosen], windows[rest[:: 1 + len(rest) // _COUNTED_WINDOWS]]


def _check(
    name: str, checkpoint: Checkpoint, result: CheckResult, detail: str, figure: float | None = None
) -> Check:
    return Check(name, str(checkpoint), result, detail, figure, checkpoint.model.name, checkpoint.step)
