"""The columns of a store's files: what is written, read, verified and shown follows from these lists.

A file may lack a column that isn't required (written by an earlier version, or by a mode that doesn't give
it) and may hold more (written by a later one): what a list doesn't name is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column: its name, its type in Arrow, in Parquet (physical) and in DuckDB, and how it is encoded.

    `highest`: the largest value that it may have, from 0 on, if it has one. `encoding`: Parquet's, None for
    the writer's choice; `dictionary`: whether values are written through a dictionary; `compression` and
    `level`: as pyarrow names them.
    """

    name: str
    arrow: str
    physical: str
    sql: str
    required: bool = False
    highest: int | None = None
    encoding: str | None = None
    dictionary: bool = False
    compression: str = "zstd"
    level: int = 1

    @property
    def leaf(self) -> str:
        """What Parquet calls its values."""
        return f"{self.name}.list.element" if self.arrow.startswith("list<") else self.name


# Match masks are most of a score store's bytes and no query reads them: brotli's first level that weighs what
# follows what (10) keeps them within a tenth of their entropy, at 4 microseconds a row written and 0.04 read;
# zstd's best is an eighth over (scripts/bench_store.py layouts, docs/scale.md).
SCORES = (
    Column("sequence_id", "int64", "INT64", "BIGINT", required=True, encoding="DELTA_BINARY_PACKED"),
    Column("matches", "uint8", "INT32", "UTINYINT", highest=32, dictionary=True),
    Column("matched_prefix", "uint8", "INT32", "UTINYINT", highest=32, dictionary=True),
    Column("match_mask", "uint32", "INT32", "UINTEGER", encoding="PLAIN", compression="brotli", level=10),
    Column("continuation_ll", "float32", "FLOAT", "FLOAT", encoding="BYTE_STREAM_SPLIT"),
)

"""Of a sequence and a checkpoint. Engines give them by these names (memoserve.domain.Matches)."""

MEMORIZED_BY = ("matches", "matched_prefix")
"""Of these columns, scores have at least one: they say what is memorized."""

SEQUENCES = (
    Column("sequence_id", "int64", "INT64", "BIGINT", required=True, encoding="DELTA_BINARY_PACKED"),
    Column("window_id", "int64", "INT64", "BIGINT", required=True, encoding="PLAIN"),
)

DESCRIPTION = (
    Column("model", "string", "BYTE_ARRAY", "VARCHAR", required=True),
    Column("step", "int64", "INT64", "BIGINT", required=True),
    Column("model_order", "int32", "INT32", "INTEGER", required=True),
    Column("parameters", "int64", "INT64", "BIGINT", required=True),
    Column("parameters_without_embeddings", "int64", "INT64", "BIGINT", required=True),
    Column("sequences_seen", "int64", "INT64", "BIGINT", required=True),
    Column("tokens_seen", "int64", "INT64", "BIGINT", required=True),
    Column("training_flops", "double", "DOUBLE", "DOUBLE", required=True),
    Column("training_flops_without_embeddings", "double", "DOUBLE", "DOUBLE", required=True),
    Column("trained", "int64", "INT64", "BIGINT", required=True),
)
"""What a suite says of a checkpoint."""

NOTES = (
    Column("weights", "string", "BYTE_ARRAY", "VARCHAR"),
    Column("same_weights_as", "string", "BYTE_ARRAY", "VARCHAR"),
)
"""What runs found out about a checkpoint: the identity of its weights, and as model@step the checkpoint
whose weights these are, if they aren't its own."""

CHECKPOINTS = (*DESCRIPTION, *NOTES)

CHECKS = (
    Column("model", "string", "BYTE_ARRAY", "VARCHAR"),
    Column("step", "int64", "INT64", "BIGINT"),
    Column("name", "string", "BYTE_ARRAY", "VARCHAR", required=True),
    Column("subject", "string", "BYTE_ARRAY", "VARCHAR", required=True),
    Column("result", "string", "BYTE_ARRAY", "VARCHAR", required=True),
    Column("figure", "double", "DOUBLE", "DOUBLE"),
    Column("detail", "string", "BYTE_ARRAY", "VARCHAR"),
    Column("checked_at", "timestamp[us]", "INT64", "TIMESTAMP", required=True),
)
"""One row a comparison (memoserve.checks.Check); checked_at in UTC."""


def schema_of(columns: Iterable[Column]) -> pa.Schema:
    """The Arrow schema of a list of columns."""
    import pyarrow as pa

    return pa.schema([(column.name, _arrow_type(column.arrow)) for column in columns])


def _arrow_type(name: str) -> pa.DataType:
    import pyarrow as pa

    item = name.removeprefix("list<").removesuffix(">")
    return pa.type_for_alias(name) if item == name else pa.list_(pa.type_for_alias(item))


def with_all(table: pa.Table, columns: Iterable[Column]) -> pa.Table:
    """The columns of the list, in its order and types; those that the table lacks are NULL.

    Raises ArrowInvalid for values that don't fit their type.
    """
    import pyarrow as pa

    schema = schema_of(columns)
    return pa.table(
        [
            table.column(field.name).cast(field.type)
            if field.name in table.column_names
            else pa.nulls(len(table), field.type)
            for field in schema
        ],
        schema=schema,
    )


def misfit(found: dict[str, str], columns: Iterable[Column]) -> str | None:
    """What is wrong with a file whose columns have these physical types, by name; None if nothing is."""
    for column in columns:
        if column.name not in found:
            if column.required:
                return f"it lacks the column {column.name}; it has {', '.join(found)}"
        elif found[column.name] != column.physical:
            return f"its column {column.name} is {found[column.name]} and should be {column.physical}"
    return None
