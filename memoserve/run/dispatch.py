"""Who makes which part: hands parts to workers, counts what they did, and tells where the run is."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from memoserve.domain import CONTINUATION, Checkpoint
from memoserve.errors import (
    BadInput,
    EngineFailed,
    EngineStartFailed,
    EngineStorageFailed,
    MemoserveError,
    StorageFailed,
    StoreConflict,
)
from memoserve.run import events
from memoserve.run.cluster import Cluster
from memoserve.run.events import (
    Checked,
    CheckpointFailed,
    CheckpointFinished,
    CheckpointStarted,
    ChecksMade,
    Counts,
    Event,
    OnEvent,
    PartAdvanced,
    PartDone,
    ProgressEvent,
    WeightsLoaded,
    WorkerEvent,
)
from memoserve.run.outcome import FailedCheckpoint
from memoserve.run.plan import CheckpointPlan, Plan, Range
from memoserve.run.schedule import Assignment, Schedule
from memoserve.run.worker import AT_ONCE, Done
from memoserve.store import Store

_LISTEN = 0.5
"""Seconds between two looks at what a cluster's workers report."""

_LOSSES = 3
"""Workers that may be lost with one part before its checkpoint counts as failed."""


@dataclass
class Scored:
    """What workers have made: scores, distinct windows evaluated for them, in `seconds`; and what failed."""

    sequences: int = 0
    windows: int = 0
    seconds: float = 0.0
    failures: list[FailedCheckpoint] = field(default_factory=list)


class WorkerHandle(Protocol):
    """The driver's end of a worker: in a thread here, or on another machine."""

    name: str

    def submit(self, checkpoint: Checkpoint, span: Range) -> Future[Done]:
        """Start making a part; the future raises what Worker.score raises."""

    def close(self, at_once: bool = False) -> None:
        """End it."""


@dataclass
class _Tally:
    """What has been found out about a checkpoint in this run.

    memorized, windows: of the parts that are done; done, advanced_windows: sequences and distinct windows of
    those under way too; parts: of each, the most sequences and windows that a worker had, so that what is
    done twice counts once.
    """

    began: float
    memorized: int = 0
    windows: int = 0
    done: int = 0
    advanced_windows: int = 0
    parts: dict[Range, tuple[int, int]] = field(default_factory=dict)
    whole: bool = False


class Dispatcher:
    """Hands parts to workers until none is left, and keeps count. Events come from the workers' threads."""

    def __init__(self, plan: Plan, store: Store, on_event: OnEvent) -> None:
        self.scored = Scored()
        self._store = store
        self._losses: Counter[Assignment] = Counter()
        self._refusals: dict[CheckpointPlan, EngineStartFailed] = {}
        self._schedule = Schedule(plan.todo)
        self._plans = {item.checkpoint: item for item in plan.todo}
        self._on_event = on_event
        self._total = plan.sequences
        self._done = 0
        self._tallies: dict[Checkpoint, _Tally] = {}
        self._failed: set[Checkpoint] = set()
        self._telling = threading.Lock()

    @property
    def has_work(self) -> bool:
        """Whether a part is left to make."""
        return not self._schedule.empty

    def refuse(self, reasons: Mapping[Checkpoint, str]) -> None:
        """Let checkpoints fail before an engine starts."""
        for checkpoint, reason in reasons.items():
            if checkpoint in self._plans:
                self._fail(self._plans[checkpoint], reason)

    def drive(self, workers: Sequence[WorkerHandle], cluster: Cluster | None = None) -> None:
        """Until every part is made or its checkpoint has failed. Closes the workers, however it ends.

        On a cluster workers come and go meanwhile; what a lost one had in hand is handed out again.
        """
        flying: dict[Future[Done], tuple[WorkerHandle, Assignment]] = {}
        lost = cluster.lost if cluster is not None else ()
        try:
            while True:
                self._hand_out(workers, flying)
                if not flying and not self._schedule.empty and workers:
                    self._retry_refused(workers, flying, cluster is not None and cluster.expecting)
                if not flying and (self._schedule.empty or cluster is None):
                    break
                finished = wait(flying, None if cluster is None else _LISTEN, FIRST_COMPLETED).done
                if cluster is not None:
                    cluster.refresh(self.receive)
                    if not flying:
                        time.sleep(_LISTEN)  # no node is left: wait for one
                for future in finished:
                    worker, (item, span) = flying.pop(future)
                    try:
                        self._collect(future, item, span)
                    except EngineStartFailed as error:
                        coming = cluster is not None and cluster.expecting
                        self._refuse(worker, workers, coming, item, span, error)
                    except lost:
                        assert cluster is not None
                        self._schedule.leave(worker.name)
                        cluster.drop(worker.name)
                        self._give_back(item, span, worker.name)
        except BaseException:
            for worker in workers:
                worker.close(at_once=True)
            raise
        for worker in workers:
            worker.close()

    def _hand_out(
        self, workers: Sequence[WorkerHandle], flying: dict[Future[Done], tuple[WorkerHandle, Assignment]]
    ) -> None:
        """Every worker gets a first part before any gets a second one."""
        busy = Counter(worker.name for worker, _ in flying.values())
        for depth in range(AT_ONCE):
            for worker in workers:
                if busy[worker.name] == depth and (assignment := self._schedule.next(worker.name)):
                    item, span = assignment
                    flying[worker.submit(item.checkpoint, span)] = worker, assignment
                    busy[worker.name] += 1

    def _collect(self, future: Future[Done], item: CheckpointPlan, span: Range) -> None:
        try:
            done = _result(future)
        except EngineStartFailed:
            raise
        except (EngineFailed, BadInput, StoreConflict) as error:
            self._fail(item, str(error))
        else:
            self._count(item, span, done)

    def _count(self, item: CheckpointPlan, span: Range, done: Done) -> None:
        checkpoint = item.checkpoint
        self.receive(WeightsLoaded(checkpoint))
        self.receive(PartAdvanced(checkpoint, span, done.sequences, done.windows))
        with self._telling:
            tally = self._tallies[checkpoint]
            tally.memorized += done.memorized
            tally.windows += done.windows
            self.scored.sequences += done.sequences
            self.scored.windows += done.windows
            self._on_event(PartDone(checkpoint, span, done.sequences, done.windows, self._counts(item)))
            whole = self._schedule.done(item) and checkpoint not in self._failed
            if whole:
                tally.whole = True
                tally.parts.clear()
        if whole:
            # Many parts are read for it: workers may tell events meanwhile.
            self._store.list_memorized(checkpoint.suite, checkpoint.model.name, checkpoint.step)
            with self._telling:
                seconds = time.monotonic() - tally.began
                self._on_event(
                    CheckpointFinished(checkpoint, item.sequences, tally.memorized, tally.windows, seconds)
                )

    def _refuse(
        self,
        worker: WorkerHandle,
        workers: Sequence[WorkerHandle],
        coming: bool,
        item: CheckpointPlan,
        span: Range,
        error: EngineStartFailed,
    ) -> None:
        """A worker can't have an engine for a checkpoint: others make its parts, if any of them can."""
        known = self._schedule.refused(worker.name, item)
        self._refusals[item] = error
        self._schedule.refuse(worker.name, item)
        if coming or any(not self._schedule.refused(other.name, item) for other in workers):
            self._schedule.give_back(item, span)
            if not known and item.checkpoint not in self._failed:
                self._tell(events.EngineNotStarted(item.checkpoint.model.name, worker.name, str(error)))
        else:
            self._schedule.retry_refused(item)
            self._give_up(item)

    def _retry_refused(
        self,
        workers: Sequence[WorkerHandle],
        flying: dict[Future[Done], tuple[WorkerHandle, Assignment]],
        coming: bool,
    ) -> None:
        """Something is left, and no worker wants it: each may try what it did not try yet; what all tried
        fails, if no other worker is coming.
        """
        self._schedule.retry_refused()
        self._hand_out(workers, flying)
        if not flying and not coming:
            for item in self._schedule.left:
                self._give_up(item)

    def _give_up(self, item: CheckpointPlan) -> None:
        """No worker has an engine for a checkpoint. Raises StorageFailed if they have no disk for one."""
        error = self._refusals[item]
        if isinstance(error, EngineStorageFailed):
            raise StorageFailed(str(error)) from error
        self._fail(item, str(error))

    def _give_back(self, item: CheckpointPlan, span: Range, worker: str) -> None:
        """What a lost worker had in hand goes to another, unless it was the part that broke the worker."""
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
                item, f"{_LOSSES} workers were lost with sequences {span[0]}:{span[1]}, {worker} the last"
            )

    def _fail(self, item: CheckpointPlan, reason: str) -> None:
        self._schedule.drop(item)
        if item.checkpoint not in self._failed:
            self._failed.add(item.checkpoint)
            self.scored.failures.append(FailedCheckpoint(item.checkpoint, reason))
            self._tell(CheckpointFailed(item.checkpoint, reason))

    def receive(self, event: WorkerEvent) -> None:
        """Take what a worker tells. Checks are kept in the store.

        What a lost one had scored of a part is not counted again when another makes it, nor what is told
        after the part is done.
        """
        if isinstance(event, ChecksMade):
            self._store.write_checks(event.suite, event.checks)
            for check in event.checks:
                self._tell(Checked(check))
        elif isinstance(event, WeightsLoaded):
            self._begin(self._plans[event.checkpoint])
        elif isinstance(event, PartAdvanced):
            self._advance(event)
        else:
            self._tell(event)

    def _begin(self, item: CheckpointPlan) -> None:
        with self._telling:
            if item.checkpoint not in self._tallies:
                self._tallies[item.checkpoint] = _Tally(time.monotonic())
                self._on_event(CheckpointStarted(item.checkpoint, item.sequences, len(item.missing)))

    def _advance(self, event: PartAdvanced) -> None:
        with self._telling:
            tally = self._tallies[event.checkpoint]
            before = tally.parts.get(event.span, (0, 0))
            now = max(before[0], event.sequences), max(before[1], event.windows)
            if now != before and not tally.whole:
                tally.parts[event.span] = now
                tally.done += now[0] - before[0]
                tally.advanced_windows += now[1] - before[1]
                self._done += now[0] - before[0]
                item = self._plans[event.checkpoint]
                self._on_event(ProgressEvent(event.checkpoint, self._counts(item)))

    def _counts(self, item: CheckpointPlan) -> Counts:
        tally = self._tallies[item.checkpoint]
        elapsed = max(time.monotonic() - tally.began, 1e-9)
        rate = round(tally.advanced_windows / elapsed, 1)
        return Counts(rate, tally.done, item.sequences, self._done, self._total)

    def _tell(self, event: Event) -> None:
        with self._telling:
            self._on_event(event)


def _result(future: Future[Done]) -> Done:
    """What a part turned out to be. Raises what its worker raised: Ray wraps that."""
    try:
        return future.result()
    except Exception as error:
        cause = getattr(error, "cause", None)
        raise (cause if isinstance(cause, MemoserveError) else error) from None
