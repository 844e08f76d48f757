"""The endpoints for runs: submit, list, watch, cancel."""

from __future__ import annotations

import json
import subprocess
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, fields, replace
from pathlib import Path as FilePath
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Header, Path, Query, Request
from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import PlainTextResponse, Response

from memoserve.engines import engine_names, require
from memoserve.errors import BadInput, EngineFailed, MemoserveError, StorageFailed, StoreConflict
from memoserve.run.events import BY_NAME, End, Event, PlanEvent
from memoserve.run.options import Options, arguments_of
from memoserve.serve import contract
from memoserve.serve.errors import Forbidden, NotThere, TooLong
from memoserve.serve.files import data_file, suite_files
from memoserve.serve.jobs import progress
from memoserve.serve.jobs.process import command_of
from memoserve.serve.jobs.queue import Queue, QueuedJob
from memoserve.serve.jobs.watch import Watch
from memoserve.serve.requests import errors, settings_of
from memoserve.serve.settings import Settings

router = APIRouter(prefix="/api")

_PLANNING_SECONDS = 120.0
_STOPPING_SECONDS = 2.0
"""For the streams to end by themselves, less than the server waits for answers when it is stopped."""
_RETRY_MILLISECONDS = 1000
_LOOK_SECONDS = 15.0
"""A store that is gone does not change."""
_LOG_BYTES = 256 << 10

_Id = Annotated[int, Path(ge=1, le=2**53)]

_ERRORS: dict[int, type[MemoserveError]] = {
    StoreConflict.exit_code: StoreConflict,
    EngineFailed.exit_code: EngineFailed,
    StorageFailed.exit_code: StorageFailed,
}


def _queue_of(request: Request) -> Queue:
    queue: Queue | None = request.app.state.queue
    if queue is None:
        raise Forbidden("this service is read-only: it has no runs")
    return queue


def _found(queue: Queue, id_: int) -> QueuedJob:
    run = queue.find(id_)
    if run is None:
        raise NotThere(f"there is no run {id_}")
    return run


def progress_of(run: QueuedJob) -> contract.RunProgress:
    """Where a run is, as it is told."""
    now = progress.kept(run.progress)
    if run.state != "running":
        now = replace(now, event=None, windows_per_second=None, seconds_left=None)
    told = {field.name: getattr(now, field.name) for field in fields(progress.Progress)}
    return contract.RunProgress(**told, state=run.state, message=run.message)


def _as_json(run: QueuedJob, unfinished: list[QueuedJob]) -> dict[str, Any]:
    positions = {one.id: position for position, one in enumerate(unfinished)}
    return {
        "id": run.id,
        "state": run.state,
        "request": run.request,
        "estimate": run.estimate,
        "ahead": positions.get(run.id) if run.state == "queued" else None,
        "created": run.created,
        "started": run.started,
        "ended": run.ended,
        "attempts": run.attempts,
        "cancel_requested": run.cancel,
        "exit_code": run.exit_code,
        "message": run.message,
        "progress": progress_of(run),
    }


@router.get("/engines", response_model=list[str], responses=errors())
def engines() -> Any:
    """The engines that a run may name: memoserve's, and those of other packages installed here."""
    return engine_names()


@router.post("/runs", status_code=201, response_model=contract.SubmittedRun, responses=errors(408, 415))
async def submit(request: Request, submission: contract.Submission) -> Any:
    """Submit a run. What `memoserve run` would refuse is refused; what is there already is not done again."""
    queue = _queue_of(request)
    settings = settings_of(request)
    await anyio.to_thread.run_sync(require, submission.engine)
    options = options_of(submission, settings)
    async with request.app.state.planning:
        estimate = await _plan(options)
    submitted = queue.submit(submission.model_dump(), arguments_of(options), estimate)
    return _as_json(submitted, queue.unfinished())


@router.get("/runs", response_model=list[contract.SubmittedRun], responses=errors())
def listed(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
) -> Any:
    """The runs, newest first."""
    if request.app.state.queue is None:
        return []
    queue = _queue_of(request)
    unfinished = queue.unfinished()
    return [_as_json(run, unfinished) for run in queue.newest(limit, offset)]


@router.get("/runs/{id}", response_model=contract.SubmittedRun, responses=errors(404))
def run(request: Request, id: _Id) -> Any:
    """One run."""
    queue = _queue_of(request)
    return _as_json(_found(queue, id), queue.unfinished())


@router.post("/runs/{id}/cancel", response_model=contract.SubmittedRun, responses=errors(404, 408, 415))
def cancel(request: Request, id: _Id) -> Any:
    """Cancel a run: a waiting one at once, a running one as soon as it has ended; whole parts are kept."""
    queue = _queue_of(request)
    queue.cancel(_found(queue, id).id)
    after = queue.get(id)
    if after.state in {"done", "failed"}:
        raise StoreConflict(f"run {id} has ended: it is {after.state}")
    return _as_json(after, queue.unfinished())


@router.get(
    "/runs/{id}/log",
    response_class=Response,
    responses=errors(404) | {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def log(request: Request, id: _Id) -> PlainTextResponse:
    """What a run printed; of much, the end."""
    queue = _queue_of(request)
    file = queue.log_of(_found(queue, id).id)
    try:
        with file.open("rb") as opened:
            size = file.stat().st_size
            opened.seek(max(0, size - _LOG_BYTES))
            lines = opened.read().decode("utf-8", "replace").splitlines()[1 if size > _LOG_BYTES else 0 :]
    except FileNotFoundError:
        lines = []
    return PlainTextResponse("".join(f"{line}\n" for line in progress.readable(lines)))


_EVENTS = (
    "`event: progress` with a Progress as data whenever something changed, then `event: end` with the last "
    "one. An event's id is its number; a client that comes back with Last-Event-ID gets what it missed."
)


@router.get(
    "/runs/{id}/events",
    response_class=Response,
    responses=errors(404)
    | {200: {"description": _EVENTS, "content": {"text/event-stream": {"schema": {"type": "string"}}}}},
)
async def events(
    request: Request,
    id: _Id,
    last_event_id: Annotated[str | None, Header(max_length=40)] = None,
) -> EventSourceResponse:
    """Follow a run as server-sent events."""
    queue = _queue_of(request)
    _found(queue, id)
    seen = int(last_event_id) if last_event_id and last_event_id.isascii() and last_event_id.isdigit() else 0
    stopping = anyio.Event()
    return EventSourceResponse(
        _stream(queue, request.app.state.watch, id, seen, stopping),
        sep="\n",
        shutdown_event=stopping,
        shutdown_grace_period=_STOPPING_SECONDS,
    )


async def _stream(
    queue: Queue, watch: Watch, id_: int, seen: int, stopping: anyio.Event
) -> AsyncIterator[ServerSentEvent]:
    yield ServerSentEvent(retry=_RETRY_MILLISECONDS, sep="\n")
    while not stopping.is_set():
        try:
            run = queue.find(id_)
        except StorageFailed:
            return  # who comes back is told why
        if run is None:
            return
        data = json.dumps(asdict(progress_of(run)))
        if run.version != seen:  # smaller: the client has another store's run of this number
            seen = run.version
            yield ServerSentEvent(data, event="progress", id=str(seen), sep="\n")
        if run.finished:
            yield ServerSentEvent(data, event="end", id=str(seen), sep="\n")
            return
        with anyio.move_on_after(_LOOK_SECONDS):
            await _either(watch.changed, stopping.wait)


async def _either(*waits: Callable[[], Awaitable[None]]) -> None:
    """Wait until one of them is over."""
    async with anyio.create_task_group() as tasks:

        async def one(wait: Callable[[], Awaitable[None]]) -> None:
            await wait()
            tasks.cancel_scope.cancel()

        for wait in waits:
            tasks.start_soon(one, wait)


def options_of(submission: contract.Submission, settings: Settings) -> Options:
    """What a submission asks for. Raises BadInput for a suite or data that this service doesn't offer."""
    files = suite_files(settings.suites)
    if submission.suite not in files:
        raise BadInput(f"there is no suite {submission.suite!r} here; there are {', '.join(sorted(files))}")
    return Options(
        suite=str(files[submission.suite].resolve()),
        out=str(settings.folder.resolve()),
        checkpoints=submission.checkpoints,
        sequences=submission.sequences,
        sample=submission.sample,
        seed=submission.seed,
        mode=submission.mode,
        engine=submission.engine,
        loglik=submission.loglik,
        data=None if submission.data is None else str(data_file(settings.data, submission.data)),
    )


async def _plan(options: Options) -> dict[str, Any]:
    """The dry run: the checks of `memoserve run` itself, and what it would cost. Raises what it says."""
    try:
        with anyio.fail_after(_PLANNING_SECONDS):
            result = await anyio.run_process(
                command_of(replace(options, dry_run=True)),
                check=False,
                stdin=subprocess.DEVNULL,
                cwd=FilePath("/"),
            )
    except TimeoutError:
        raise TooLong(f"planning this run took longer than {_PLANNING_SECONDS:g} s") from None
    by_kind: dict[type[Event] | None, list[dict[str, Any]]] = defaultdict(list)
    for line in result.stdout.decode().splitlines():
        if event := progress.parse(line):
            by_kind[BY_NAME.get(event["event"])].append(event)
    if result.returncode:
        printed = result.stderr.decode("utf-8", "replace").strip()
        ended = [event["message"] for event in by_kind[End] if "message" in event]
        kind = _ERRORS.get(result.returncode, BadInput)
        raise kind(ended[-1] if ended else printed.removeprefix("error: "))
    (plan,) = by_kind[PlanEvent]
    return {
        "sequences": plan["sequences"],
        "checkpoints": sum(bool(one["sequences"]) for one in plan["checkpoints"]),
        "flops": plan["flops"],
        "bytes": plan["bytes"],
        "seconds": plan["seconds"],
    }
