"""A few windows of a checkpoint go a second way, before its scores count.

What an engine computes is held against Transformers' own eager forward, at an engine's start and at its first
switch of weights (at every switch, if the settings say so): no configuration that nobody has tested can then
be wrong without a word. And what the checkpoint makes of its own training data is held against the
frequencies of single tokens, which every trained model beats.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memoserve.checks import Check, CheckResult
from memoserve.domain import CONTINUATION, Checkpoint
from memoserve.engines import EngineProcess, EngineSettings, Forward, ForwardProcess, LocalWeights, agreement
from memoserve.errors import EngineFailed
from memoserve.suites import Suite

AGREES = "engine agrees with Transformers"
PLAUSIBLE = "plausible"
TOGETHER = "plausible beside others"
IMPLAUSIBLE = (PLAUSIBLE, TOGETHER)
"""Checks that, failed, leave a checkpoint's scores in doubt; they are kept."""

_SUSPECT = (
    "Wrong weights, a wrong config.json or sequences of another tokenizer are likely. Its scores are kept; "
    "if all is as it should be, say --allow-implausible"
)

_WINDOWS = 32
_MOST_WINDOWS = 512

_UNTRAINED = 0.01
"""Of its training, what a checkpoint may have gone through and still be worse than token frequencies."""

_COUNTED_WINDOWS = 1 << 14
_FEWEST_TOKENS = 1024
_PAIR_WINDOWS = 200
_SMOOTHING = 5.0
"""Pairs that the frequencies of single tokens weigh as much as, after each token."""

_MUCH_WORSE = 1.0
"""Nats a token. Two checkpoints' windows need not be the same; the mean over 32 of them varies by 0.35."""

_UNIFORM_SHARE = 0.1
"""Of the unigram model's probability, what is spread over the whole vocabulary, for tokens it never saw."""


@dataclass(frozen=True)
class Trial:
    """A checkpoint in an engine: what to hold against each other.

    windows: distinct ones of the data, u32[n, context + 32].
    """

    engine: EngineProcess
    checkpoint: Checkpoint
    weights: LocalWeights
    windows: NDArray[np.uint32]
    suite: Suite


class NoSecondWay(Exception):
    """Transformers' forward can't have the model; says why."""


class SecondWay:
    """Transformers' forward of a checkpoint's files, in a process of its own. `device`: see EngineProcess."""

    def __init__(self, settings: EngineSettings, log_file: Path, device: str = "") -> None:
        self._settings = replace(settings, tensor_parallel=1)
        self._log_file = log_file
        self._device = device
        self._process: ForwardProcess | None = None

    def begin(self, folder: Path) -> None:
        """Start with these weights, and don't wait: on a CPU that costs little beside an engine that starts.

        (On a GPU it would take memory just while the engine looks how much there is.)
        """
        if self._settings.device == "cpu":
            with suppress(EngineFailed):  # `start` tries again, and says why
                self._start(folder)

    def start(self, folder: Path) -> None:
        """Start with these weights, if that was not begun, and wait until it is up. Raises NoSecondWay."""
        try:
            self._start(folder).wait_until_up()
        except EngineFailed as error:
            raise NoSecondWay(str(error).splitlines()[0]) from None

    def _start(self, folder: Path) -> ForwardProcess:
        if self._process is None:
            self._process = ForwardProcess(self._settings, folder, self._log_file, self._device)
        return self._process

    def forward(self, windows: NDArray[np.uint32]) -> Forward:
        """See EagerForward.forward. Raises NoSecondWay."""
        assert self._process is not None
        try:
            return self._process.forward(windows)
        except EngineFailed as error:
            raise NoSecondWay(str(error).splitlines()[0]) from None

    def kill(self) -> None:
        """End the process at once, be it in the middle of a forward."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.close()
        self._process = None


def agrees(trial: Trial, second: SecondWay) -> Check:
    """Hold an engine against the second way. The check failed if they disagree; it was not made if the second
    way can't have the model. Raises EngineFailed if the engine itself fails.
    """
    began = time.monotonic()
    folder, settings = trial.weights.folder, trial.engine.settings
    try:
        second.start(folder)
        found, windows = _agreement(trial, second.forward)
    except NoSecondWay as why:
        detail = f"Transformers' own forward can't have this model: {why}"
        return _check(AGREES, trial.checkpoint, "not checked", detail)
    finally:
        second.close()  # its memory, and its cores, are the engine's again
    return _agreement_check(trial.checkpoint, settings, found, windows, time.monotonic() - began)


def plausible(trial: Trial) -> Check:
    """Hold what a checkpoint makes of windows of its training data against the frequencies of their tokens.

    The figure is its mean log-likelihood of a token of a continuation, in nats.
    """
    checkpoint = trial.checkpoint
    some, rest = _spread(trial.windows, _WINDOWS)
    ours = float(trial.engine.logliks(some).mean()) / CONTINUATION
    if rest.size < _FEWEST_TOKENS:
        detail = f"{ours:.2f} nats a token; too few sequences to count token frequencies on"
        return _check(PLAUSIBLE, checkpoint, "not checked", detail, ours)
    context, vocabulary = trial.engine.settings.context, trial.weights.vocabulary_size
    single = unigram_loglik(some[:, context:], rest, vocabulary)
    pairs = bigram_loglik(some[:, context - 1 :], rest, rest[:_PAIR_WINDOWS], vocabulary)
    detail = (
        f"{ours:.2f} nats a token of {len(some)} windows; by frequencies of tokens {single:.2f}, of pairs of "
        f"them in few windows {pairs:.2f}"
    )
    if checkpoint.sequences_seen < _UNTRAINED * trial.suite.sequences.trained:
        return _check(PLAUSIBLE, checkpoint, "passed", f"{detail}; it has hardly been trained", ours)
    if ours < single:
        return _check(PLAUSIBLE, checkpoint, "failed", f"{detail}: worse than frequencies. {_SUSPECT}", ours)
    if ours < pairs:
        return _check(PLAUSIBLE, checkpoint, "warning", f"{detail}: hardly better. {_SUSPECT}", ours)
    return _check(PLAUSIBLE, checkpoint, "passed", detail, ours)


def plausible_together(known: Mapping[Checkpoint, float]) -> dict[Checkpoint, Check]:
    """Hold checkpoints of a suite beside each other, by their mean log-likelihoods of a token in nats.

    None should be much worse than one that is no larger and was trained no longer: then it fails. The figure
    is by how much the best such one is ahead.
    """
    checks = {}
    for one in known:
        lesser = [
            other
            for other in known
            if other != one
            and other.sequences_seen <= one.sequences_seen
            and other.model.order <= one.model.order
        ]
        if not lesser:
            continue
        best = max(lesser, key=lambda other: known[other])
        lead = known[best] - known[one]
        detail = f"{known[one]:.2f} nats a token; {best}, no larger and trained no longer, {known[best]:.2f}"
        if lead > _MUCH_WORSE:
            checks[one] = _check(TOGETHER, one, "failed", f"{detail}. {_SUSPECT}", lead)
        else:
            checks[one] = _check(TOGETHER, one, "passed", detail, lead)
    return checks


def unigram_loglik(continuations: NDArray[np.uint32], others: NDArray[np.uint32], vocabulary: int) -> float:
    """Mean log-likelihood, in nats, of the tokens u32[n, m] under the frequencies of tokens in `others`."""
    return float(np.log(_frequencies(others, vocabulary)[continuations]).mean())


def bigram_loglik(
    tokens: NDArray[np.uint32], others: NDArray[np.uint32], few: NDArray[np.uint32], vocabulary: int
) -> float:
    """The same of the tokens u32[n, m + 1] but the first of each row, each given the one before it, under the
    frequencies of pairs in the windows `few`, smoothed by those of single tokens in `others`.
    """
    shares = _frequencies(others, vocabulary)
    before = few[:, :-1].ravel().astype(np.int64)
    pairs, counts = np.unique(before * vocabulary + few[:, 1:].ravel(), return_counts=True)
    begun = np.bincount(before, minlength=vocabulary)
    given, wanted = tokens[:, :-1].astype(np.int64), tokens[:, 1:]
    asked = given * vocabulary + wanted
    at = np.minimum(np.searchsorted(pairs, asked), len(pairs) - 1)
    found = np.where(pairs[at] == asked, counts[at], 0)
    return float(np.log((found + _SMOOTHING * shares[wanted]) / (begun[given] + _SMOOTHING)).mean())


def _frequencies(windows: NDArray[np.uint32], vocabulary: int) -> NDArray[np.float64]:
    counts = np.bincount(windows.ravel(), minlength=vocabulary)
    shares: NDArray[np.float64] = (1 - _UNIFORM_SHARE) * counts / windows.size + _UNIFORM_SHARE / vocabulary
    return shares


def _agreement(
    trial: Trial, forward: Callable[[NDArray[np.uint32]], Forward]
) -> tuple[agreement.Agreement, int]:
    """What was compared, and of how many windows; more of them until enough positions are decisive."""
    settings = trial.engine.settings
    tolerance = agreement.tolerance_of(settings.dtype, settings.device)
    done = 0
    found = agreement.Agreement(0, 0, 0, 0.0)
    number = _WINDOWS if settings.mode == "score" else 3 * _WINDOWS
    while found.decisive < agreement.ENOUGH and done < min(len(trial.windows), _MOST_WINDOWS):
        chosen = _spread(trial.windows, number)[0]
        truth = forward(chosen)
        if settings.mode == "score":
            context = chosen[:, : settings.context]
            begun = np.concatenate([context, trial.engine.generations(chosen)], axis=1)
            found = agreement.of_generations(forward(begun), tolerance)
        else:
            prefix = trial.engine.evaluate(chosen).matched_prefix
            found = agreement.of_prefixes(truth, prefix, tolerance)
        logliks = trial.engine.logliks(chosen)
        found = found.and_also(agreement.of_logliks(truth, logliks, tolerance))
        done, number = len(chosen), 4 * number
    return found, done


def _agreement_check(
    checkpoint: Checkpoint,
    settings: EngineSettings,
    found: agreement.Agreement,
    windows: int,
    seconds: float,
) -> Check:
    tolerance = agreement.tolerance_of(settings.dtype, settings.device)
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
