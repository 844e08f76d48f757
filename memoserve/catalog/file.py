"""The catalog as one file that the stock DuckDB shell opens."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from memoserve.catalog.connection import create_views, explained
from memoserve.errors import BadInput
from memoserve.files.local import LocalFiles
from memoserve.files.whole import writing
from memoserve.queries.identifiers import identifier
from memoserve.store import Store

if TYPE_CHECKING:
    import duckdb

DEFAULT_CATALOG = "catalog.duckdb"

# Every DuckDB 1.x and 2.x reads files of this storage version.
_STORAGE = {"storage_compatibility_version": "v1.0.0"}


def write_catalog(store: str | Path, output: str | Path | None = None, *, embed: bool = False) -> Path:
    """Write the catalog of a store to `output`, and return its path.

    By default that is catalog.duckdb in the store, or for a remote store in the current directory. The file
    holds the views with the store's absolute path or URL, so it works from any folder as long as the store
    stays where it is (and where the reader's DuckDB can reach it), and `checkpoints` as a table, as of now.
    With `embed` the data itself is copied in, and the file works anywhere. It is written whole or not at
    all. Raises StoreConflict if there is no store, BadInput for a damaged part, StorageFailed if the file
    system refuses.
    """
    import duckdb

    files = Store.open(store).files
    beside = Path()
    if isinstance(files, LocalFiles):
        beside = files.path.resolve()
        files = LocalFiles(beside)
    output = beside / DEFAULT_CATALOG if output is None else Path(output)
    if "?" in str(output.absolute()):
        raise BadInput(f"DuckDB can't write a database at a path with a question mark ({output}): use -o")
    with writing(output) as temporary, explained(files.root):
        # A killed process of the same number may have left one.
        temporary.unlink(missing_ok=True)
        with duckdb.connect(str(temporary), config={**_STORAGE}) as connection:
            create_views(connection, files)
            if embed:
                _to_table(connection, "score_parts", "suite", "model", "step", "sequence_id")
                _to_table(connection, "part_rows", "suite", "model", "step", "first")
                _to_table(connection, "score_listings", "suite", "model", "step")
                _to_table(connection, "memorized_listings", "suite", "model", "step", "listing")
                _to_table(connection, "memorized_parts", "suite", "model", "step", "listing", "sequence_id")
                _to_table(connection, "sequence_parts", "suite", "sequence_id")
                _to_table(connection, "sequence_listings", "suite")
                _to_table(connection, "repeat_listings", "suite", "listing")
                _to_table(connection, "repeat_parts", "suite", "listing", "sequence_id")
                _to_table(connection, "checkpoint_parts", "suite", "model_order", "step")
                _to_table(connection, "check_parts", "suite", "checked_at", "name", "subject")
                _to_table(connection, "features", "suite", "sequence_id")
                _to_table(connection, "feature_parts", "suite", "sequence_id")
            _to_table(connection, "checkpoints", "suite", "model_order", "step")
            # This writes the log into the file, so that the file alone is the catalog, and says if it can't.
            connection.execute("CHECKPOINT")
    return output


def _to_table(connection: duckdb.DuckDBPyConnection, view: str, *order: str) -> None:
    connection.execute(
        f"CREATE TABLE copied AS FROM {identifier(view)} ORDER BY {', '.join(map(identifier, order))}"
    )
    connection.execute(f"DROP VIEW {identifier(view)}")
    connection.execute(f"ALTER TABLE copied RENAME TO {identifier(view)}")
