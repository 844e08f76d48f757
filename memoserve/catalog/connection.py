"""A DuckDB connection with the catalog's views."""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from memoserve.errors import BadInput, MemoserveError, StorageFailed
from memoserve.store import Store
from memoserve.store.parts import part_metadata

if TYPE_CHECKING:
    import duckdb

HERE = Path(__file__).parent

# In the order of parts.sql and empty.sql: what the view needs at least one of.
_SCORES, _SEQUENCES = "scores/*/*/*/part-*.parquet", "sequences/*/part-*.parquet"
_GLOBS = (_SCORES, _SCORES, _SEQUENCES, "suites/*/checkpoints.parquet")


def connect(
    store: str | Path, *, sandbox: bool = True, memory_limit: str | None = None, threads: int | None = None
) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the catalog of the store at `store`; close it when done.

    With `sandbox`, SQL on the connection reads no file outside the store, loads nothing and can't change
    settings. That alone doesn't stop it from writing *inside* the store: run what users wrote through
    `memoserve.catalog.execute`. `memory_limit` (such as "4GB") bounds memory; what doesn't fit spills to
    the system's temporary directory. Raises StoreConflict if there is no store, BadInput for a damaged part.
    """
    import duckdb

    path = Store.open(store).path.resolve()
    # One for each connection: two that share a directory would overwrite each other's files. DuckDB makes it
    # when something has to spill, and removes it.
    temporary = Path(tempfile.gettempdir()) / f"memoserve-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    connection = duckdb.connect(config={"temp_directory": str(temporary)})
    try:
        if memory_limit is not None:
            connection.execute(f"SET memory_limit = {quoted(memory_limit)}")
        if threads is not None:
            connection.execute(f"SET threads = {threads:d}")
        connection.execute("SET python_enable_replacements = false")
        with explained(path):
            create_views(connection, path)
        if sandbox:
            for setting in (
                # Both as it is and as it stands in the views' globs.
                f"allowed_directories = [{quoted(f'{path}/')}, '{_literal_glob(path)}/']",
                "enable_external_access = false",
                "autoload_known_extensions = false",
                "autoinstall_known_extensions = false",
                "allow_community_extensions = false",
                "lock_configuration = true",
            ):
                connection.execute(f"SET {setting}")
    except duckdb.Error as error:
        connection.close()
        raise BadInput(f"DuckDB refused a setting: {first_line(error)}") from None
    except MemoserveError:
        connection.close()
        raise
    return connection


def create_views(connection: duckdb.DuckDBPyConnection, store: Path) -> None:
    """Create the catalog's views and macros over the store at the absolute path `store`."""
    import duckdb

    files = duckdb.extract_statements((HERE / "parts.sql").read_text(encoding="utf-8"))
    empty = duckdb.extract_statements((HERE / "empty.sql").read_text(encoding="utf-8"))
    for glob, over_files, without in zip(_GLOBS, files, empty, strict=True):
        there = next(store.glob(glob), None) is not None
        connection.execute(
            over_files.query.replace("@STORE@", _literal_glob(store)) if there else without.query
        )
    connection.execute((HERE / "catalog.sql").read_text(encoding="utf-8"))


@contextmanager
def explained(store: Path) -> Iterator[None]:
    """Turn DuckDB's errors into memoserve's: a damaged part by its name, a full disk, a wrong query."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise BadInput(
            f"the query needs more memory or temporary disk than it may use: {first_line(error)}"
        ) from None
    except duckdb.Error as error:
        # Only these can come from a file; looking through a store's footers is slow.
        if isinstance(
            error, duckdb.IOException | duckdb.InvalidInputException | duckdb.SerializationException
        ):
            _find_damaged(store)
            if "No space left" in str(error):
                raise StorageFailed(
                    f"the temporary directory is full ({first_line(error)}): free some space, or set TMPDIR"
                ) from None
        raise BadInput(readable(error)) from None


def _find_damaged(store: Path) -> None:
    for glob in (_SCORES, _SEQUENCES):
        for path in sorted(store.glob(glob)):
            part_metadata(path)


def readable(error: BaseException) -> str:
    """DuckDB's message with its pointer into the query, without the candidates and stack traces below it."""
    return re.split(r"\n\n(?!LINE )", str(error).strip())[0]


def first_line(error: BaseException) -> str:
    """The first line of a message."""
    return (str(error).splitlines() or [repr(error)])[0]


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def _literal_glob(path: Path) -> str:
    """A path for a glob inside a SQL literal: characters with a meaning in globs stand for themselves."""
    return re.sub(r"([\[*?])", r"[\1]", str(path)).replace("'", "''")
