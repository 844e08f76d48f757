"""A pending answer of DuckDB as a reply: JSON for browsers, CSV, Parquet and Arrow for programs."""

from __future__ import annotations

import csv
import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memoserve.catalog import explained
from memoserve.errors import BadInput
from memoserve.queries.output import exact, jsonable
from memoserve.serve.answers.pool import Reply, Workspace
from memoserve.serve.errors import TooMuch

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

Format = Literal["json", "csv", "parquet", "arrow"]

MEDIA: Mapping[Format, str] = {
    "json": "application/json",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}
TRUNCATED = "X-Memoserve-Truncated"

ROWS = 10_000
"""Rows of a JSON answer, unless asked otherwise."""
MOST_ROWS = 100_000
"""Rows of a JSON answer at most: a browser takes them as one piece."""
MOST_JSON = 64 << 20
"""Bytes of a JSON answer: it goes through the memory of the server, files don't."""
MOST_BYTES = 1 << 30
"""Of an answer in any other format."""

_BATCH = 8_192
# Whole numbers beyond this lose digits in a browser.
_EXACT = 1 << 53


def reply_json(content: Any) -> Reply:
    """A reply in JSON. Raises TooMuch for one that is too large for the memory of server and browser."""
    body = encode(content)
    if len(body) > MOST_JSON:
        raise TooMuch(
            f"the answer is larger than {MOST_JSON >> 20} MiB of JSON: ask for fewer rows or columns, or for "
            "format csv, parquet or arrow"
        )
    return Reply(MEDIA["json"], body)


def encode(content: Any) -> bytes:
    """JSON as bytes; what isn't Unicode (half a character out of a token) becomes a replacement."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def value(cell: Any) -> Any:
    """A cell as JSON has it; whole numbers that a browser would round are text."""
    cell = jsonable(cell)
    if isinstance(cell, int) and not -_EXACT <= cell <= _EXACT:
        return str(cell)
    if isinstance(cell, list):
        return [value(part) for part in cell]
    if isinstance(cell, dict):
        return {name: value(part) for name, part in cell.items()}
    return cell


def write(
    workspace: Workspace,
    result: duckdb.DuckDBPyConnection,
    form: Format,
    limit: int | None,
    name: str,
    **about: Any,
) -> Reply:
    """The first `limit` rows of a result in a format; `about` stands beside them in JSON.

    Raises TooMuch for an answer that is too large to send, BadInput for a type that the format lacks.
    """
    if form == "json":
        return _json(workspace, result, min(limit or ROWS, MOST_ROWS), about)
    file = workspace.scratch / f"answer.{form}"
    if form == "csv":
        truncated = _csv(workspace, result, limit, file)
    else:
        truncated = _arrow(workspace, result, limit, file, form)
    headers = {"Content-Disposition": f'attachment; filename="{name}.{form}"'}
    if truncated:
        headers[TRUNCATED] = "true"
    return Reply(MEDIA[form], file=file, headers=headers)


def _json(
    workspace: Workspace, result: duckdb.DuckDBPyConnection, limit: int, about: Mapping[str, Any]
) -> Reply:
    columns = [{"name": column[0], "type": str(column[1])} for column in result.description or ()]
    rows = []
    for batch in _rows(workspace, result, limit + 1):
        rows += [[value(cell) for cell in row] for row in batch]
    return reply_json(
        {"columns": columns, "rows": rows[:limit], "truncated": len(rows) > limit} | dict(about)
    )


def _rows(
    workspace: Workspace, result: duckdb.DuckDBPyConnection, limit: int | None
) -> Iterator[list[tuple[Any, ...]]]:
    """Rows in batches, `limit` of them at most."""
    left = limit
    with explained(workspace.store):
        while left is None or left > 0:
            try:
                batch = result.fetchmany(_BATCH if left is None else min(_BATCH, left))
            except (OverflowError, ValueError) as error:
                raise BadInput(
                    f"the answer has a value that can't be sent ({error}): cast it to text, as in x::VARCHAR"
                ) from None
            if not batch:
                return
            yield batch
            left = None if left is None else left - len(batch)


def _csv(workspace: Workspace, result: duckdb.DuckDBPyConnection, limit: int | None, file: Path) -> bool:
    count = 0
    with file.open("w", encoding="utf-8", errors="replace", newline="") as out:
        rows = csv.writer(out, lineterminator="\n")
        rows.writerow([column[0] for column in result.description or ()])
        for batch in _rows(workspace, result, None if limit is None else limit + 1):
            kept = batch if limit is None else batch[: limit - count]
            rows.writerows([["" if cell is None else exact(cell) for cell in row] for row in kept])
            _check_size(out.tell())
            count += len(batch)
    return limit is not None and count > limit


def _arrow(
    workspace: Workspace,
    result: duckdb.DuckDBPyConnection,
    limit: int | None,
    file: Path,
    form: Literal["parquet", "arrow"],
) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # 1.x has only the older name.
    reader_of: Any = getattr(result, "to_arrow_reader", None) or getattr(result, "fetch_record_batch", None)
    left = limit
    try:
        with explained(workspace.store), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader: pa.RecordBatchReader = reader_of(_BATCH)
        with (
            file.open("wb") as out,
            pq.ParquetWriter(out, reader.schema, compression="zstd")
            if form == "parquet"
            else pa.ipc.new_stream(out, reader.schema) as writer,
        ):
            for batch in _batches(workspace, reader):
                if left is not None and batch.num_rows > left:
                    writer.write_batch(batch.slice(0, left))
                    return True
                writer.write_batch(batch)
                _check_size(out.tell())
                left = None if left is None else left - batch.num_rows
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise BadInput(f"{form} can't hold this answer ({error}): cast the column") from None
    return False


def _batches(workspace: Workspace, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    with explained(workspace.store):
        yield from reader


def _check_size(size: int) -> None:
    if size > MOST_BYTES:
        raise TooMuch(
            f"the answer is larger than {MOST_BYTES >> 30} GiB: ask for fewer rows or columns, or read the "
            "store itself"
        )


def names_and_rows(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> dict[str, Any]:
    """A table that memoserve made, with the types of its values."""
    kinds = []
    for index in range(len(columns)):
        values = [row[index] for row in rows if row[index] is not None]
        whole = all(isinstance(v, int) for v in values)
        number = all(isinstance(v, int | float) for v in values)
        kinds.append("BIGINT" if values and whole else "DOUBLE" if values and number else "VARCHAR")
    return {
        "columns": [{"name": name, "type": kind} for name, kind in zip(columns, kinds, strict=True)],
        "rows": [[value(cell) for cell in row] for row in rows],
    }
