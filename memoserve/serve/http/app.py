"""The application: endpoints, errors in words, and the files of the dashboard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from memoserve import __version__
from memoserve.errors import BadInput, EngineFailed, MemoserveError, StorageFailed, StoreConflict
from memoserve.serve.answers import endpoints as answers
from memoserve.serve.answers import questions
from memoserve.serve.answers.cache import AnswerCache
from memoserve.serve.answers.pool import ReaderPool
from memoserve.serve.errors import Busy, Forbidden, NotThere, TooLong, TooMuch
from memoserve.serve.http import pages
from memoserve.serve.jobs import endpoints as jobs
from memoserve.serve.jobs.queue import Queue
from memoserve.serve.jobs.watch import Watch
from memoserve.serve.settings import Settings

_STATUS: tuple[tuple[type[MemoserveError], int], ...] = (
    (BadInput, 400),
    (Forbidden, 403),
    (NotThere, 404),
    (StoreConflict, 409),
    (TooMuch, 413),
    (TooLong, 503),
    (Busy, 503),
    (EngineFailed, 503),
    (StorageFailed, 503),
)

_BEGUN = 2
"""ReaderPool that are started with the server; the others when they are needed."""

_PLANNED = 2
"""Submissions that are checked at once: each is a process, which may read two million sequences."""

_TOLD = 20
"""Of what is wrong with a request."""

_ABOUT = """What a store of memorization scores says, and runs that add to it.

Tables come as JSON, CSV, Parquet or an Arrow stream (`format=`). Errors are `{"error": "..."}` with what is
wrong, where, and what to do."""


def create_app(settings: Settings) -> FastAPI:
    """The ASGI application of one store."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        readers = app.state.readers = ReaderPool(settings)
        app.state.cache = AnswerCache(readers, settings)
        app.state.planning = anyio.CapacityLimiter(_PLANNED)
        app.state.queue = None if settings.read_only else Queue(settings.folder)
        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(min(settings.readers, _BEGUN)):
                    tasks.start_soon(_begin, readers)
                if app.state.queue is not None:
                    app.state.watch = Watch(settings.folder, app.state.queue)
                    tasks.start_soon(app.state.watch.run)
                yield
                tasks.cancel_scope.cancel()
        finally:
            readers.close()

    app = FastAPI(
        title="memoserve",
        version=__version__,
        description=_ABOUT,
        docs_url=None,  # its page loads scripts from another host
        redoc_url=None,
        openapi_url="/api/openapi.json",
        lifespan=lifespan,
    )
    app.state.settings = settings
    app.include_router(answers.router)
    app.include_router(jobs.router)
    app.include_router(pages.router)
    app.mount("/static", StaticFiles(directory=pages.STATIC, check_dir=False), name="static")
    app.add_exception_handler(MemoserveError, _as_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unexpected)
    return app


async def _begin(readers: ReaderPool) -> None:
    """Start a reader: whoever asks first should not have to wait for its imports."""
    with suppress(Exception):  # reported to whoever asks
        await readers.ask(questions.plots)
        await readers.ask(questions.store, False)


def _error(status: int, message: str, headers: Any = None) -> Response:
    return JSONResponse({"error": message}, status, headers=headers)


def _as_error(request: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return _error(status, str(error), {"Retry-After": "2"} if isinstance(error, Busy) else None)


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    lines = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in errors[:_TOLD]]
    if len(errors) > _TOLD:
        lines.append(f"and {len(errors) - _TOLD} more")
    return _error(422, "; ".join(lines))


def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"there is nothing at {request.url.path}" if error.status_code == 404 else str(error.detail)
    return _error(error.status_code, message, error.headers)


def _unexpected(request: Request, error: Exception) -> Response:
    # uvicorn logs it, and closes the connection.
    message = f"unexpected {type(error).__name__}: a defect of memoserve, its log says more"
    return _error(500, message, {"Connection": "close"})
