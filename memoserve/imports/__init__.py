"""Imports: scores that others measured, as a store.

Like `run` this brings suite and store together and ends at the store: what is imported is asked through the
same catalog and the same queries as what was measured here, and marked as imported in its fingerprint.
"""

from memoserve.imports.csv_parts import BATCH, CsvImport, csv_files, import_csv
from memoserve.imports.published import (
    DATASET,
    Split,
    SplitImport,
    fetched,
    import_split,
    published_splits,
)

__all__ = [
    "BATCH",
    "DATASET",
    "CsvImport",
    "Split",
    "SplitImport",
    "csv_files",
    "fetched",
    "import_csv",
    "import_split",
    "published_splits",
]
