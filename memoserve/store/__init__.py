"""The score store: a directory of Parquet parts, each there whole or not at all."""

from memoserve.store.parts import Part, foreign_parts, missing_ranges
from memoserve.store.scores import Scores
from memoserve.store.store import DEFAULT_STORE, MARK, Store

__all__ = ["DEFAULT_STORE", "MARK", "Part", "Scores", "Store", "foreign_parts", "missing_ranges"]
