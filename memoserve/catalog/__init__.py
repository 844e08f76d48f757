"""The catalog: DuckDB views over a store's parts, in memory or as one file."""

from memoserve.catalog.asking import run_query
from memoserve.catalog.catalog import Catalog
from memoserve.catalog.checkpoints import StoredCheckpoint
from memoserve.catalog.connection import connect, create_views, explained, kinds_of_parts
from memoserve.catalog.file import DEFAULT_CATALOG, write_catalog
from memoserve.catalog.limits import default_memory, limited
from memoserve.catalog.sandbox import execute

__all__ = [
    "DEFAULT_CATALOG",
    "Catalog",
    "StoredCheckpoint",
    "connect",
    "create_views",
    "default_memory",
    "execute",
    "explained",
    "kinds_of_parts",
    "limited",
    "run_query",
    "write_catalog",
]
