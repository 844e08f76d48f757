"""The local executor: workers in threads of the driver, one engine process per device."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import groupby

from memoserve.domain import Checkpoint
from memoserve.engines import EngineSettings, cores_of, gpus
from memoserve.errors import BadInput
from memoserve.run.plan import Range
from memoserve.run.worker import AT_ONCE, Done, Worker


class LocalWorker:
    """A worker and its threads."""

    def __init__(self, worker: Worker) -> None:
        self.name = worker.name
        self._worker = worker
        self._threads = ThreadPoolExecutor(AT_ONCE, f"worker {worker.name}")
        self._number = 0

    def submit(self, checkpoint: Checkpoint, span: Range) -> Future[Done]:
        """Start making a part."""
        number, self._number = self._number, self._number + 1
        return self._threads.submit(self._worker.score, number, checkpoint, span)

    def close(self, at_once: bool = False) -> None:
        """End the engine; `at_once` in mid-evaluation."""
        self._worker.close(at_once)
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._worker.close()


def devices_for(settings: EngineSettings, asked: str | None) -> list[str]:
    """What each engine runs on: a group of GPUs such as `0` or `0,1`, a range of cores such as `0-15`.

    Without `asked`: every visible GPU in groups of `tensor_parallel`, or all cores together (empty).
    Raises BadInput if they can't be divided, or for cores that aren't there or are given twice.
    """
    if settings.device == "cpu":
        return [""] if asked is None else _groups_of_cores(asked)
    numbers = _visible_gpus() if asked is None else asked.split(",")
    size = settings.tensor_parallel
    if not numbers or len(numbers) % size:
        raise BadInput(
            f"{len(numbers)} GPUs ({','.join(numbers) or 'none'}) can't be divided into groups of {size}:"
            " change --devices or --tensor-parallel"
        )
    return [",".join(numbers[i : i + size]) for i in range(0, len(numbers), size)]


def _groups_of_cores(asked: str) -> list[str]:
    groups = [group.strip() for group in asked.split(",")]
    there, taken = os.sched_getaffinity(0), set[int]()
    for group in groups:
        try:
            cores = cores_of(group)
        except ValueError:
            cores = range(0)
        if not cores:
            raise BadInput(
                f"--devices {asked}: {group!r} is no core or range of cores: give some, such as 0-15,16-31"
            )
        if not {cores[0], cores[-1]} <= there or not there.issuperset(cores):
            raise BadInput(
                f"--devices {asked}: not all cores of {group} are there for this process, which has "
                + _ranges(there)
            )
        if not taken.isdisjoint(cores):
            raise BadInput(f"--devices {asked}: two engines would share cores of {group}")
        taken.update(cores)
    return groups


def _ranges(cores: set[int]) -> str:
    """Cores as people write them: 0-3,8."""
    groups = [
        [core for _, core in group]
        for _, group in groupby(enumerate(sorted(cores)), lambda pair: pair[1] - pair[0])
    ]
    return ",".join(f"{one[0]}-{one[-1]}" if len(one) > 1 else str(one[0]) for one in groups)


def _visible_gpus() -> list[str]:
    """Their numbers, as CUDA_VISIBLE_DEVICES has them."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [number.strip() for number in chosen.split(",") if number.strip()]
    return [str(number) for number in range(len(gpus()))]
