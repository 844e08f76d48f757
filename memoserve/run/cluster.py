"""The Ray executor: a worker for each group of GPUs of a Ray cluster, or for each node of one without GPUs.

Workers read sequences and weights and write parts themselves, so nothing but numbers passes the driver. Ray
says when a worker or node is lost: its parts go to others, and a node that joins gets a worker. A driver that
dies takes its workers with it; started again, it plans what the store lacks.

Imports Ray only inside functions.
"""

from __future__ import annotations

import contextlib
import math
import signal
import socket
import time
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from memoserve import __version__
from memoserve.domain import Checkpoint
from memoserve.engines import Diagnosis, EngineSettings, LocalWeights, diagnose, fetch_weights
from memoserve.errors import BadInput, EngineFailed, EngineStartFailed, MemoserveError, StoreConflict
from memoserve.run.checks.weights import WeightsReport, check_weights
from memoserve.run.events import OnWorkerEvent, WorkerEvent
from memoserve.run.plan import Range
from memoserve.run.worker import AT_ONCE, Done, Worker, WorkerSetup
from memoserve.sequences import Selection, open_sequences
from memoserve.store import Store
from memoserve.suites import Suite

_LOOK_FOR_NODES = 5.0
"""Seconds between two looks for nodes that joined or left."""

_HEAD_AWAY = 30.0
"""Seconds for which the cluster's head may not answer. Ray waits longer, then ends the driver's process and
says nothing of where its run stands.
"""

_COMES_WITHIN = 120.0
"""Seconds after which a worker that isn't ready, such as one on a node in use, is not waited for; nor are
others asked for in place of those that were lost before any was ready.
"""

_END_WITHIN = 10.0
"""Seconds that a worker has to end its engine before Ray ends the worker."""


@dataclass(frozen=True)
class Work:
    """What a worker must know to make parts: paths and URLs mean the same on every node."""

    suite: Suite
    fingerprint: Mapping[str, str | int | None]
    data: str
    tokenizer: str | None
    column: str | None
    selection: Selection
    store: str
    settings: EngineSettings
    engine_version: str
    version: str = __version__


class WorkerActor:
    """The actor: a worker on its node."""

    def __init__(self, work: Work, name: str, relay: Any) -> None:
        self._work = work
        self._name = name
        self._relay = relay
        self._worker: Worker | None = None

    def ready(self) -> str:
        """Open what is needed and check that it is what the driver has: what is wrong, or nothing."""
        work = self._work
        try:
            diagnosis = diagnose(work.settings.engine)
            here = (__version__, diagnosis.version, diagnosis.device)
            there = (work.version, work.engine_version, work.settings.device)
            if diagnosis.problems:
                return "; ".join(diagnosis.problems)
            if here != there:
                return f"it has memoserve, engine and device {here}, the driver runs with {there}"
            source = open_sequences(work.data, work.tokenizer, work.column)
            identity = {f"sequences_{key}": value for key, value in source.identity().items()}
            if any(work.fingerprint[key] != value for key, value in identity.items()):
                return f"what it has at {work.data} are other sequences than the driver's"
            store = Store.open(work.store)
            if store.fingerprint(work.suite.name) != work.fingerprint:
                return f"what it has at {work.store} is another store than the driver's"
            setup = WorkerSetup(source, work.selection, store, work.suite, work.settings, self._fetch)
            self._worker = Worker(setup, self._tell, self._name)
        except MemoserveError as error:
            return str(error)
        return ""

    def score(self, number: int, checkpoint: Checkpoint, span: Range) -> Done:
        """See Worker.score."""
        assert self._worker is not None, "work before ready"
        return self._worker.score(number, checkpoint, span)

    def close(self) -> None:
        """End the engine."""
        if self._worker is not None:
            self._worker.close(at_once=True)

    def _fetch(self, checkpoint: Checkpoint) -> LocalWeights:
        import ray

        try:
            weights = fetch_weights(checkpoint, self._work.settings.allow_pickle)
        except EngineStartFailed:
            raise
        except EngineFailed as error:  # another node may have them
            raise EngineStartFailed(str(error)) from error
        agreed = ray.get(self._relay.agree.remote(checkpoint, weights.identity))
        if agreed != weights.identity:
            raise StoreConflict(
                f"{checkpoint}: {self._name} has the weights {weights.identity}, another node {agreed}"
            )
        return weights

    def _tell(self, event: WorkerEvent) -> None:
        self._relay.tell.remote(event)


class EventRelay:
    """The actor beside the driver: takes the workers' events, and holds them to the same weights."""

    def __init__(self) -> None:
        self._events: deque[WorkerEvent] = deque()
        self._weights: dict[Checkpoint, str] = {}

    def agree(self, checkpoint: Checkpoint, identity: str) -> str:
        """The identity of the weights that the first worker had."""
        return self._weights.setdefault(checkpoint, identity)

    def tell(self, event: WorkerEvent) -> None:
        """Put an event down."""
        self._events.append(event)

    def take(self) -> list[WorkerEvent]:
        """Take what has been put down."""
        events = list(self._events)
        self._events.clear()
        return events


class RayWorker:
    """The driver's end of a worker."""

    def __init__(self, name: str, node: str, actor: Any) -> None:
        self.name = name
        self.node = node
        self.actor = actor
        self.asked_for = time.monotonic()
        self._number = 0

    def submit(self, checkpoint: Checkpoint, span: Range) -> Future[Done]:
        """Start making a part; the future raises one of Cluster.lost if the worker or its node is gone."""
        number, self._number = self._number, self._number + 1
        future: Future[Done] = self.actor.score.remote(number, checkpoint, span).future()
        return future

    def close(self, at_once: bool = False) -> None:
        """End the worker, and with it its engine."""
        import ray

        with contextlib.suppress(ray.exceptions.RayError):
            if not at_once:
                ray.get(self.actor.close.remote(), timeout=_END_WITHIN)
        ray.kill(self.actor)


class Cluster:
    """A connection to a Ray cluster. `connect` first, `start` the workers, `refresh` while they work."""

    def __init__(self, address: str) -> None:
        try:
            import ray
        except ImportError:
            raise EngineFailed("--executor ray needs Ray: pip install 'memoserve[ray]'") from None
        self._ray: Any = ray
        if address.startswith("ray://"):  # would start a cluster of its own when its connection broke
            raise BadInput(
                f"{address} is for Ray's client: start memoserve on a node of the cluster,"
                " with --address HOST:PORT of its head"
            )
        host, _, port = address.rpartition(":")
        try:
            if port.isdigit():  # where nobody listens, Ray would go on asking for minutes
                socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
            told_to_stop = signal.getsignal(signal.SIGTERM)
            ray.init(address, log_to_driver=False, logging_level="ERROR")
            signal.signal(signal.SIGTERM, told_to_stop)  # Ray puts a handler of its own there
        except (OSError, ValueError, RuntimeError) as error:
            message = str(error).strip().splitlines()[0]
            raise BadInput(
                f"there is no Ray cluster at {address}: {message}. `ray start --head` starts one;"
                " --address names one that runs elsewhere"
            ) from None
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
        self._head = host.strip("[]"), int(port)
        self._silent_since = math.inf
        self._looked = 0.0
        self._coming: dict[Any, RayWorker] = {}
        self._started: dict[str, int] = {}
        self._refused: dict[str, str] = {}
        self.workers: list[RayWorker] = []

    @property
    def lost(self) -> tuple[type[BaseException], ...]:
        """What the future of a part raises when its worker or node is gone."""
        return (self._ray.exceptions.RayActorError, self._ray.exceptions.NodeDiedError)

    @property
    def expecting(self) -> bool:
        """Whether another worker will be there soon."""
        return any(time.monotonic() - worker.asked_for < _COMES_WITHIN for worker in self._coming.values())

    def diagnose(self, engine: str) -> Diagnosis:
        """What a node can run. Raises EngineFailed if that is nothing."""
        found: Diagnosis = self._ask(diagnose, engine)
        if found.problems:
            raise EngineFailed(
                f"the {engine} engine can't run on the cluster:\n"
                + "\n".join(f"  {problem}" for problem in found.problems)
            )
        return found

    def fetch(self, checkpoint: Checkpoint, allow_pickle: bool) -> LocalWeights:
        """What a node finds out about a checkpoint's weights."""
        found: LocalWeights = self._ask(fetch_weights, checkpoint, allow_pickle)
        return found

    def check_weights(self, *arguments: Any, **options: Any) -> WeightsReport:
        """What a node finds when it checks weights, see memoserve.run.check_weights."""
        report: WeightsReport = self._ask(partial(check_weights, *arguments, **options))
        return report

    def start(self, work: Work) -> None:
        """Start a worker wherever there is room. Raises EngineFailed if none can work."""
        here = self._ray.get_runtime_context().get_node_id()
        self._relay = self._actor(EventRelay, here, num_cpus=0).remote()
        self._work = work
        began = time.monotonic()
        self._look()
        while self._coming and not self.workers:
            self._admit(timeout=1.0)
            if not self._coming and time.monotonic() - began < _COMES_WITHIN:
                self._look()  # all that came were lost on the way
        if not self.workers:
            reasons = "\n".join(f"  {name}: {reason}" for name, reason in self._refused.items())
            raise EngineFailed(
                "no node of the cluster can run the engine:\n"
                + (reasons or "  none has a CPU or GPU to give")
            )

    def refresh(self, on_event: OnWorkerEvent) -> None:
        """Pass on what workers told, and give workers to nodes that joined or lost theirs.

        Raises EngineFailed if the driver's node or the cluster's head is lost.
        """
        self._admit(timeout=0.0)
        if time.monotonic() - self._looked > _LOOK_FOR_NODES:
            if self._head_answers():
                self._look()
            elif time.monotonic() - self._silent_since > _HEAD_AWAY:
                raise _lost(f"the cluster's head at {self._head[0]}:{self._head[1]} answers no more")
        try:
            events = self._ray.get(self._relay.take.remote())
        except self.lost:
            raise _lost("the node that the driver runs on is lost to the cluster") from None
        for event in events:
            on_event(event)

    def drop(self, name: str) -> None:
        """A worker is lost; its node gets another one if it is still there."""
        for worker in [worker for worker in self.workers if worker.name == name]:
            self.workers.remove(worker)
            self._started[worker.node] -= 1
            with contextlib.suppress(Exception):
                self._ray.kill(worker.actor)

    def _head_answers(self) -> bool:
        """Whether anybody listens there: Ray would wait for it in calls that nothing can interrupt."""
        self._looked = time.monotonic()
        try:
            socket.create_connection(self._head, timeout=5).close()
        except OSError:
            self._silent_since = min(self._silent_since, self._looked)
            return False
        self._silent_since = math.inf
        return True

    def _look(self) -> None:
        self._looked = time.monotonic()
        settings = self._work.settings
        for node in self._ray.nodes():
            if not node["Alive"]:
                continue
            resources = node["Resources"]
            if settings.device == "cpu":
                # All of the node's cores, so that no other run gets a worker there.
                room, needs = int(resources.get("CPU", 0) >= 1), {"num_cpus": resources.get("CPU", 0)}
            else:
                room = int(resources.get("GPU", 0)) // settings.tensor_parallel
                needs = {"num_cpus": 0, "num_gpus": settings.tensor_parallel}
            while self._started.get(node["NodeID"], 0) < room:
                number = self._started[node["NodeID"]] = self._started.get(node["NodeID"], 0) + 1
                name = f"{node['NodeManagerHostname']} {node['NodeID'][:6]}" + (
                    f" {number}" if room > 1 else ""
                )
                if name in self._refused:
                    continue
                actor = self._actor(WorkerActor, node["NodeID"], max_concurrency=AT_ONCE + 1, **needs)
                worker = RayWorker(name, node["NodeID"], actor.remote(self._work, name, self._relay))
                self._coming[worker.actor.ready.remote()] = worker

    def _admit(self, timeout: float) -> None:
        """Workers that are ready get work, others are left out for good."""
        if not self._coming:
            return
        for ready in self._ray.wait(list(self._coming), timeout=timeout)[0]:
            worker = self._coming.pop(ready)
            try:
                wrong = self._ray.get(ready)
            except self._ray.exceptions.RayError as error:
                self._started[worker.node] -= 1  # gone before it was there: the next look tries again
                if not isinstance(error, self.lost):
                    self._refused[worker.name] = str(error)
                continue
            if wrong:
                self._refused[worker.name] = wrong
                self._ray.kill(worker.actor)
            else:
                self.workers.append(worker)

    def _ask(self, function: Any, *arguments: Any) -> Any:
        """Call a function where there is room for an engine; raises what it raises."""
        gpus = self._ray.cluster_resources().get("GPU", 0)
        needs = {"num_cpus": 0, "num_gpus": 1} if gpus else {"num_cpus": 1}
        try:
            return self._ray.get(self._ray.remote(**needs)(_call).remote(function, *arguments))
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from None

    def _actor(self, kind: type, node: str, **needs: Any) -> Any:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        strategy = NodeAffinitySchedulingStrategy(node, soft=False)
        return self._ray.remote(**needs)(kind).options(scheduling_strategy=strategy)


def _call(function: Any, *arguments: Any) -> Any:
    return function(*arguments)


def _lost(what: str) -> EngineFailed:
    return EngineFailed(f"{what}: what is written is whole, the same command goes on from there")


def on_every_node(path: str | None) -> Any:
    """A path as workers elsewhere understand it; a URL stays as it is."""
    return path if path is None or "://" in path else str(Path(path).resolve())
