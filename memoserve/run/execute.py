"""Carry out a plan: index the sequences, then have workers make every missing part of every checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from memoserve.domain import Checkpoint
from memoserve.run.cluster import Cluster, Work
from memoserve.run.dispatch import Dispatcher, Scored
from memoserve.run.events import OnEvent
from memoserve.run.indexing import index
from memoserve.run.local import LocalWorker
from memoserve.run.plan import Plan
from memoserve.run.worker import Worker, WorkerSetup


def execute(
    plan: Plan,
    setup: WorkerSetup,
    on_event: OnEvent,
    refused: Mapping[Checkpoint, str],
    *,
    devices: Sequence[str] = ("",),
    verbose: bool = False,
) -> Scored:
    """Do what `plan` says with one engine on each of `devices` (see EngineProcess).

    The caller holds the store's lock and has claimed the suite. A checkpoint that fails is reported and the
    others continue; those `refused`, with reasons, fail at once. `verbose` shows what the engines print.

    Raises BadInput for sequences that are too short or have token ids beyond the vocabulary, before an
    engine starts.
    """

    def drive(dispatcher: Dispatcher) -> None:
        workers = [
            LocalWorker(Worker(setup, dispatcher.receive, name, device, verbose))
            for name, device in zip(_names(devices), devices, strict=True)
        ]
        dispatcher.drive(workers)

    return _carry_out(plan, setup, on_event, refused, drive)


def execute_on(
    cluster: Cluster,
    work: Work,
    plan: Plan,
    setup: WorkerSetup,
    on_event: OnEvent,
    refused: Mapping[Checkpoint, str],
) -> Scored:
    """The same on a Ray cluster; `setup` is the driver's. Raises EngineFailed too, if no node can."""

    def drive(dispatcher: Dispatcher) -> None:
        cluster.start(work)
        dispatcher.drive(cluster.workers, cluster)

    return _carry_out(plan, setup, on_event, refused, drive)


def _carry_out(
    plan: Plan,
    setup: WorkerSetup,
    on_event: OnEvent,
    refused: Mapping[Checkpoint, str],
    drive: Callable[[Dispatcher], None],
) -> Scored:
    began = time.monotonic()
    index(plan, setup, on_event)
    dispatcher = Dispatcher(plan, setup.store, on_event)
    dispatcher.refuse(refused)
    if dispatcher.has_work:  # else no engine has anything to do
        drive(dispatcher)
    if plan.todo:
        dispatcher.scored.seconds = time.monotonic() - began
    return dispatcher.scored


def _names(devices: Sequence[str]) -> list[str]:
    """A single engine needs no name."""
    return [""] if len(devices) == 1 else [f"device {device}" for device in devices]
