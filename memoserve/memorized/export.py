"""The sequences that a predictor says will be memorized, as a file for whoever takes them out of the data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memoserve.catalog import explained
from memoserve.catalog.connection import quoted
from memoserve.errors import BadInput
from memoserve.memorized.cells import Pair
from memoserve.store import Store, writing

if TYPE_CHECKING:
    import duckdb

SUFFIXES = (".parquet", ".csv", ".txt")


@dataclass(frozen=True)
class Export:
    """What was written, and how it fares against the target (None without one)."""

    rows: int
    hits: int | None
    false_alarms: int | None


def export(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    pair: Pair,
    with_target: bool,
    threshold: int,
    output: Path,
) -> Export:
    """Write the sequences that `pair.predictor` has seen and matches in `threshold` tokens or more.

    Below 32 the number of matching tokens decides, or the matched prefix where the store has no more
    (extract runs). One row a sequence, in order of ids: sequence_id, predictor, matches, matched_prefix,
    continuation_ll, window_id, occurrences (rows with that window; NULL if windows aren't numbered), and
    with `with_target` target_memorized (NULL where the target has not seen it or was not evaluated on it).
    Parquet carries fingerprint, predictor and threshold under the key `memoserve`; .txt is one id a line.
    `connection` must be allowed to write. Whole or not at all. Raises BadInput for another ending, or a
    threshold that the scores can't answer, StorageFailed if the file system refuses.
    """
    p, t = pair.predictor, pair.target
    assert p is not None
    suffix = output.suffix.lower()
    if suffix not in SUFFIXES:
        raise BadInput(f"{output}: name a file that ends in {', '.join(SUFFIXES)}")
    if not 0 <= threshold <= 32:
        raise BadInput(f"--threshold {threshold}: it is a number of the 32 tokens, 0 to 32")
    scores = f"scores WHERE suite = {quoted(p.suite)} AND model = {quoted(p.model)} AND step = {p.step:d}"
    unknown = f"SELECT count(*) FROM (FROM {scores} AND coalesce(matches, matched_prefix) IS NULL LIMIT 1)"
    if threshold < 32 and _one(connection, store, unknown):
        raise BadInput(
            f"--threshold {threshold}: of {p} the store knows only what it memorized, not how many tokens of "
            "the others matched; leave it at 32"
        )
    is_predicted = (
        "(matched_prefix = 32 OR (matched_prefix IS NULL AND matches = 32))"
        if threshold == 32
        else f"coalesce(matches, matched_prefix) >= {threshold:d}"
    )
    outcome = ""
    if with_target:
        its = f"suite = {quoted(t.suite)} AND model = {quoted(t.model)} AND step = {t.step:d}"
        outcome = f""",
            CASE WHEN sequence_id < {t.seen:d}
                 AND sequence_id IN (SELECT sequence_id FROM scores WHERE {its})
                 THEN sequence_id IN (SELECT sequence_id FROM memorized WHERE {its})
            END AS target_memorized"""
    predicted = f"""
        SELECT sequence_id, {quoted(str(p))} AS predictor, matches, matched_prefix, continuation_ll,
        window_id, CASE WHEN window_id IS NOT NULL THEN count(*) OVER (PARTITION BY window_id) END AS
        occurrences{outcome} FROM (SELECT sequence_id, matches, matched_prefix, continuation_ll FROM
        {scores} AND {is_predicted} AND sequence_id < {p.seen:d}) LEFT JOIN (SELECT sequence_id, window_id
        FROM sequences WHERE suite = {quoted(p.suite)}) USING (sequence_id)
        """
    with explained(store.path):
        connection.execute(f"CREATE OR REPLACE TEMP TABLE predicted AS {predicted} ORDER BY sequence_id")
    rows = _one(connection, store, "SELECT count(*) FROM predicted")
    said = json.dumps(
        {
            "fingerprint": store.fingerprint(p.suite),
            "suite": p.suite,
            "predictor": str(p),
            "threshold": threshold,
            "target": str(t) if with_target else None,
            "rows": rows,
        },
        sort_keys=True,
    )
    columns, options = {
        ".parquet": ("*", f"FORMAT parquet, COMPRESSION zstd, KV_METADATA {{memoserve: {quoted(said)}}}"),
        ".csv": ("*", "FORMAT csv, HEADER true"),
        ".txt": ("sequence_id", "FORMAT csv, HEADER false"),
    }[suffix]
    with writing(output) as temporary, explained(store.path):
        connection.execute(
            f"COPY (SELECT {columns} FROM predicted ORDER BY sequence_id) "
            f"TO {quoted(str(temporary))} ({options})"
        )
    if not with_target:
        return Export(rows, None, None)
    return Export(
        rows,
        _one(connection, store, "SELECT count(*) FROM predicted WHERE target_memorized"),
        _one(connection, store, "SELECT count(*) FROM predicted WHERE NOT target_memorized"),
    )


def _one(connection: duckdb.DuckDBPyConnection, store: Store, sql: str) -> int:
    with explained(store.path):
        row = connection.execute(sql).fetchone()
    assert row is not None
    return int(row[0])
