"""The checkpoints of a suite as a table: what the suite says of each, and what runs found out about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from memoserve.domain import SuiteFacts
from memoserve.errors import BadInput
from memoserve.files.base import Files
from memoserve.store import checksum
from memoserve.store.columns import DESCRIPTION, NOTES, schema_of
from memoserve.store.fingerprint import differences
from memoserve.store.layout import checkpoints_name
from memoserve.store.parts import damaged, rows_of

if TYPE_CHECKING:
    import pyarrow as pa

Key = tuple[str, int]
Row = dict[str, Any]

_DESCRIBING = tuple(column.name for column in DESCRIPTION)
_KNOWN = {column.name for column in (*DESCRIPTION, *NOTES)}


def described(suite: SuiteFacts) -> dict[Key, Row]:
    """What a suite says of its checkpoints, by (model, step)."""
    return {
        (c.model.name, c.step): {
            "model": c.model.name,
            "step": c.step,
            "model_order": c.model.order,
            "parameters": c.model.parameters,
            "parameters_without_embeddings": c.model.parameters_without_embeddings,
            "sequences_seen": c.sequences_seen,
            "tokens_seen": c.tokens_seen,
            "training_flops": float(c.training_flops),
            "training_flops_without_embeddings": float(c.training_flops_without_embeddings),
            "trained": suite.trained,
        }
        for c in suite.all_checkpoints()
    }


def description_of(row: Row, known: Row) -> Row:
    """Of a row what a suite says of a checkpoint, as far as `known` says it too."""
    return {name: row[name] for name in _DESCRIBING if name in row and name in known}


def stored_in(files: Files, suite: str) -> pa.Table | None:
    """The whole table as it is, None if there is none. Raises BadInput if it is damaged."""
    import pyarrow as pa

    name = checkpoints_name(suite)
    try:
        content = files.read(name)
        checksum.check(content)
        return rows_of(content)
    except FileNotFoundError:
        return None
    except (pa.ArrowException, ValueError) as error:
        raise damaged(files.location(name), error) from None


def changed(stored: pa.Table, current: Mapping[Key, Row]) -> Iterator[tuple[Key, list[str]]]:
    """Which stored checkpoints are described differently now, where both describe them, and how."""
    for row in stored.to_pylist():
        key = row["model"], row["step"]
        now = current.get(key, {})
        before = description_of(row, now or row)
        if changes := differences(before, {name: now[name] for name in before if name in now}):
            yield key, changes


def merged(stored: pa.Table | None, current: Mapping[Key, Row]) -> pa.Table:
    """The checkpoints as described now, each with what was known of it beyond its description.

    What a later version wrote in columns of its own stays, with their types. What was found out about a
    checkpoint that is described differently now is dropped: it was about another one.
    """
    import pyarrow as pa

    schema = schema_of((*DESCRIPTION, *NOTES))
    before: dict[Key, Row] = {}
    if stored is not None:
        before = {(row["model"], row["step"]): row for row in stored.to_pylist()}
        for field in stored.schema:
            if field.name not in _KNOWN:
                schema = schema.append(field)
    rows = []
    for key, row in current.items():
        old = before.get(key, {})
        if description_of(old, row) != description_of(row, old):
            old = {}
        rows.append({field.name: row.get(field.name, old.get(field.name)) for field in schema})
    return pa.Table.from_pylist(rows, schema.remove_metadata())


def noted(stored: pa.Table, notes: Mapping[Key, tuple[str | None, str | None]]) -> pa.Table:
    """The table with (weights, same_weights_as) of these checkpoints. Raises BadInput for unknown ones."""
    import pyarrow as pa

    rows = stored.to_pylist()
    unknown = notes.keys() - {(row["model"], row["step"]) for row in rows}
    if unknown:
        model, step = min(unknown)
        raise BadInput(f"{model}@{step} is not a checkpoint of the suite that the store was made for")
    for row in rows:
        if (note := notes.get((row["model"], row["step"]))) is not None:
            row["weights"], row["same_weights_as"] = note
    schema = stored.schema
    for field in schema_of(NOTES):
        if field.name not in schema.names:
            schema = schema.append(field)
    return pa.Table.from_pylist(rows, schema)


def file_of(table: pa.Table) -> bytes:
    """The content of the file of a table of checkpoints, with its checksum."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(sink, table.schema, version="2.6", compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({checksum.KEY: checksum.PLACEHOLDER})
    return checksum.seal(sink.getvalue().to_pybytes())
