"""The endpoints that read."""

from __future__ import annotations

import re
import shutil
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from memoserve.errors import BadInput
from memoserve.serve import contract
from memoserve.serve.answers import questions
from memoserve.serve.answers.cache import AnswerCache
from memoserve.serve.answers.formats import MEDIA, TRUNCATED
from memoserve.serve.answers.pool import ReaderPool, Reply
from memoserve.serve.requests import errors, settings_of

router = APIRouter(prefix="/api")

_SuiteName = Annotated[
    str | None,
    Query(description="The suite; by default the first evaluated one.", max_length=200, examples=["mini"]),
]
_EverySuite = Annotated[
    str | None, Query(description="The suite; by default all of them.", max_length=200, examples=["mini"])
]
_Name = Annotated[str, Path(max_length=200)]
_CheckpointName = Annotated[str | None, Query(max_length=200, examples=["532k@1001"])]
_FormatName = Annotated[contract.FormatName, Query(alias="format")]
_Limit = Annotated[int | None, Query(ge=1, le=2**31 - 1, description="Rows at most.")]
_Unit = Literal["sequences", "windows"]


def shaped(model: type | Any, **more: Any) -> dict[str, Any]:
    """Keywords of an endpoint that answers with a reader's JSON."""
    return {"response_model": model, "responses": errors(*more.pop("codes", ())), **more}


_FILES: dict[str, Any] = {
    MEDIA["csv"].partition(";")[0]: {"schema": {"type": "string"}},
    MEDIA["parquet"]: {"schema": {"type": "string", "format": "binary"}},
    MEDIA["arrow"]: {"schema": {"type": "string", "format": "binary"}},
}


def tables(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The responses of an endpoint that gives a table in any format."""
    return errors(*codes) | {
        200: {
            "content": _FILES,
            "headers": {
                TRUNCATED: {
                    "description": "true where `limit` cut the answer (of JSON, its field truncated says it)",
                    "schema": {"type": "string"},
                }
            },
        }
    }


class _File(FileResponse):
    """Sends a file of the scratch folder and removes it, whatever becomes of the client."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            shutil.rmtree(FilePath(self.path).parent, ignore_errors=True)


def respond(reply: Reply) -> Response:
    """A reader's reply as a response."""
    if reply.file is not None:
        return _File(reply.file, media_type=reply.media, headers=reply.headers)
    return Response(reply.body, media_type=reply.media, headers=reply.headers)


def readers_of(request: Request) -> ReaderPool:
    """The readers of the application."""
    readers: ReaderPool = request.app.state.readers
    return readers


def cache_of(request: Request) -> AnswerCache:
    """Its readers behind what was answered before."""
    cache: AnswerCache = request.app.state.cache
    return cache


def _folder(request: Request) -> str | None:
    folder = settings_of(request).suites
    return None if folder is None else str(folder)


def _values(request: Request, *own: str) -> tuple[tuple[str, str], ...]:
    """A query's parameters: all but the endpoint's own, each once."""
    values: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in own:
            continue
        if name in values:
            raise BadInput(f"{name} is given twice")
        values[name] = value
    return tuple(sorted(values.items()))


def parameters(about: str) -> dict[str, Any]:
    """Query parameters that the OpenAPI document can't name one by one."""
    return {
        "parameters": [
            {
                "name": "parameters",
                "in": "query",
                "required": False,
                "description": about,
                "style": "form",
                "explode": True,
                "schema": {"type": "object", "additionalProperties": {"type": "string"}},
                "examples": {"target": {"value": {"target": "1.2m@1001"}}},
            }
        ]
    }


@router.get("/store", **shaped(contract.StoreOverview))
async def store(request: Request) -> Response:
    """What the store holds, suite by suite."""
    return respond(await cache_of(request).ask(questions.store, settings_of(request).read_only))


@router.get("/suites", **shaped(list[contract.SuiteLine]))
async def suites(request: Request) -> Response:
    """The suites that can be run or were."""
    return respond(await cache_of(request).ask(questions.suites, _folder(request)))


@router.get("/suites/{name}", **shaped(contract.SuiteDetail, codes=(404,)))
async def suite(request: Request, name: _Name) -> Response:
    """A suite's models, steps and sequences."""
    return respond(await cache_of(request).ask(questions.suite, name, _folder(request)))


@router.get("/checkpoints", **shaped(contract.QueryAnswer))
async def checkpoints(request: Request, suite: _EverySuite = None) -> Response:
    """Every checkpoint of the store's suites: compute, what it has seen (wanted), what lacks a score."""
    return respond(await cache_of(request).ask(questions.checkpoints, suite))


@router.get("/queries", **shaped(list[contract.QueryFile]))
async def queries(request: Request) -> Response:
    """The named queries with their parameters, columns and SQL."""
    return respond(await cache_of(request).ask_once(questions.queries))


@router.get(
    "/queries/{name}",
    response_model=contract.QueryAnswer,
    responses=tables(404),
    openapi_extra=parameters("The parameters that the query declares, such as target=1.2m@1001."),
)
async def query(request: Request, name: _Name, form: _FormatName = "json", limit: _Limit = None) -> Response:
    """The answer of a named query."""
    values = _values(request, "format", "limit")
    if form != "json":
        return respond(await readers_of(request).ask(questions.query, name, values, form, limit))
    return respond(await cache_of(request).ask(questions.query, name, values, form, limit))


# What gives another answer each time, though the store is the same. Too many words do no harm.
_CHANGING = re.compile(r"rand|uuid|now|today|current|time|date|sample|shuffle|txid|stats", re.IGNORECASE)


@router.post("/sql", response_model=contract.QueryAnswer, responses=tables(408, 415))
async def sql(request: Request, statement: contract.Statement) -> Response:
    """The answer to SQL of your own; it can only read, and only this store."""
    asked = (statement.sql, statement.format, statement.limit)
    if statement.format != "json" or _CHANGING.search(statement.sql):
        return respond(await readers_of(request).ask(questions.sql, *asked))
    return respond(await cache_of(request).ask(questions.sql, *asked))


@router.get("/plots", **shaped(list[contract.PlotEntry]))
async def plots(request: Request) -> Response:
    """The plots by name."""
    return respond(await cache_of(request).ask_once(questions.plots))


@router.get(
    "/plots/{name}",
    **shaped(dict[str, Any], codes=(404,), openapi_extra=parameters("The parameters of the plot's query.")),
)
async def plot(request: Request, name: _Name) -> Response:
    """A plot as Vega-Lite, with its data inside."""
    return respond(await cache_of(request).ask(questions.plot, name, _values(request)))


_Budget = Annotated[
    str | None,
    Query(description="FLOPs (1e21), or a share of the target's (10%).", max_length=40, examples=["10%"]),
]
_Share = Annotated[float | None, Query(ge=0, le=1)]
_Count = Annotated[int | None, Query(ge=1, le=2**53)]


@router.get("/recommend", **shaped(contract.Recommendation))
async def recommend(
    request: Request,
    suite: _SuiteName = None,
    target: _CheckpointName = None,
    budget: _Budget = None,
    recall: _Share = None,
    min_precision: _Share = None,
    max_flagged: _Count = None,
    unit: _Unit = "sequences",
    forecast: bool = False,
) -> Response:
    """Which cheap run to pay for, to know what the target will memorize."""
    if budget is None and recall is None:
        raise BadInput("specify budget (such as 10%) or recall (such as 0.9)")
    return respond(
        await cache_of(request).ask(
            questions.recommend,
            suite, target, budget, recall, min_precision, max_flagged, unit, forecast, False,
        )
    )  # fmt: skip


@router.get("/recommend/grid", **shaped(contract.Recommendation))
async def grid(
    request: Request,
    suite: _SuiteName = None,
    target: _CheckpointName = None,
    min_precision: _Share = None,
    max_flagged: _Count = None,
    unit: _Unit = "sequences",
    forecast: bool = False,
) -> Response:
    """The best run for each of a grid of budgets."""
    return respond(
        await cache_of(request).ask(
            questions.recommend,
            suite, target, None, None, min_precision, max_flagged, unit, forecast, True,
        )
    )  # fmt: skip


@router.get("/text", **shaped(contract.TextPage))
async def text(
    request: Request,
    suite: _SuiteName = None,
    predictor: _CheckpointName = None,
    target: _CheckpointName = None,
    cell: questions.Cell = "memorized",
    search: Annotated[str | None, Query(min_length=1, max_length=1000, examples=["def "])] = None,
    redact: Annotated[bool, Query(description="Mask what looks private. It misses names.")] = True,
    limit: Annotated[int, Query(ge=1, le=500)] = 20,
    offset: Annotated[int, Query(ge=0, le=2**31 - 1)] = 0,
) -> Response:
    """Memorized windows as text: of the target, or hits, misses and false alarms of a predictor."""
    queue = request.app.state.queue
    data = () if queue is None else tuple(queue.last_with_data().items())
    return respond(
        await cache_of(request).ask(
            questions.text,
            suite, predictor, target, cell, search, redact, limit, offset, _folder(request),
            data,
        )
    )  # fmt: skip
