"""A DuckDB connection with the catalog's views."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from memoserve.errors import BadInput, MemoserveError, StorageFailed
from memoserve.store import Store
from memoserve.store.files import Files, LocalFiles
from memoserve.store.listed import check_list, is_list
from memoserve.store.parts import part_metadata, part_named

if TYPE_CHECKING:
    import duckdb

HERE = Path(__file__).parent

# In the order of parts.sql and empty.sql: what the view needs at least one of.
_SCORES, _SEQUENCES = "scores/*/*/*/part-*.parquet", "sequences/*/part-*.parquet"
_MEMORIZED, _REPEATS = "scores/*/*/*/memorized-*.parquet", "sequences/*/repeats-*.parquet"
_GLOBS = (
    _SCORES,
    _SCORES,
    _SCORES,
    _MEMORIZED,
    _MEMORIZED,
    _SEQUENCES,
    _SEQUENCES,
    _REPEATS,
    _REPEATS,
    "suites/*/checkpoints.parquet",
)


def connect(
    store: str | Path,
    *,
    sandbox: bool = True,
    memory_limit: str | None = None,
    threads: int | None = None,
    spill: Path | None = None,
) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB with the catalog of the store at a path or URL; close it when done.

    With `sandbox`, SQL on the connection reads no file outside the store, loads nothing and can't change
    settings. That alone doesn't stop it from writing *inside* the store: run what users wrote through
    `memoserve.catalog.execute`. `memory_limit` (such as "4GB") bounds memory; what doesn't fit spills to
    the folder `spill`, by default the system's temporary directory, up to half of its free space. Which kinds
    of parts there are (`kinds_of_parts`) is looked up once; parts of those kinds may come and go. What a
    remote store holds is listed anew after some seconds. Raises StoreConflict if there is no store, BadInput
    for a damaged part, StorageFailed if a remote one can't be read.
    """
    import duckdb

    files = Store.open(store).files
    if isinstance(files, LocalFiles):
        files = LocalFiles(files.path.resolve())
    # One for each connection: two that share a directory would overwrite each other's files. DuckDB makes it
    # when something has to spill, and removes it.
    temporary = (spill or Path(tempfile.gettempdir())) / f"memoserve-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    connection = duckdb.connect(config={"temp_directory": str(temporary)})
    try:
        if memory_limit is not None:
            connection.execute(f"SET memory_limit = {quoted(memory_limit)}")
        if threads is not None:
            connection.execute(f"SET threads = {threads:d}")
        connection.execute("SET python_enable_replacements = false")
        if not isinstance(files, LocalFiles):
            # A query opens each part several times; their footers are read once.
            connection.execute("SET parquet_metadata_cache = true")
        with explained(files.root):
            create_views(connection, files)
        if sandbox:
            for setting in (
                # Both as it is and as it stands in the views' globs.
                f"allowed_directories = [{quoted(f'{files.root}/')}, '{_literal_glob(files.root)}/']",
                "enable_external_access = false",
                "autoload_known_extensions = false",
                "autoinstall_known_extensions = false",
                "allow_community_extensions = false",
                # A query may spill, but not take the disk from everybody else.
                f"max_temp_directory_size = '{shutil.disk_usage(temporary.parent).free // 2}B'",
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


def create_views(connection: duckdb.DuckDBPyConnection, files: Files) -> None:
    """Create the catalog's views and macros over a store; a local one by its absolute path."""
    import duckdb

    there: Iterable[bool]
    if isinstance(files, LocalFiles):
        there = kinds_of_parts(files)
    else:
        from memoserve.catalog.remote import register

        remote = register(connection, files)
        there = [bool(remote.glob(files.location(glob))) for glob in _GLOBS]
    over_files = duckdb.extract_statements((HERE / "parts.sql").read_text(encoding="utf-8"))
    empty = duckdb.extract_statements((HERE / "empty.sql").read_text(encoding="utf-8"))
    for found, with_files, without in zip(there, over_files, empty, strict=True):
        connection.execute(
            with_files.query.replace("@STORE@", _literal_glob(files.root)) if found else without.query
        )
    connection.execute((HERE / "catalog.sql").read_text(encoding="utf-8"))


def kinds_of_parts(files: LocalFiles) -> tuple[bool, ...]:
    """Which kinds of parts a local store has at least one of: the views of the others are made empty."""
    return tuple(next(files.path.glob(glob), None) is not None for glob in _GLOBS)


@contextmanager
def explained(store: str | Path) -> Iterator[None]:
    """Turn DuckDB's errors into memoserve's: a damaged part by its name, a full disk, a wrong query."""
    import duckdb

    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise BadInput(
            f"the query needs more memory or temporary disk than it may use: {first_line(error)}"
        ) from None
    except duckdb.Error as error:
        # Only these can come from a file; looking through a store's footers is slow. What Python raises
        # while it reads a remote one is of no particular kind.
        kinds = (duckdb.IOException, duckdb.InvalidInputException, duckdb.SerializationException)
        if isinstance(error, kinds) or type(error) is duckdb.Error:
            _find_damaged(Store(store).files)
            if "No space left" in str(error):
                raise StorageFailed(
                    f"the temporary directory is full ({first_line(error)}): free some space, or set TMPDIR"
                ) from None
        raise BadInput(readable(error)) from None


def _find_damaged(files: Files) -> None:
    """Raise BadInput about the first damaged part or list, StorageFailed if the store can't be read."""
    for top in ("scores", "sequences"):
        for name, entry in files.below(top).items():
            with suppress(FileNotFoundError):  # removed in the meantime, or the whole store is gone
                if (part := part_named(files, name, entry.size)) is not None:
                    part_metadata(files, part)
                elif is_list(name):
                    check_list(files, name)


def readable(error: BaseException) -> str:
    """DuckDB's message with its pointer into the query, without the candidates and stack traces below it."""
    return re.split(r"\n\n(?!LINE )", str(error).strip())[0]


def first_line(error: BaseException) -> str:
    """The first line of a message."""
    return (str(error).splitlines() or [repr(error)])[0]


def quoted(text: str) -> str:
    """A SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def _literal_glob(path: str) -> str:
    """A path for a glob inside a SQL literal: characters with a meaning in globs stand for themselves."""
    return re.sub(r"([\[*?])", r"[\1]", path).replace("'", "''")
