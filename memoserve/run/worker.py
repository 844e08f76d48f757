"""A worker: one engine, kept across checkpoints, and the parts it makes.

Several calls of `score` are under way at once. Reading one part, evaluating the one before and writing the
one before that overlap; the engine is given to them in the order of their numbers. So the weights of the next
checkpoint are fetched while the current one is evaluated.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memoserve.checks import failures
from memoserve.domain import CONTINUATION, Checkpoint, Matches
from memoserve.engines import EngineProcess, EngineSettings, LocalWeights, concatenate, fetch_weights
from memoserve.errors import BadInput, EngineFailed, EngineStartFailed, StorageFailed, StoreConflict
from memoserve.run.checks import proof
from memoserve.run.checks.described_weights import Use
from memoserve.run.checks.inputs import other_weights
from memoserve.run.checks.weights import check_fetched
from memoserve.run.events import (
    ChecksMade,
    EngineStarting,
    EngineUp,
    Notice,
    OnWorkerEvent,
    PartAdvanced,
    WeightsLoaded,
)
from memoserve.run.plan import Range
from memoserve.run.windows import KnownWindows, distinct
from memoserve.sequences import Selection, SequenceSource
from memoserve.store import Store
from memoserve.suites import Suite

Fetch = Callable[[Checkpoint], LocalWeights]

AT_ONCE = 2
"""Parts that a worker has in hand: one is evaluated, the other is read before and written after."""


_ENOUGH_WINDOWS = 128
"""Distinct windows of a part on which an engine and a checkpoint can be judged."""


@dataclass(frozen=True)
class Done:
    """What a part turned out to be: its sequences, the distinct windows evaluated for it, how many of the
    sequences are memorized.
    """

    sequences: int
    windows: int
    memorized: int


@dataclass(frozen=True)
class WorkerSetup:
    """What all workers of a run have in common. `fetch`: how weights come."""

    source: SequenceSource
    selection: Selection
    store: Store
    suite: Suite
    settings: EngineSettings
    fetch: Fetch


@dataclass(frozen=True)
class _Input:
    """A part, read: what an engine is to have, and by what it is judged.

    windows: distinct ones, u32[d, context + 32]; seen: the rows of those that the checkpoint was trained on,
    i64[s].
    """

    checkpoint: Checkpoint
    weights: LocalWeights
    windows: NDArray[np.uint32]
    seen: NDArray[np.int64]


class Worker:
    """One engine on one device (see EngineProcess). `verbose`: show what the engine prints."""

    def __init__(
        self,
        setup: WorkerSetup,
        on_event: OnWorkerEvent,
        name: str = "",
        device: str = "",
        verbose: bool = False,
    ) -> None:
        self.name = name
        self._suite = setup.suite
        self._source = setup.source
        self._selection = setup.selection
        self._store = setup.store
        self._settings = setup.settings
        self._fetch = setup.fetch
        self._on_event = on_event
        self._device = device
        self._verbose = verbose
        self._fetching = threading.Lock()
        self._fetched: dict[Checkpoint, LocalWeights] = {}
        self._turns = threading.Condition()
        self._turn = 0
        self._engine: EngineProcess | None = None
        self._model = ""
        self._switches = 0
        self._noticed: set[str] = set()
        self._second = proof.SecondWay(
            setup.settings, self._log_file(setup.suite.name, "transformers"), device
        )
        self._loaded: Checkpoint | None = None
        self._known = KnownWindows()
        self._failed: dict[Checkpoint, EngineFailed] = {}
        self._closed = False

    def score(self, number: int, checkpoint: Checkpoint, span: Range) -> Done:
        """Make one part. Calls are numbered from 0; every number must come.

        Raises EngineStartFailed if this worker can't have an engine for the checkpoint (EngineStorageFailed,
        if no disk for it), EngineFailed, BadInput or StoreConflict if the checkpoint can't be gone on with,
        StorageFailed if the store can't.
        """
        with self._engine_for(number) as wait:
            weights = self._weights(checkpoint)
            length = self._settings.context + CONTINUATION
            ids = self._selection.ids_in(self._source, *span, length)
            found = distinct(read(self._source, ids, length))
            wait()
            if not len(ids):  # a sparse sample has none here
                self._on_event(WeightsLoaded(checkpoint))
                self._store.write_scores(
                    checkpoint, *span, ids, Matches(np.empty(0, np.uint8)), weights.identity
                )
                return Done(0, 0, 0)
            try:
                seen = np.unique(found.row_of[ids < checkpoint.sequences_seen])
                engine = self._with(_Input(checkpoint, weights, found.windows, seen))
                self._on_event(WeightsLoaded(checkpoint))
                slots, rows = self._known.ask(found.windows)
                fresh = self._evaluate(engine, found.windows[rows], checkpoint, span, len(ids))
            except EngineFailed as error:
                self._failed[checkpoint] = error
                self._close_engine()
                raise
            if fresh is not None:
                self._known.tell(slots[rows], fresh)
            matches = self._known.of(slots)
        matches = matches.take(found.row_of)
        self._store.write_scores(checkpoint, *span, ids, matches, weights.identity)
        return Done(len(ids), len(rows), int((matches.matched_prefix == CONTINUATION).sum()))

    def close(self, at_once: bool = False) -> None:
        """End the engine; what is being written is still written. `at_once` ends it in mid-evaluation."""
        self._closed = True
        if at_once:
            self._second.kill()
        if at_once and self._engine is not None:
            self._engine.kill()
        with self._turns:
            self._turns.notify_all()
        if not at_once:
            self._close_engine()

    @contextmanager
    def _engine_for(self, number: int) -> Iterator[Callable[[], None]]:
        """Yields a function that waits for this call's turn; the turn ends with the context."""

        def wait() -> None:
            with self._turns:
                self._turns.wait_for(lambda: self._turn == number or self._closed)
            if self._closed:
                raise EngineFailed("the run is ending")

        try:
            yield wait
        finally:
            with suppress(EngineFailed):
                wait()
            with self._turns:
                self._turn += 1
                self._turns.notify_all()

    def _weights(self, checkpoint: Checkpoint) -> LocalWeights:
        with self._fetching:
            if checkpoint not in self._fetched:
                weights = self._fetch(checkpoint)
                if checkpoint.weights.folder is None:
                    self._check_fetched(checkpoint, weights)
                _check_fit(checkpoint, weights, self._settings)
                if changed := other_weights(checkpoint, weights.identity, self._store):
                    raise StoreConflict(changed)
                self._fetched[checkpoint] = weights
            return self._fetched[checkpoint]

    def _check_fetched(self, checkpoint: Checkpoint, weights: LocalWeights) -> None:
        """What of weights on the hub can be checked once they are here. Raises EngineFailed."""
        settings = self._settings
        use = Use(settings.engine, settings.device, settings.context)
        report = check_fetched(self._suite, checkpoint, weights, use=use, allow_pickle=settings.allow_pickle)
        self._on_event(ChecksMade(checkpoint.suite, tuple(report.checks)))
        if wrong := [*report.refused.values(), *report.stops]:
            raise EngineFailed(wrong[0])

    def _with(self, part: _Input) -> EngineProcess:
        """The engine with a part's weights, held against the second way by some of its windows: weights are
        replaced in place for the same model, else an engine is started anew.
        """
        checkpoint = part.checkpoint
        if checkpoint in self._failed:
            before = self._failed[checkpoint]
            raise type(before)(str(before))
        if checkpoint != self._loaded or self._engine is None:
            self._loaded = None
            self._known = self._known_from_store(checkpoint)
            if not self._replaced(part):
                self._switches = 0
                self._start(checkpoint, part.weights.folder)
                self._prove(part)
            self._check_unchanged(checkpoint, part.weights)
            self._model = checkpoint.model.name
            self._loaded = checkpoint
        assert self._engine is not None
        return self._engine

    def _check_unchanged(self, checkpoint: Checkpoint, weights: LocalWeights) -> None:
        """Raise EngineFailed if a folder's files are no longer those that were identified, long before an
        engine read them: scores would be kept as those of other weights.
        """
        if checkpoint.weights.folder is None:  # a snapshot of a commit, which nobody writes to
            return
        now = fetch_weights(checkpoint, self._settings.allow_pickle).identity
        if now != weights.identity:
            raise EngineFailed(
                f"{checkpoint}: {checkpoint.weights.folder} changed during the run: it held weights"
                f" {weights.identity}, and now {now}; run again once it changes no more"
            )

    def _replaced(self, part: _Input) -> bool:
        """Whether the running engine has these weights now; a fresh one is slower, and always right."""
        if self._engine is None or part.checkpoint.model.name != self._model:
            return False
        if refusal := self._engine.reload_refusal:
            self._notice(f"{self._model}: an engine is started anew for every checkpoint: {refusal}")
            return False
        try:
            self._switches += 1
            if self._takes_second_way:
                self._second.begin(part.weights.folder)
            self._engine.load(part.weights.folder)
            self._prove(part)
        except EngineFailed as error:
            self._notice(f"{part.checkpoint}: an engine is started anew: {str(error).splitlines()[0]}")
            return False
        return True

    @property
    def _takes_second_way(self) -> bool:
        return self._switches <= 1 or self._settings.verify == "every"

    def _notice(self, text: str) -> None:
        """Tell something once."""
        if text not in self._noticed:
            self._noticed.add(text)
            self._on_event(Notice(text))

    def _prove(self, part: _Input) -> None:
        """Raise EngineFailed if what the engine computes is not what the second way does."""
        assert self._engine is not None
        checkpoint = part.checkpoint
        trial = proof.Trial(self._engine, checkpoint, part.weights, self._with_others(part), self._suite)
        model, step = checkpoint.model.name, checkpoint.step
        checks = [
            replace(check, subject=str(checkpoint), model=model, step=step) for check in self._engine.proved()
        ]
        if self._takes_second_way:
            checks.append(proof.agrees(trial, self._second))
        if not failures(checks):
            checks.append(proof.plausible(trial))
        self._on_event(ChecksMade(checkpoint.suite, tuple(checks)))
        for check in failures(checks):
            if check.name == proof.AGREES:
                raise EngineFailed(check.detail)

    def _with_others(self, part: _Input) -> NDArray[np.uint32]:
        """The windows that a checkpoint has seen, and where they are few others that it was trained on.

        Of what it has not seen it knows less, and a run may be about that alone.
        """
        checkpoint, windows = part.checkpoint, part.windows
        trained = windows[part.seen]
        if len(trained) >= _ENOUGH_WINDOWS:
            return trained
        # Neighbours in training order are as unlike as any, and one request where the data are far away.
        last = min(checkpoint.sequences_seen or self._source.count, self._source.count)
        first = max(0, (last - _ENOUGH_WINDOWS) // 2)
        ids = np.arange(first, min(first + _ENOUGH_WINDOWS, last), dtype=np.int64)
        try:
            others = self._source.take(ids, windows.shape[1])
        except (BadInput, StorageFailed):  # then these have to do
            return trained if len(trained) else windows
        return distinct(np.concatenate([trained, others])).windows

    def _start(self, checkpoint: Checkpoint, folder: Path) -> None:
        model = checkpoint.model.name
        self._close_engine()
        self._on_event(EngineStarting(model, self.name))
        began = time.monotonic()
        try:
            self._engine = EngineProcess(
                self._settings,
                folder,
                self._log_file(checkpoint.suite, model),
                self._verbose,
                self._device,
            )
            self._second.begin(folder)
            self._engine.wait_until_up()
        except EngineStartFailed:
            raise
        except EngineFailed as error:
            raise EngineStartFailed(str(error)) from error
        self._on_event(EngineUp(model, self.name, time.monotonic() - began))

    def _log_file(self, *about: str) -> Path:
        names = (*about, re.sub(r"[^A-Za-z0-9.]+", "-", self.name))
        return self._store.logs / f"{'-'.join(filter(None, names))}.log"

    def _close_engine(self) -> None:
        self._second.close()
        if self._engine is not None:
            self._engine.close()
        self._engine, self._loaded = None, None

    def _known_from_store(self, checkpoint: Checkpoint) -> KnownWindows:
        """What an earlier, interrupted run found out about this checkpoint."""
        known = KnownWindows()
        where = checkpoint.suite, checkpoint.model.name, checkpoint.step
        for part in self._store.parts(*where):
            if known.full:
                break
            scores = self._store.read_scores(*where, part.first, part.stop)
            if not len(scores.sequence_id) or scores.matched_prefix is None:
                continue
            found = distinct(self._source.take(scores.sequence_id, self._settings.context + CONTINUATION))
            first = np.unique(found.row_of, return_index=True)[1]
            matches = scores.as_matches().take(first)
            slots, rows = known.ask(found.windows)
            known.tell(slots[rows], matches.take(rows))
        return known

    def _evaluate(
        self,
        engine: EngineProcess,
        windows: NDArray[np.uint32],
        checkpoint: Checkpoint,
        span: Range,
        sequences: int,
    ) -> Matches | None:
        """Evaluate u32[n, m] windows in blocks, reporting `sequences` in proportion. None for no windows."""
        blocks = []
        size = self._settings.block
        for start in range(0, len(windows), size):
            blocks.append(engine.evaluate(windows[start : start + size]))
            done = min(start + size, len(windows))
            self._on_event(PartAdvanced(checkpoint, span, sequences * done // len(windows), done))
        self._on_event(PartAdvanced(checkpoint, span, sequences, len(windows)))
        return concatenate(blocks) if blocks else None


def read(source: SequenceSource, ids: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
    """The windows u32[n, length] of ascending ids i64[n]."""
    if len(ids) and ids[-1] - ids[0] == len(ids) - 1:
        return source.read(int(ids[0]), int(ids[-1]) + 1, length)
    return source.take(ids, length)


def _check_fit(checkpoint: Checkpoint, weights: LocalWeights, settings: EngineSettings) -> None:
    needed = settings.context + CONTINUATION
    if weights.positions < needed:
        raise BadInput(
            f"{checkpoint} takes {weights.positions} tokens at most; a context of {settings.context} tokens"
            f" and its continuation are {needed}: use a shorter --context"
        )
    if settings.banned_token_id is not None and settings.banned_token_id >= weights.vocabulary_size:
        raise BadInput(
            f"{checkpoint} has {weights.vocabulary_size} token ids, and the suite's eos_token_id is "
            f"{settings.banned_token_id}: correct the suite file"
        )
