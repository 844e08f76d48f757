"""A DuckDB connection with the catalog's views."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from memoserve.errors import BadInput, MemoserveError, StorageFailed
from memoserve.files.base import Files
from memoserve.files.local import LocalFiles
from memoserve.store import Store
from memoserve.store.columns import CHECKPOINTS, CHECKS, SCORES, SEQUENCES, Column
from memoserve.store.features import ADDED, FEATURES
from memoserve.store.listed import check_list, is_list
from memoserve.store.parts import part_metadata, part_named

if TYPE_CHECKING:
    import duckdb

SQL = Path(__file__).parent / "sql"

# In this order: each may use what stands before it.
_TOPICS = (
    "views", "windows", "checkpoints", "intervals", "predictions", "evaluations", "correlation", "chi_square",
    "features",
)  # fmt: skip

# The files that a view reads; where there are none, DuckDB has an error for it, and empty.sql a view.
_SCORES, _SEQUENCES = "scores/*/*/*/part-*.parquet", "sequences/*/part-*.parquet"
_FEATURES = "features/*/part-*.parquet"
_MEMORIZED, _REPEATS = "scores/*/*/*/memorized-*.parquet", "sequences/*/repeats-*.parquet"
_READS = {
    "score_parts": _SCORES,
    "part_rows": _SCORES,
    "misplaced_parts": _SCORES,
    "score_listings": _SCORES,
    "memorized_listings": _MEMORIZED,
    "memorized_parts": _MEMORIZED,
    "sequence_parts": _SEQUENCES,
    "sequence_listings": _SEQUENCES,
    "repeat_listings": _REPEATS,
    "repeat_parts": _REPEATS,
    "checkpoint_parts": "suites/*/checkpoints.parquet",
    "check_parts": "checks/*/checks-*.parquet",
    "feature_parts": _FEATURES,
}
_CREATED = re.compile(r"CREATE VIEW (\w+) AS")

# What DuckDB takes for a column of a folder `key=value` above the store does no harm if nothing asks for it.
_UNREAD_KEY = re.compile(r"[a-z0-9]+", re.IGNORECASE)
_OURS = {"suite", "model", "step", "filename", "listing"} | {c.name for c in (*SCORES, *SEQUENCES)}


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
        if "\\" in files.root:
            raise BadInput(f"{files.root} has a backslash: DuckDB reads it as a separator; rename the folder")
    # One for each connection: two that share a directory would overwrite each other's files. DuckDB makes it
    # when something has to spill, and removes it.
    temporary = (spill or Path(tempfile.gettempdir())) / f"memoserve-{os.getpid()}-{uuid.uuid4().hex[:12]}"
    connection = duckdb.connect(config={"temp_directory": str(temporary)})
    try:
        if memory_limit is not None:
            connection.execute("SET memory_limit = ?", [memory_limit])
        if threads is not None:
            connection.execute("SET threads = ?", [threads])
        connection.execute("SET python_enable_replacements = false")
        if not isinstance(files, LocalFiles):
            # A query opens each part several times; their footers are read once.
            connection.execute("SET parquet_metadata_cache = true")
        with explained(files.root):
            create_views(connection, files)
            _refuse_misplaced(connection)
        if sandbox:
            _restrict(connection, files, shutil.disk_usage(temporary.parent).free // 2)
    except duckdb.Error as error:
        connection.close()
        raise BadInput(f"DuckDB refused a setting: {first_line(error)}") from None
    except MemoserveError:
        connection.close()
        raise
    return connection


def _restrict(connection: duckdb.DuckDBPyConnection, files: Files, spilled: int) -> None:
    """Let the connection read the store and nothing else, spill so many bytes, and keep to that."""
    # Both as it is and as it stands in the views' globs.
    store = [f"{files.root}/", f"{_glob_of(files.root)}/"]
    connection.execute("SET allowed_directories = ?", [store])
    connection.execute("SET enable_external_access = false")
    connection.execute("SET autoload_known_extensions = false")
    connection.execute("SET autoinstall_known_extensions = false")
    connection.execute("SET allow_community_extensions = false")
    # A query may spill, but not take the disk from everybody else.
    connection.execute("SET max_temp_directory_size = ?", [f"{spilled}B"])
    connection.execute("SET lock_configuration = true")


def create_views(connection: duckdb.DuckDBPyConnection, files: Files) -> None:
    """Create the catalog's views and macros over a store; a local one by its absolute path."""
    if isinstance(files, LocalFiles):
        there = {glob: next(files.path.glob(glob), None) is not None for glob in {*_READS.values()}}
    else:
        from memoserve.catalog.remote import register

        remote = register(connection, files)
        there = {glob: bool(remote.glob(files.location(glob))) for glob in {*_READS.values()}}
    store = _glob_of(files.root)
    filled = {
        "@CHECKPOINT_SCHEMA@": _schema(CHECKPOINTS),
        "@CHECK_SCHEMA@": _schema(CHECKS),
        "@SCORE_SCHEMA@": _schema(SCORES),
        "@FEATURE_SCHEMA@": _schema(FEATURES),
    }
    rows = "rows_by_path.sql"
    if not _partitions_mislead(files):
        rows = "rows_by_partition.sql"
        some, all_ = _columns(connection, f"{store}/{_SCORES}") if there[_SCORES] else (set(), set())
        filled["@SCORE_COLUMNS@"] = _typed(SCORES, some)
        filled["@UNION@"] = str(any(c.name in some and c.name not in all_ for c in SCORES)).lower()
    # Last: it may hold what stands for something else. DuckDB takes no parameter in a view.
    filled["@STORE@"] = store.replace("'", "''")
    over_files = _views("parts.sql", filled) | _views(rows, filled)
    for view, empty in _views("empty.sql", _EMPTY).items():
        connection.execute(over_files[view] if there[_READS[view]] else empty)
    connection.execute(_features_view(_added(files), store))
    for topic in _TOPICS:
        connection.execute((SQL / f"{topic}.sql").read_text(encoding="utf-8"))


def _refuse_misplaced(connection: duckdb.DuckDBPyConnection) -> None:
    """Raise BadInput if the scores of one checkpoint lie where those of another belong."""
    found = connection.execute("SELECT path, name FROM misplaced_parts ORDER BY path LIMIT 1").fetchone()
    if found is not None:
        raise BadInput(
            f"the metadata of {found[0]} names a different part, {found[1]}: a folder was renamed, or "
            "exchanged with another, and its scores would count as another checkpoint's. Move it back, or "
            "let memoserve verify --repair move it aside"
        )


def kinds_of_parts(files: LocalFiles) -> tuple[bool | str, ...]:
    """What decides how the views of a local store are made, but for the columns of its parts.

    Of which kinds of parts it has at least one, the views of the others being empty; whether suites and
    models have to be cut from paths; which tables were added to features.
    """
    kinds = dict.fromkeys(_READS.values())
    there = (next(files.path.glob(glob), None) is not None for glob in kinds)
    return (*there, _partitions_mislead(files), *_added(files))


def _views(name: str, filled: Mapping[str, str]) -> dict[str, str]:
    """The statements of a file of views with what is to be filled in, in this order, by the view's name."""
    import duckdb

    sql = (SQL / "files" / name).read_text(encoding="utf-8")
    for mark, text in filled.items():
        sql = sql.replace(mark, text)
    found = {}
    for statement in duckdb.extract_statements(sql):
        created = _CREATED.search(statement.query)
        assert created is not None, statement.query
        found[created[1]] = statement.query
    return found


def _schema(columns: Iterable[Column]) -> str:
    """A list of columns as DuckDB reads them from files of which each may lack some and have others."""
    of_each = (
        f"'{c.name}': {{'name': '{c.name}', 'type': '{c.sql}', 'default_value': NULL}}" for c in columns
    )
    return f"MAP {{{', '.join(of_each)}}}"


def _typed(columns: Iterable[Column], there: Collection[str] = ()) -> str:
    """A list of columns to select, those that are not there as NULL."""
    return ", ".join(f"{c.name if c.name in there else 'NULL'}::{c.sql} AS {c.name}" for c in columns)


_EMPTY = {
    "@SCORE_COLUMNS@": _typed(SCORES),
    "@SEQUENCE_COLUMNS@": _typed(SEQUENCES),
    "@CHECKPOINT_COLUMNS@": _typed(CHECKPOINTS),
    "@CHECK_COLUMNS@": _typed(CHECKS),
    "@FEATURE_COLUMNS@": _typed(FEATURES),
}


def _features_view(added: Collection[str], store: str) -> str:
    """The view of features: the parts, and beside them each table that was added to any suite's.

    `added`: the tables' names, which are letters of identifiers (memoserve.features.added).
    """
    sql = (SQL / "files" / "features.sql").read_text(encoding="utf-8")
    head, _, table = sql.partition("-- For each added table:\n")
    joined = [table.replace("@NAME@", name).replace("@STORE@", store).rstrip() for name in added]
    return head.replace("@ADDED@", "\n".join(joined))


def _added(files: Files) -> list[str]:
    """The names of tables that were added to features."""
    return sorted({match[2] for name in files.below("features") if (match := ADDED.match(name))})


def _columns(connection: duckdb.DuckDBPyConnection, glob: str) -> tuple[set[str], set[str]]:
    """Which columns at least one of these files has, and which all of them have."""
    rows = connection.execute(
        "SELECT name, count(DISTINCT file_name) AS n, max(n) OVER () AS files "
        "FROM parquet_schema(?) GROUP BY name",
        [glob],
    ).fetchall()
    return {name for name, _, _ in rows}, {name for name, n, files in rows if n == files}


def _partitions_mislead(files: Files) -> bool:
    """Whether DuckDB's own reading of folders `key=value` says something else than the store's layout."""
    for folder in files.root.split("/"):
        key, equals, _ = folder.partition("=")
        if equals and (_UNREAD_KEY.fullmatch(key) is None or key.lower() in _OURS):
            return True
    suites = {name for top in ("scores", "sequences") for name in files.names(top)}
    models = {name for suite in suites for name in files.names(f"scores/{suite}")}
    return any(name.partition("=")[2].lower() in ("", "null") for name in suites | models if "=" in name)


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
    for top in ("scores", "sequences", "checks", "features"):
        for name, entry in files.below(top).items():
            with suppress(FileNotFoundError):  # removed in the meantime, or the whole store is gone
                if top == "checks" or ADDED.match(name):
                    check_list(files, name)
                elif (part := part_named(files, name, entry.size)) is not None:
                    part_metadata(files, part)
                elif is_list(name):
                    check_list(files, name)


def readable(error: BaseException) -> str:
    """DuckDB's message with its pointer into the query, without the candidates and stack traces below it."""
    return re.split(r"\n\n(?!LINE )", str(error).strip())[0]


def first_line(error: BaseException) -> str:
    """The first line of a message."""
    return (str(error).splitlines() or [repr(error)])[0]


def _glob_of(path: str) -> str:
    """A path as a glob: characters with a meaning in globs stand for themselves."""
    return re.sub(r"([\[*?])", r"[\1]", path)
