"""The sequences that a predictor says will be memorized, as a file for whoever takes them out of the data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from memoserve.catalog import explained
from memoserve.catalog.connection import quoted
from memoserve.errors import BadInput
from memoserve.files.whole import writing
from memoserve.memorized.cells import Checkpoint
from memoserve.store import Store

if TYPE_CHECKING:
    import duckdb

Signal = Literal["matches", "matched_prefix", "continuation_ll"]
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
    predictors: Sequence[Checkpoint],
    target: Checkpoint | None,
    output: Path,
    *,
    signal: Signal | None = None,
    threshold: float | None = None,
) -> Export:
    """Write the sequences that a predictor has seen and memorized, or any of several (their union).

    With `threshold` what has a `signal` of at least that: matches, matched_prefix, continuation_ll; by
    default matches, or the matched prefix where the store has no more (extract runs), and 32 is memorized.
    One row a sequence, in order of ids: sequence_id, predictor (all that predict it, joined by +), their
    highest matches, matched_prefix and continuation_ll, window_id, occurrences (rows with that window; NULL
    if windows aren't numbered), and with a `target` target_memorized (NULL where it has not seen it or was
    not evaluated on it). Parquet carries fingerprint, predictor and line under the key `memoserve`; .txt is
    one id a line. `connection` must be allowed to write. Whole or not at all. Raises BadInput for another
    ending, or a line that the scores can't answer, StorageFailed if the file system refuses.
    """
    suffix = output.suffix.lower()
    if suffix not in SUFFIXES:
        raise BadInput(f"{output}: name a file that ends in {', '.join(SUFFIXES)}")
    suite, names = predictors[0].suite, " + ".join(map(str, predictors))
    parts = [_predicted(connection, store, one, signal, threshold) for one in predictors]
    outcome = ""
    if target is not None:
        its = _where(target)
        outcome = f""",
            CASE WHEN sequence_id < {target.seen:d}
                 AND sequence_id IN (SELECT sequence_id FROM scores WHERE {its})
                 THEN sequence_id IN (SELECT sequence_id FROM memorized WHERE {its})
            END AS target_memorized"""
    predicted = f"""
        SELECT sequence_id, predictor, matches, matched_prefix, continuation_ll, window_id,
            CASE WHEN window_id IS NOT NULL THEN count(*) OVER (PARTITION BY window_id) END
            AS occurrences{outcome}
        FROM (
            SELECT sequence_id, string_agg(predictor, ' + ' ORDER BY place) AS predictor,
                max(matches) AS matches, max(matched_prefix) AS matched_prefix,
                max(continuation_ll) AS continuation_ll
            FROM (
                SELECT {quoted(str(predictors[0]))} AS predictor, 0 AS place, * FROM ({parts[0]})
                {"".join(
                    f"UNION ALL SELECT {quoted(str(one))}, {place:d}, * FROM ({part})"
                    for place, (one, part) in enumerate(zip(predictors, parts, strict=True)) if place
                )}
            ) GROUP BY sequence_id
        )
        LEFT JOIN (SELECT sequence_id, window_id FROM sequences WHERE suite = {quoted(suite)})
        USING (sequence_id)
        """  # fmt: skip
    with explained(store.path):
        connection.execute(f"CREATE OR REPLACE TEMP TABLE predicted AS {predicted} ORDER BY sequence_id")
    rows = _one(connection, store, "SELECT count(*) FROM predicted")
    said = json.dumps(
        {
            "fingerprint": store.fingerprint(suite),
            "suite": suite,
            "predictor": names,
            "signal": signal,
            "threshold": threshold,
            "target": None if target is None else str(target),
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
    if target is None:
        return Export(rows, None, None)
    return Export(
        rows,
        _one(connection, store, "SELECT count(*) FROM predicted WHERE target_memorized"),
        _one(connection, store, "SELECT count(*) FROM predicted WHERE NOT target_memorized"),
    )


def _where(one: Checkpoint) -> str:
    return f"suite = {quoted(one.suite)} AND model = {quoted(one.model)} AND step = {one.step:d}"


def _predicted(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    predictor: Checkpoint,
    signal: Signal | None,
    threshold: float | None,
) -> str:
    """SQL of what one predictor flags. Raises BadInput where its scores can't tell."""
    scores = f"scores WHERE {_where(predictor)}"
    value = signal or "coalesce(matches, matched_prefix)"
    if threshold is None or (threshold == 32 and signal is None):
        flagged = "(matched_prefix = 32 OR (matched_prefix IS NULL AND matches = 32))"
    else:
        unknown = f"SELECT count(*) FROM (FROM {scores} AND {value} IS NULL LIMIT 1)"
        if _one(connection, store, unknown):
            raise BadInput(
                f"--threshold {threshold:g}: of {predictor} the store knows only what it memorized, not how "
                "many tokens of the others matched; leave the threshold out"
                if signal is None
                else f"--signal {signal}: the store has none for some scores of {predictor}"
                + (": run with --loglik" if signal == "continuation_ll" else "")
            )
        flagged = f"{value} >= {threshold!r}::DOUBLE"
    return (
        f"SELECT sequence_id, matches, matched_prefix, continuation_ll FROM {scores} AND {flagged} "
        f"AND sequence_id < {predictor.seen:d}"
    )


def _one(connection: duckdb.DuckDBPyConnection, store: Store, sql: str) -> int:
    with explained(store.path):
        row = connection.execute(sql).fetchone()
    assert row is not None
    return int(row[0])
