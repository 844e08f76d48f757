"""The score store: a directory of Parquet parts, each there whole or not at all."""

from memoserve.store.parts import Part, missing_ranges
from memoserve.store.scores import Scores
from memoserve.store.store import DEFAULT_STORE, MARK, Store

__all__ = ["DEFAULT_STORE", "MARK", "Part", "Scores", "Store", "missing_ranges"]
