"""The shapes of what goes over the wire, for the OpenAPI document and for what is sent in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from memoserve.engines import engine_names, known_engine
from memoserve.errors import BadInput
from memoserve.run.events import BY_NAME
from memoserve.run.options import Mode, Options
from memoserve.serve.jobs.progress import Progress
from memoserve.serve.jobs.queue import State

FormatName = Literal["json", "csv", "parquet", "arrow"]

# Control characters can stand in no argument of a command.
_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Error(BaseModel):
    """What is wrong, where, and what to do."""

    error: str


class FailedCheck(BaseModel):
    name: str
    subject: str
    detail: str


class StoredSuite(BaseModel):
    """`checks`: how many came to each result; `failed_checks`: the first hundred of the store."""

    suite: str
    fingerprint: dict[str, Any]
    evaluated_checkpoints: int
    checkpoints: int
    scores: int
    checks: dict[str, int]
    failed_checks: list[FailedCheck]


class StoreOverview(BaseModel):
    """`name`: of its folder, without the way there."""

    name: str
    version: str
    suites: list[StoredSuite]
    read_only: bool
    synthetic: bool


class SuiteLine(BaseModel):
    name: str
    models: list[str]
    checkpoints: int
    description: str


class SuiteModel(BaseModel):
    name: str
    parameters: int
    parameters_without_embeddings: int


class SuiteSequenceCounts(BaseModel):
    trained: int
    control: list[int] | None
    tokens: int | None
    batch_size: int | None
    needs_data: bool


class SuiteDetail(BaseModel):
    name: str
    description: str
    models: list[SuiteModel]
    steps: list[int]
    default_steps: list[int]
    sequences: SuiteSequenceCounts


class AnswerColumn(BaseModel):
    name: str
    type: str


class AnswerRows(BaseModel):
    """A table. Whole numbers beyond 2^53 are text, since a browser would round them."""

    columns: list[AnswerColumn]
    rows: list[list[Any]]
    truncated: bool


class QueryAnswer(AnswerRows):
    """A table with the SQL that gave it and the parameters that were set."""

    sql: str
    values: dict[str, str]


class QueryParameter(BaseModel):
    name: str
    type: str
    default: str
    about: str


class QueryColumn(BaseModel):
    name: str
    about: str


class QueryFile(BaseModel):
    name: str
    title: str
    about: str
    parameters: list[QueryParameter]
    columns: list[QueryColumn]
    sql: str


class PlotEntry(BaseModel):
    name: str
    title: str
    query: str
    reading: str


class Recommendation(BaseModel):
    columns: list[AnswerColumn]
    rows: list[list[Any]]
    sentences: list[str]


class TextPiece(BaseModel):
    text: str
    match: bool


class TextRow(BaseModel):
    sequence_id: int
    window_id: str | None
    cell: str
    context: str
    pieces: list[TextPiece]
    occurrences: int
    compared: str | None
    matches: int | None
    matched_prefix: int | None


class TextPage(BaseModel):
    """`total`: windows of the cell, or of it those that hold the searched text. `searched`: how many were
    looked through, null without a search.
    """

    total: int
    rows: list[TextRow]
    windows: int
    searched: int | None
    target: str
    predictor: str | None
    redacted: bool
    warnings: list[str]


class Statement(BaseModel):
    """SQL that reads."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"sql": "SELECT checkpoint, evaluated FROM checkpoints"}]},
    )

    sql: Annotated[str, Field(min_length=1, max_length=100_000)]
    format: FormatName = "json"
    limit: Annotated[int | None, Field(ge=1, le=2**31 - 1)] = None


def _known_engine(name: str) -> str:
    try:
        return known_engine(name)
    except BadInput as error:
        raise ValueError(str(error)) from None


def _list_engines(schema: dict[str, Any]) -> None:
    schema["enum"] = list(engine_names())


def _list_events(schema: dict[str, Any]) -> None:
    """Into the one of the two that is not null."""
    schema["anyOf"][0]["enum"] = list(BY_NAME)


class SubmittedRequest(BaseModel):
    """A run as it was submitted, in the words of `memoserve run`. Its engine may be gone since."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"suite": "mini", "checkpoints": "116k@1001", "sequences": "0:2000", "mode": "extract"}
            ]
        },
    )

    suite: Annotated[str, Field(pattern=_NAME, max_length=200, description="As /api/suites has it.")] = (
        Options.suite
    )
    checkpoints: Annotated[
        str | None,
        Field(
            pattern=_PRINTABLE,
            max_length=2000,
            description="all, final, or a list such as 70m@143000,12b@*. Default: the suite's own choice.",
        ),
    ] = Options.checkpoints
    sequences: Annotated[
        str | None, Field(pattern=r"^[0-9]{0,18}:[0-9]{0,18}$", description="Range of ids, such as 0:1000.")
    ] = Options.sequences
    sample: Annotated[float | None, Field(gt=0, le=1, description="Random fraction of sequences.")] = (
        Options.sample
    )
    seed: Annotated[int, Field(ge=0, le=2**31 - 1, description="Seed of the sample.")] = Options.seed
    mode: Mode = Options.mode
    loglik: Annotated[bool, Field(description="With extract: also log-likelihoods.")] = Options.loglik
    engine: Annotated[str, Field(description="As /api/engines has it.")] = Options.engine
    data: Annotated[
        str | None,
        Field(pattern=_PRINTABLE, max_length=1000, description="A file in the operator's folder of data."),
    ] = None
    by: Annotated[
        str | None,
        Field(pattern=_PRINTABLE, max_length=100, description="Who submits it, as they call themselves."),
    ] = None
    note: Annotated[str | None, Field(pattern=_PRINTABLE, max_length=500, description="What it is for.")] = (
        None
    )


class Submission(SubmittedRequest):
    """A run to submit, in the words of `memoserve run`."""

    engine: Annotated[
        str,
        AfterValidator(_known_engine),
        Field(description="As /api/engines has it.", json_schema_extra=_list_engines),
    ] = Options.engine


@dataclass(frozen=True)
class RunProgress(Progress):
    """Where a run is. `event`: the name of the last event of `memoserve run --progress json` that says what
    it does, null before the first and of a run that isn't running; `model`: of that engine; `done` of `total`
    sequences of the checkpoint, or of those that are read; `all_done` of `all_total` of all; `seconds_left`:
    what the rest takes if it goes on as it went, null before it has gone on.
    """

    event: Annotated[str | None, Field(json_schema_extra=_list_events)]
    state: State
    message: str


class RunEstimate(BaseModel):
    """What the dry run found: scores to make, and their cost; seconds are null where unknown."""

    sequences: int
    checkpoints: int
    flops: float
    bytes: float
    seconds: float | None


class SubmittedRun(BaseModel):
    """A submitted run. Times are seconds since 1970. `ahead`: how many runs come before a queued one."""

    id: int
    state: State
    request: SubmittedRequest
    estimate: RunEstimate
    ahead: int | None
    created: float
    started: float | None
    ended: float | None
    attempts: int
    cancel_requested: bool
    exit_code: int | None
    message: str
    progress: RunProgress
