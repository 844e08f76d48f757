"""Carry out a plan: index the sequences, then score every missing part of every checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memoserve.engines import (
    CONTINUATION,
    EngineProcess,
    EngineSettings,
    LocalWeights,
    Matches,
    concatenate,
    fetch_weights,
)
from memoserve.errors import BadInput, EngineFailed, StoreConflict
from memoserve.run.plan import CheckpointPlan, Plan, Range
from memoserve.run.progress import Progress
from memoserve.run.windows import Distinct, KnownWindows, distinct, window_ids
from memoserve.sequences import Selection, SequenceSource, check_tokens
from memoserve.store import Store
from memoserve.suites import Checkpoint


@dataclass(frozen=True)
class Failure:
    """A checkpoint that could not be finished, and why."""

    checkpoint: Checkpoint
    reason: str


@dataclass
class Outcome:
    """What a run did."""

    sequences: int = 0
    windows: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)


@dataclass(frozen=True)
class Block:
    """One part's worth of input, read ahead of the engine."""

    span: Range
    ids: NDArray[np.int64]
    found: Distinct


def execute(
    plan: Plan,
    source: SequenceSource,
    store: Store,
    settings: EngineSettings,
    progress: Progress,
    verbose: bool = False,
) -> Outcome:
    """Do what `plan` says; the caller holds the store's lock and has claimed the suite.

    A checkpoint that fails is reported and the others go on. `verbose` shows what the engine prints.
    Raises BadInput for sequences that are too short or have token ids beyond the vocabulary, before any
    engine starts.
    """
    began = time.monotonic()
    outcome = Outcome()
    if plan.todo:
        _index(plan, source, store, settings, progress)
    for model, group in groupby(plan.todo, key=lambda item: item.checkpoint.model.name):
        _run_model(model, list(group), plan, source, store, settings, progress, outcome, verbose)
    outcome.seconds = time.monotonic() - began
    return outcome


def _index(
    plan: Plan, source: SequenceSource, store: Store, settings: EngineSettings, progress: Progress
) -> None:
    """Write the window id of every sequence, and with that read each one before an engine starts."""
    vocabulary = _vocabulary(plan, settings)
    for first, stop in plan.index:
        ids = plan.selection.ids(first, stop)
        windows = _read(source, plan.selection, ids, settings.context)
        if vocabulary is not None:
            check_tokens(windows, ids, vocabulary, source.description)
        store.write_sequences(plan.suite.name, first, stop, ids, window_ids(windows))
        progress.indexing(stop - first)
    store.index_repeats(plan.suite.name)


def _vocabulary(plan: Plan, settings: EngineSettings) -> int | None:
    """The vocabulary of the first checkpoint whose weights can be had."""
    for item in plan.todo:
        try:
            return fetch_weights(item.checkpoint, settings.allow_pickle).vocabulary_size
        except EngineFailed:
            continue  # reported when its turn comes
    return None


def _read(
    source: SequenceSource, selection: Selection, ids: NDArray[np.int64], context: int
) -> NDArray[np.uint32]:
    length = context + CONTINUATION
    if selection.fraction == 1.0 and len(ids):
        return source.read(int(ids[0]), int(ids[-1]) + 1, length)
    return source.take(ids, length)


def _run_model(
    model: str,
    items: list[CheckpointPlan],
    plan: Plan,
    source: SequenceSource,
    store: Store,
    settings: EngineSettings,
    progress: Progress,
    outcome: Outcome,
    verbose: bool,
) -> None:
    """All checkpoints of one model share an engine, whose weights are replaced in place."""
    engine: EngineProcess | None = None
    log_file = store.logs / f"{plan.suite.name}-{model}.log"
    try:
        for item in items:
            try:
                weights = fetch_weights(item.checkpoint, settings.allow_pickle)
                _check_fit(item.checkpoint, weights, settings)
                _check_same_weights(item.checkpoint, weights, store)
                engine = _engine_with(engine, weights.folder, settings, log_file, progress, model, verbose)
                _score(item, weights, engine, plan, source, store, settings, progress, outcome)
            except (EngineFailed, BadInput, StoreConflict) as error:
                outcome.failures.append(Failure(item.checkpoint, str(error)))
                progress.failed(item, str(error))
                if isinstance(error, EngineFailed) and engine is not None:
                    engine.close()
                    engine = None
    finally:
        if engine is not None:
            engine.close()


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


def _check_same_weights(checkpoint: Checkpoint, weights: LocalWeights, store: Store) -> None:
    """A checkpoint that is half done goes on only with the weights it began with."""
    stored = store.weights_of(checkpoint)
    if stored is not None and stored != weights.identity:
        directory = store.scores_dir(checkpoint.suite, checkpoint.model.name, checkpoint.step)
        raise StoreConflict(
            f"{checkpoint}: the store has parts made with weights {stored}, these are {weights.identity}: "
            f"use another store, or delete {directory}"
        )


def _engine_with(
    engine: EngineProcess | None,
    folder: Path,
    settings: EngineSettings,
    log_file: Path,
    progress: Progress,
    model: str,
    verbose: bool,
) -> EngineProcess:
    if engine is not None:
        try:
            engine.load(folder)
            return engine
        except EngineFailed:
            engine.close()  # replaced by a fresh one: slower, and always right
    progress.starting(model)
    began = time.monotonic()
    fresh = EngineProcess(settings, folder, log_file, verbose)
    try:
        fresh.wait_until_up()
    except BaseException:
        fresh.close()
        raise
    progress.started(model, time.monotonic() - began)
    return fresh


def _score(
    item: CheckpointPlan,
    weights: LocalWeights,
    engine: EngineProcess,
    plan: Plan,
    source: SequenceSource,
    store: Store,
    settings: EngineSettings,
    progress: Progress,
    outcome: Outcome,
) -> None:
    """Score the missing parts of one checkpoint; reading ahead and writing overlap with the engine."""
    progress.checkpoint(item)
    began = time.monotonic()
    known = _remembered(item.checkpoint, plan, source, store, settings)
    memorized = evaluated = 0
    writing: Future[None] | None = None
    with ThreadPoolExecutor(1, "writer") as writer:
        for block in _read_ahead(item, plan, source, settings):
            rows = known.unknown(block.found.windows)
            fresh = _evaluate(engine, block.found.windows[rows], settings, progress, item, len(block.ids))
            if len(block.ids):
                matches = known.merge(block.found.windows, rows, fresh).take(block.found.row_of)
            else:
                matches = Matches(np.empty(0, np.uint8))  # the sample took none of this part
            if fresh is not None:
                known.add(block.found.windows[rows], fresh)
            if writing is not None:
                writing.result()
            writing = writer.submit(
                _write, item, block, matches, len(rows), weights.identity, store, progress
            )
            memorized += int((matches.matched_prefix == CONTINUATION).sum())
            evaluated += len(rows)
            outcome.sequences += len(block.ids)
            outcome.windows += len(rows)
        if writing is not None:
            writing.result()
    progress.finished(item, memorized, evaluated, time.monotonic() - began)


def _write(
    item: CheckpointPlan,
    block: Block,
    matches: Matches,
    windows: int,
    weights: str,
    store: Store,
    progress: Progress,
) -> None:
    store.write_scores(item.checkpoint, *block.span, block.ids, matches, weights)
    progress.part(item, block.span, len(block.ids), windows)


def _remembered(
    checkpoint: Checkpoint, plan: Plan, source: SequenceSource, store: Store, settings: EngineSettings
) -> KnownWindows:
    """What an earlier, interrupted run found out about this checkpoint."""
    known = KnownWindows()
    for part in store.parts(checkpoint.suite, checkpoint.model.name, checkpoint.step):
        if known.full:
            break
        scores = store.read_scores(
            checkpoint.suite, checkpoint.model.name, checkpoint.step, part.first, part.stop
        )
        if not len(scores.sequence_id) or scores.matched_prefix is None:
            continue
        windows = source.take(scores.sequence_id, settings.context + CONTINUATION)
        known.add(windows, Matches(scores.matched_prefix, scores.match_mask, scores.continuation_ll))
    return known


def _read_ahead(
    item: CheckpointPlan, plan: Plan, source: SequenceSource, settings: EngineSettings
) -> Iterator[Block]:
    """The blocks of the missing parts in order; the next one is read while the last one is scored."""

    def read(span: Range) -> Block:
        ids = plan.selection.ids(*span)
        return Block(span, ids, distinct(_read(source, plan.selection, ids, settings.context)))

    with ThreadPoolExecutor(1, "reader") as reader:
        upcoming: Future[Block] | None = None
        for span in [*item.missing, None]:
            current = upcoming
            upcoming = None if span is None else reader.submit(read, span)
            if current is not None:
                yield current.result()


def _evaluate(
    engine: EngineProcess,
    windows: NDArray[np.uint32],
    settings: EngineSettings,
    progress: Progress,
    item: CheckpointPlan,
    sequences: int,
) -> Matches | None:
    """Evaluate u32[n, m] windows in blocks, reporting `sequences` in proportion. None for no windows."""
    blocks = []
    reported = 0
    for start in range(0, len(windows), settings.block):
        blocks.append(engine.evaluate(windows[start : start + settings.block]))
        share = sequences * min(start + settings.block, len(windows)) // len(windows)
        progress.advanced(item, share - reported, len(blocks[-1]))
        reported = share
    progress.advanced(item, sequences - reported, 0)
    return concatenate(blocks) if blocks else None
