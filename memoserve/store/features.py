"""The columns of features, and where they stand in a store.

Features are what is known of an evaluated window without any model. A part of them is like a part of scores:
whole or absent, with a checksum, rows ascending by sequence_id. They have a fingerprint of their own, with
the recipe that they were made by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from memoserve.store.columns import Column

RECIPE = 1
"""Rises whenever a column comes to mean something else: parts of two recipes never stand side by side."""

RUN_LENGTHS = (8, 16, 32)
"""Tokens of the runs that are counted in the training data."""


@dataclass(frozen=True)
class Feature(Column):
    """A column of features: what it means, and the module of memoserve.features that computes it."""

    meaning: str = ""
    by: str = ""


def _count(name: str, by: str, meaning: str, arrow: str = "uint32") -> Feature:
    physical = "INT64" if arrow.endswith("64") else "INT32"
    sql = {"int64": "BIGINT", "uint32": "UINTEGER", "int32": "INTEGER",
           "uint8": "UTINYINT"}[arrow]  # fmt: skip
    return Feature(name, arrow, physical, sql, dictionary=True, meaning=meaning, by=by)


def _id(name: str, by: str, meaning: str, *, required: bool = False) -> Feature:
    return Feature(name, "int64", "INT64", "BIGINT", required, encoding="DELTA_BINARY_PACKED",
                   meaning=meaning, by=by)  # fmt: skip


def _number(name: str, by: str, meaning: str) -> Feature:
    return Feature(name, "float32", "FLOAT", "FLOAT", encoding="BYTE_STREAM_SPLIT", meaning=meaning, by=by)


def _runs() -> tuple[Feature, ...]:
    found = []
    for half in ("context", "continuation"):
        for length in RUN_LENGTHS:
            each = f"of the {half}'s runs of {length} tokens"
            found += [
                _count(f"{half}_runs{length}_least", "runs",
                       f"how often the rarest {each} stands in training sequences, at any offset", "int64"),
                _number(f"{half}_runs{length}_mean_log", "runs", f"mean of ln(1 + n) {each}, n how often"),
            ]  # fmt: skip
    return tuple(found)


FEATURES: tuple[Feature, ...] = (
    _id("sequence_id", "windows", "the sequence", required=True),
    _id("window_number", "windows", "the least of the sequences here that have this window"),
    _count("occurrences", "corpus", "training sequences that begin with this window"),
    _id("last_occurrence", "corpus", "the last of them; NULL where there is none"),
    _count("steps_since_last", "table", "training steps after the one that read it, to the end", "int32"),
    Feature("occurrence_ids", "list<int64>", "INT64", "BIGINT[]", encoding="DELTA_BINARY_PACKED", by="corpus",
            meaning="all of them, ascending, where there are several: once a window, at its window_number"),
    *_runs(),
    _id("cluster", "near_duplicates", "the least window_number among its near-duplicates"),
    _count("cluster_windows", "near_duplicates", "distinct windows in that cluster, 1 if it is alone"),
    _number("continuation_frequency_mean_log", "tokens",
            "mean over the continuation's tokens of ln((1 + n) / (1 + N)): n of the N training tokens"),
    _number("continuation_frequency_least_log", "tokens", "the least of these"),
    _count("zlib_bytes", "compression", "bytes of the window compressed by zlib, level 9", "uint32"),
    _count("continuation_zlib_bytes", "compression", "of which the continuation added", "int32"),
    _count("corpus_zstd_bytes", "compression",
           "bytes of the window compressed by Zstandard with a dictionary of the training data; NULL where "
           "the library is not installed", "uint32"),
    _count("distinct_tokens", "patterns", "distinct tokens in the continuation", "uint8"),
    _number("repetition_share", "patterns",
            "greatest share of the continuation's tokens that equal the one p before, p from 1 to 32"),
    _count("repetition_period", "patterns", "the least such p; NULL where no token repeats", "uint8"),
    _count("incrementing_numbers", "patterns",
           "most numbers in the text, each, each 2nd or each 3rd, that rise or fall by one difference; NULL "
           "without a tokenizer", "uint8"),
    *(_number(f"{kind}_share", "tokens", f"share of the text's characters that are {what}, NULL likewise")
      for kind, what in (("letter", "letters"), ("digit", "digits"), ("code", "punctuation as in code"),
                         ("whitespace", "white space"))),
    _count("document_position", "tokens",
           "tokens between the context's last end-of-text and the continuation; NULL without one", "uint32"),
    _count("document_end", "tokens",
           "tokens of the continuation before its first end-of-text; NULL without one", "uint8"),
)  # fmt: skip

ADDED = re.compile(r"^features/suite=([^/]*)/added-([^/]*)\.parquet$")
"""A table that somebody added, by its name in the store: its suite and its name."""

NOT_FEATURES = frozenset({"suite", "sequence_id", "window_number", "occurrence_ids", "cluster",
                          "last_occurrence"})  # fmt: skip
"""Columns that number something, and predict nothing."""


def features_folder(suite: str) -> str:
    """Where the features of a suite's sequences are in a store."""
    return f"features/suite={suite}"


def added_name(suite: str, name: str) -> str:
    """Where a table that was added to them is."""
    return f"{features_folder(suite)}/added-{name}.parquet"
