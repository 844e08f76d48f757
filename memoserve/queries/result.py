"""An answer as Python has it: it keeps its data, and DuckDB converts it to whatever goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memoserve.errors import BadInput
from memoserve.queries.answer import Answer
from memoserve.queries.html import as_html, rows_note
from memoserve.queries.identifiers import identifier
from memoserve.queries.output import ENDINGS, arrow_table, fetch, write_answer

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import polars as pl
    import pyarrow as pa

_SHOWN = 20
_SHOWN_IN_HTML = 50
_FETCHED = 10_000
"""Rows that are shown, on a terminal and in a notebook, and that iteration holds as Python's at once."""


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """An answer of a store: rows and columns, with a title and notes about it.

    The data are an Arrow table of its own, whatever is asked next. `len`, iteration (tuples) and everything
    that takes Arrow's stream (polars, pandas, DuckDB) work on it; notebooks show it as a table.

    >>> import pyarrow as pa
    >>> answer = Result(pa.table({"model": ["70m", "12b"], "memorized": [12, 4321]}), "How much?")
    >>> len(answer), answer.columns
    (2, ('model', 'memorized'))
    >>> answer.rows()
    [('70m', 12), ('12b', 4321)]
    >>> answer
    How much?
    model  memorized
    -----  ---------
    70m           12
    12b        4,321
    """

    table: pa.Table
    title: str = ""
    sentences: tuple[str, ...] = ()

    @classmethod
    def of(cls, result: duckdb.DuckDBPyConnection, title: str = "") -> Result:
        """What DuckDB has ready to fetch. Of columns with one name, the later ones get numbers."""
        table = arrow_table(result)
        names: list[str] = []
        for name in table.column_names:
            numbered = (name if n == 0 else f"{name}_{n}" for n in count())
            names.append(next(one for one in numbered if one not in names))
        return cls(table.rename_columns(names), title)

    @property
    def columns(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(self.table.column_names)

    def df(self) -> pd.DataFrame:
        """As a pandas DataFrame. Raises BadInput if pandas is not installed."""
        _require("pandas", "df")
        with self._asked() as (connection, sql):
            return connection.sql(sql).df()

    def pl(self) -> pl.DataFrame:
        """As a polars DataFrame. Raises BadInput if polars is not installed."""
        _require("polars", "pl")
        with self._asked() as (connection, sql):
            return connection.sql(sql).pl()

    def arrow(self) -> pa.Table:
        """As an Arrow table, which costs nothing."""
        return self.table

    def rows(self) -> list[tuple[Any, ...]]:
        """As a list of tuples of Python's values."""
        with self._pending() as pending:
            return pending.fetchall()

    def to(self, path: str | Path) -> None:
        """Write it to a .csv, .json, .parquet or .md file, whole or not at all.

        Raises BadInput for another ending, StorageFailed if the file system refuses.
        """
        file = Path(path)
        if file.suffix.lower() not in ENDINGS:
            raise BadInput(f"{file}: what to write is known by the ending, {', '.join(ENDINGS)}")
        with self._pending() as pending:
            write_answer(pending, ENDINGS[file.suffix.lower()], file)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        with self._pending() as pending:
            while rows := pending.fetchmany(_FETCHED):
                yield from rows

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)

    def __repr__(self) -> str:
        from memoserve.queries.table import table_text

        shown = table_text(self._first(_SHOWN), self.title or None, ".df() has them").rstrip("\n")
        lines = [shown, rows_note(min(len(self), _SHOWN), len(self)) if len(self) else "", *self.sentences]
        return "\n".join(line for line in lines if line)

    def _repr_html_(self) -> str:
        return as_html(self._first(_SHOWN_IN_HTML), len(self), self.title, self.sentences)

    def _first(self, rows: int) -> Answer:
        with self._pending(rows) as pending:
            return fetch(pending)

    @contextmanager
    def _pending(self, rows: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
        """The first rows, or all, ready to fetch."""
        with self._asked(rows) as (connection, sql):
            yield connection.execute(sql)

    @contextmanager
    def _asked(self, rows: int | None = None) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
        """A database of their own with the first rows, or all, and the SQL that selects them."""
        import duckdb
        import pyarrow as pa

        table = self.table if rows is None else self.table.slice(0, rows)
        # Arrow has no whole numbers of 128 bits, which sums are: DuckDB makes them decimals.
        wide = pa.decimal128(38, 0)
        selected = [
            f"{identifier(field.name)}::HUGEINT AS {identifier(field.name)}"
            if field.type == wide
            else identifier(field.name)
            for field in table.schema
        ]
        with duckdb.connect() as connection:
            connection.register("answer", table)
            yield connection, f"SELECT {', '.join(selected)} FROM answer"


def table_of(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    whole: Sequence[str] = (),
    text: Sequence[str] = (),
) -> pa.Table:
    """Rows of Python's values as an Arrow table. `whole`, `text`: types of columns without any value."""
    import pyarrow as pa

    typed: dict[str, Callable[[], Any]] = {
        **dict.fromkeys(whole, pa.int64),
        **dict.fromkeys(text, pa.string),
    }
    arrays = []
    for index, name in enumerate(columns):
        values = pa.array([row[index] for row in rows])
        arrays.append(values.cast(typed.get(name, pa.float64)()) if pa.types.is_null(values.type) else values)
    return pa.table(arrays, names=list(columns))


def _require(package: str, method: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise BadInput(f".{method}() needs {package}, which is not installed: pip install {package}")
