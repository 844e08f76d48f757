"""Carry out a plan: index the sequences, then have lanes make every missing part of every checkpoint."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Protocol

import numpy as np

from memoserve.checks import Check, failures
from memoserve.domain import CONTINUATION, Checkpoint
from memoserve.engines import EngineSettings, fetch_weights
from memoserve.errors import (
    BadInput,
    EngineFailed,
    EngineNotStarted,
    EngineStorageFailed,
    MemoserveError,
    StorageFailed,
    StoreConflict,
)
from memoserve.run import proof
from memoserve.run.cluster import Cluster, Work
from memoserve.run.lane import AT_ONCE, Done, Fetch, Lane, Reports, read
from memoserve.run.local import LocalLane
from memoserve.run.plan import CheckpointPlan, Plan, Range
from memoserve.run.progress import Progress
from memoserve.run.schedule import Assignment, Schedule
from memoserve.run.windows import window_ids
from memoserve.sequences import SequenceSource, check_sequences, check_tokens
from memoserve.store import Store

_LISTEN = 0.5
"""Seconds between two looks at what a cluster's workers report."""

_LOSSES = 3
"""Workers that may be lost with one part before its checkpoint counts as failed."""


@dataclass(frozen=True)
class Failure:
    """A checkpoint that could not be finished, and why."""

    checkpoint: Checkpoint
    reason: str


Refused = Mapping[Checkpoint, str]
"""Checkpoints that can't be evaluated, each with the reason."""


@dataclass
class Outcome:
    """What a run did."""

    sequences: int = 0
    windows: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)


class LaneHandle(Protocol):
    """The driver's end of a lane: in a thread here, or on another machine."""

    name: str

    def submit(self, checkpoint: Checkpoint, span: Range) -> Future[Done]:
        """Start making a part; the future raises what Lane.score raises."""

    def close(self, at_once: bool = False) -> None:
        """End it."""


def execute(
    plan: Plan,
    source: SequenceSource,
    store: Store,
    settings: EngineSettings,
    progress: Progress,
    devices: Sequence[str] = ("",),
    verbose: bool = False,
    refused: Refused | None = None,
) -> Outcome:
    """Do what `plan` says with one engine on each of `devices` (see EngineProcess).

    The caller holds the store's lock and has claimed the suite. A checkpoint that fails is reported and the
    others go on; those `refused` fail at once. `verbose` shows what the engines print. Raises BadInput for
    sequences that are too short or have token ids beyond the vocabulary, before any engine starts.
    """
    fetch = cache(partial(fetch_weights, allow_pickle=settings.allow_pickle))

    def drive(run: Run) -> None:
        run.drive(
            [
                LocalLane(
                    Lane(
                        source,
                        plan.selection,
                        store,
                        plan.suite,
                        settings,
                        run,
                        name,
                        device,
                        verbose,
                        fetch,
                    )
                )
                for name, device in zip(_names(devices), devices, strict=True)
            ]
        )

    return _carry_out(plan, source, store, settings, progress, fetch, drive, refused)


def execute_on(
    cluster: Cluster,
    work: Work,
    plan: Plan,
    source: SequenceSource,
    store: Store,
    progress: Progress,
    refused: Refused | None = None,
) -> Outcome:
    """The same on a Ray cluster. Raises EngineFailed too, if no node of it can work."""

    def drive(run: Run) -> None:
        cluster.start(work)
        run.drive(cluster.lanes, cluster)

    fetch = cache(partial(cluster.fetch, allow_pickle=work.settings.allow_pickle))
    return _carry_out(plan, source, store, work.settings, progress, fetch, drive, refused)


def _carry_out(
    plan: Plan,
    source: SequenceSource,
    store: Store,
    settings: EngineSettings,
    progress: Progress,
    fetch: Fetch,
    drive: Callable[[Run], None],
    refused: Refused | None,
) -> Outcome:
    began = time.monotonic()
    index(plan, source, store, settings, progress, fetch)
    run = Run(plan, store, progress)
    run.refuse(refused or {})
    if run.has_work:  # else no engine has anything to do
        drive(run)
    if plan.todo:
        run.outcome.seconds = time.monotonic() - began
    return run.outcome


def make_lists(plan: Plan, store: Store) -> None:
    """Make the lists beside parts that are whole, should a run have ended before it came to that, or one have
    been damaged.
    """
    if not plan.index:
        store.index_repeats(plan.suite.name)
    for item in plan.checkpoints:
        if not item.missing:
            checkpoint = item.checkpoint
            store.list_memorized(checkpoint.suite, checkpoint.model.name, checkpoint.step)


def doubtful(plan: Plan, store: Store) -> tuple[Check, ...]:
    """Which of a plan's checkpoints have scores in doubt: held against token frequencies, and beside each
    other, which is done here with all figures that the store has. Raises BadInput for damaged checks.
    """
    suite = plan.suite.name
    found = {
        (check.name, check.model, check.step): check
        for check, _ in store.read_checks(suite)
        if check.name in proof.IMPLAUSIBLE
    }
    figures = {
        item: check.figure
        for item in plan.suite.all_checkpoints()
        if (check := found.get((proof.PLAUSIBLE, item.model.name, item.step))) and check.figure is not None
    }
    wanted = {item.checkpoint for item in plan.checkpoints}
    together = [
        check
        for item, check in proof.plausible_together(figures).items()
        if item in wanted and found.get((check.name, check.model, check.step)) != check
    ]
    store.write_checks(suite, together)
    found |= {(check.name, check.model, check.step): check for check in together}
    chosen = {(item.model.name, item.step) for item in wanted}
    return tuple(check for check in failures(found.values()) if (check.model, check.step) in chosen)


def _names(devices: Sequence[str]) -> list[str]:
    """A single engine needs no name."""
    return [""] if len(devices) == 1 else [f"device {device}" for device in devices]


def index(
    plan: Plan,
    source: SequenceSource,
    store: Store,
    settings: EngineSettings,
    progress: Progress,
    fetch: Fetch,
) -> None:
    """Write the window id of every sequence, and with that read each one before an engine starts."""
    vocabulary = _vocabulary(plan, fetch) if plan.index else None
    length = settings.context + CONTINUATION
    if vocabulary is not None and any(item.checkpoint.weights.hub for item in plan.todo):
        _check_vocabulary(source, vocabulary, length)  # of models that are here this was done before
    selected = kept = 0
    for first, stop in plan.index:
        ids = plan.selection.ids_in(source, first, stop, length)
        selected, kept = selected + len(plan.selection.ids(first, stop)), kept + len(ids)
        windows = read(source, ids, length)
        if vocabulary is not None:
            check_tokens(windows, ids, vocabulary, source.description)
        store.write_sequences(plan.suite.name, first, stop, ids, window_ids(windows))
        progress.indexing(stop - first)
    store.index_repeats(plan.suite.name)
    if kept < selected:
        span = f"sequences {plan.index[0][0]}:{plan.index[-1][1]}"
        detail = f"{selected - kept:,} of {selected:,} have fewer than {length} tokens, and are left out"
        short = Check("short sequences", span, "warning", detail, float(selected - kept))
        store.write_checks(plan.suite.name, (short,))
        progress.checked(short)


def _check_vocabulary(source: SequenceSource, vocabulary: int, length: int) -> None:
    """Raise BadInput if the data's token type, or the ids in it, don't fit the vocabulary."""
    checks = check_sequences(
        source,
        trained=None,
        control=None,
        sequence_length=None,
        vocabulary_size=vocabulary,
        length=length,
        skip_short=True,
    )
    if wrong := failures(checks):
        raise BadInput("\n".join(f"{check.name}: {check.detail}" for check in wrong))


def _vocabulary(plan: Plan, fetch: Fetch) -> int | None:
    """The vocabulary of the first checkpoint whose weights can be had."""
    for item in plan.todo:
        try:
            return fetch(item.checkpoint).vocabulary_size
        except EngineFailed:
            continue  # reported when its turn comes
    return None


@dataclass
class _Tally:
    """What has been found out about a checkpoint in this run; `scored`: of each part under way, the most
    sequences and windows that a lane had, so that what is done twice counts once.
    """

    began: float
    memorized: int = 0
    windows: int = 0
    scored: dict[Range, tuple[int, int]] = field(default_factory=dict)
    whole: bool = False


class Run(Reports):
    """Hands parts to lanes until none is left, and keeps count. Lanes report to it from their threads."""

    def __init__(self, plan: Plan, store: Store, progress: Progress) -> None:
        self.outcome = Outcome()
        self._store = store
        self._losses: Counter[Assignment] = Counter()
        self._refusals: dict[CheckpointPlan, EngineNotStarted] = {}
        self._schedule = Schedule(plan.todo)
        self._plans = {item.checkpoint: item for item in plan.todo}
        self._progress = progress
        self._tallies: dict[Checkpoint, _Tally] = {}
        self._failed: set[Checkpoint] = set()
        self._reporting = threading.Lock()

    @property
    def has_work(self) -> bool:
        """Whether a part is left to make."""
        return not self._schedule.empty

    def refuse(self, reasons: Refused) -> None:
        """Let checkpoints fail before an engine starts."""
        for checkpoint, reason in reasons.items():
            if checkpoint in self._plans:
                self._fail(self._plans[checkpoint], reason)

    def drive(self, lanes: Sequence[LaneHandle], cluster: Cluster | None = None) -> None:
        """Until every part is made or its checkpoint has failed. Closes the lanes, however it ends.

        On a cluster lanes come and go meanwhile; what a lost one had in hand is handed out again.
        """
        flying: dict[Future[Done], tuple[LaneHandle, Assignment]] = {}
        lost = cluster.lost if cluster is not None else ()
        try:
            while True:
                self._hand_out(lanes, flying)
                if not flying and not self._schedule.empty and lanes:
                    self._relent(lanes, flying, cluster is not None and cluster.expecting)
                if not flying and (self._schedule.empty or cluster is None):
                    break
                finished = wait(flying, None if cluster is None else _LISTEN, FIRST_COMPLETED).done
                if cluster is not None:
                    cluster.refresh(self)
                    if not flying:
                        time.sleep(_LISTEN)  # no node is left: wait for one
                for future in finished:
                    lane, (item, span) = flying.pop(future)
                    try:
                        self._collect(future, item, span)
                    except EngineNotStarted as error:
                        coming = cluster is not None and cluster.expecting
                        self._refuse(lane, lanes, coming, item, span, error)
                    except lost:
                        assert cluster is not None
                        self._schedule.leave(lane.name)
                        cluster.drop(lane.name)
                        self._give_back(item, span, lane.name)
        except BaseException:
            for lane in lanes:
                lane.close(at_once=True)
            raise
        for lane in lanes:
            lane.close()

    def _hand_out(
        self, lanes: Sequence[LaneHandle], flying: dict[Future[Done], tuple[LaneHandle, Assignment]]
    ) -> None:
        """Every lane gets a first part before any gets a second one."""
        busy = Counter(lane.name for lane, _ in flying.values())
        for depth in range(AT_ONCE):
            for lane in lanes:
                if busy[lane.name] == depth and (assignment := self._schedule.next(lane.name)):
                    item, span = assignment
                    flying[lane.submit(item.checkpoint, span)] = lane, assignment
                    busy[lane.name] += 1

    def _collect(self, future: Future[Done], item: CheckpointPlan, span: Range) -> None:
        try:
            done = _result(future)
        except EngineNotStarted:
            raise
        except (EngineFailed, BadInput, StoreConflict) as error:
            self._fail(item, str(error))
        else:
            self._count(item, span, done)

    def _count(self, item: CheckpointPlan, span: Range, done: Done) -> None:
        self.begun(item.checkpoint)
        self.advanced(item.checkpoint, span, done.sequences, done.windows)
        with self._reporting:
            tally = self._tallies[item.checkpoint]
            tally.memorized += done.memorized
            tally.windows += done.windows
            self.outcome.sequences += done.sequences
            self.outcome.windows += done.windows
            self._progress.part(item, span, done.sequences, done.windows)
            whole = self._schedule.done(item) and item.checkpoint not in self._failed
            if whole:
                tally.whole = True
                tally.scored.clear()
        if whole:
            checkpoint = item.checkpoint
            # Many parts are read for it: lanes may report meanwhile.
            self._store.list_memorized(checkpoint.suite, checkpoint.model.name, checkpoint.step)
            with self._reporting:
                seconds = time.monotonic() - tally.began
                self._progress.finished(item, tally.memorized, tally.windows, seconds)

    def _refuse(
        self,
        lane: LaneHandle,
        lanes: Sequence[LaneHandle],
        coming: bool,
        item: CheckpointPlan,
        span: Range,
        error: EngineNotStarted,
    ) -> None:
        """A lane can't have an engine for a checkpoint: others make its parts, if any of them can."""
        known = self._schedule.refused(lane.name, item)
        self._refusals[item] = error
        self._schedule.refuse(lane.name, item)
        if coming or any(not self._schedule.refused(other.name, item) for other in lanes):
            self._schedule.give_back(item, span)
            if not known and item.checkpoint not in self._failed:
                with self._reporting:
                    self._progress.not_started(item.checkpoint.model.name, lane.name, str(error))
        else:
            self._schedule.relent(item)
            self._give_up(item)

    def _relent(
        self,
        lanes: Sequence[LaneHandle],
        flying: dict[Future[Done], tuple[LaneHandle, Assignment]],
        coming: bool,
    ) -> None:
        """Something is left, and no lane wants it: each may try what it did not try yet; what all tried
        fails, if no other lane is coming.
        """
        self._schedule.relent()
        self._hand_out(lanes, flying)
        if not flying and not coming:
            for item in self._schedule.left:
                self._give_up(item)

    def _give_up(self, item: CheckpointPlan) -> None:
        """No lane has an engine for a checkpoint. Raises StorageFailed if they have no disk for one."""
        error = self._refusals[item]
        if isinstance(error, EngineStorageFailed):
            raise StorageFailed(str(error)) from error
        self._fail(item, str(error))

    def _give_back(self, item: CheckpointPlan, span: Range, lane: str) -> None:
        """What a lost lane had in hand goes to another, unless it was the part that broke the lane."""
        checkpoint = item.checkpoint
        where = checkpoint.suite, checkpoint.model.name, checkpoint.step
        if not self._store.missing(*where, [span], span[1]):  # it was written just before
            scores = self._store.read_scores(*where, *span)
            assert scores.matched_prefix is not None
            memorized = int(np.count_nonzero(scores.matched_prefix == CONTINUATION))
            self._count(item, span, Done(len(scores.sequence_id), 0, memorized))
            return
        self._losses[item, span] += 1
        if self._losses[item, span] < _LOSSES:
            self._schedule.give_back(item, span)
        else:
            self._fail(
                item, f"{_LOSSES} workers were lost with sequences {span[0]}:{span[1]}, {lane} the last"
            )

    def _fail(self, item: CheckpointPlan, reason: str) -> None:
        self._schedule.drop(item)
        if item.checkpoint not in self._failed:
            self._failed.add(item.checkpoint)
            self.outcome.failures.append(Failure(item.checkpoint, reason))
            with self._reporting:
                self._progress.failed(item, reason)

    # Reports

    def starting(self, model: str, lane: str) -> None:
        """See Reports."""
        with self._reporting:
            self._progress.starting(model, lane)

    def started(self, model: str, lane: str, seconds: float) -> None:
        """See Reports."""
        with self._reporting:
            self._progress.started(model, lane, seconds)

    def begun(self, checkpoint: Checkpoint) -> None:
        """See Reports."""
        with self._reporting:
            if checkpoint not in self._tallies:
                self._tallies[checkpoint] = _Tally(time.monotonic())
                self._progress.checkpoint(self._plans[checkpoint])

    def advanced(self, checkpoint: Checkpoint, span: Range, sequences: int, windows: int) -> None:
        """See Reports. What a lost lane had scored of a part is not counted again when another makes it, nor
        what is told after the part is done.
        """
        with self._reporting:
            tally = self._tallies[checkpoint]
            before = tally.scored.get(span, (0, 0))
            now = max(before[0], sequences), max(before[1], windows)
            if now != before and not tally.whole:
                tally.scored[span] = now
                self._progress.advanced(self._plans[checkpoint], now[0] - before[0], now[1] - before[1])

    def checked(self, suite: str, checks: tuple[Check, ...]) -> None:
        """See Reports. Kept in the store."""
        self._store.write_checks(suite, checks)
        with self._reporting:
            for check in checks:
                self._progress.checked(check)

    def notice(self, text: str) -> None:
        """See Reports."""
        with self._reporting:
            self._progress.notice(text)


def _result(future: Future[Done]) -> Done:
    """What a part turned out to be. Raises what its lane raised: Ray wraps that, with a traceback as text."""
    try:
        return future.result()
    except Exception as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, MemoserveError) else error) from None
