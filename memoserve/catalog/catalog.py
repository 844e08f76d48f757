"""A store's catalog as one object: what is asked of it, and errors in its words."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from memoserve.catalog.asking import run_query
from memoserve.catalog.checkpoints import ROWS, StoredCheckpoint
from memoserve.catalog.connection import connect, explained
from memoserve.catalog.sandbox import execute
from memoserve.queries.files import Query, find_query

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Catalog:
    """A connection with the catalog's views, and the store that they are of.

    Results are DuckDB's, ready to fetch, and hold until the next question: fetch one before asking again.
    """

    connection: duckdb.DuckDBPyConnection
    store: str | Path

    @classmethod
    def open(
        cls,
        store: str | Path,
        *,
        sandbox: bool = True,
        memory_limit: str | None = None,
        threads: int | None = None,
        spill: Path | None = None,
    ) -> Catalog:
        """The catalog of the store at a path or URL (see `connect`): close it when done, or use `with`."""
        made = connect(store, sandbox=sandbox, memory_limit=memory_limit, threads=threads, spill=spill)
        return cls(made, store)

    def query(self, query: str | Query, /, **values: object) -> duckdb.DuckDBPyConnection:
        """Ask a query, by name or as read from a file, with its parameters: typed, or as text.

        Raises BadInput as `run_query` does.
        """
        found = find_query(query) if isinstance(query, str) else query
        return run_query(self.connection, found, values, self.store)

    def records(self, query: str | Query, /, **values: object) -> list[dict[str, Any]]:
        """All rows of a query's answer, each by its columns. Raises as `query` and `rows` do."""
        with explained(self.store):
            result = self.query(query, **values)
            columns = [column[0] for column in result.description or ()]
            return [dict(zip(columns, row, strict=True)) for row in result.fetchall()]

    def sql(self, statements: str) -> duckdb.DuckDBPyConnection:
        """Run somebody's SQL, which only reads; the result is the last statement's. See `execute`."""
        return execute(self.connection, statements, self.store)

    def checkpoints(self, *, evaluated: bool = False) -> list[StoredCheckpoint]:
        """The checkpoints of all suites, or the evaluated ones, by suite, model's size and step."""
        every = [StoredCheckpoint(*row) for row in self.rows(ROWS)]
        return [one for one in every if one.evaluated] if evaluated else every

    def rows(self, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
        """All rows of one of memoserve's own statements. Raises BadInput and StorageFailed as `explained`."""
        with explained(self.store):
            return self.connection.execute(statement, parameters).fetchall()

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def __enter__(self) -> Catalog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
