"""The sequences that a predictor says will be memorized, as a file for whoever takes them out of the data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from memoserve.catalog import Catalog, StoredCheckpoint
from memoserve.catalog.statements import statement
from memoserve.errors import BadInput
from memoserve.files.whole import writing
from memoserve.store import Store

Signal = Literal["matches", "matched_prefix", "continuation_ll"]


@dataclass(frozen=True)
class Export:
    """What was written, and how it fares against the target (None without one)."""

    rows: int
    hits: int | None
    false_alarms: int | None


def export(
    catalog: Catalog,
    store: Store,
    predictors: Sequence[StoredCheckpoint],
    target: StoredCheckpoint | None,
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
    one id a line. `catalog` must be opened without its sandbox. Whole or not at all. Raises BadInput for
    another ending, or a line that the scores can't answer, StorageFailed if the file system refuses.
    """
    suffix = output.suffix.lower()
    if suffix not in _COPIED:
        raise BadInput(f"{output}: name a file that ends in {', '.join(_COPIED)}")
    _predict(catalog, predictors, signal, threshold)
    if target is not None:
        catalog.rows(
            statement(__file__, "judged"),
            {"suite": target.suite, "model": target.model, "step": target.step, "seen": target.seen},
        )
    ((rows,),) = catalog.rows("SELECT count(*) FROM predicted")
    values = {}
    if suffix == ".parquet":
        made_of = {
            "fingerprint": store.fingerprint(predictors[0].suite),
            "suite": predictors[0].suite,
            "predictor": " + ".join(map(str, predictors)),
            "signal": signal,
            "threshold": threshold,
            "target": None if target is None else str(target),
            "rows": rows,
        }
        values["metadata"] = json.dumps(made_of, sort_keys=True)
    with writing(output) as temporary:
        catalog.rows(_COPIED[suffix], values | {"file": str(temporary)})
    if target is None:
        return Export(rows, None, None)
    ((hits, false_alarms),) = catalog.rows(
        "SELECT count(*) FILTER (target_memorized), count(*) FILTER (NOT target_memorized) FROM predicted"
    )
    return Export(rows, hits, false_alarms)


_COPIED = {
    ".parquet": "COPY (FROM predicted ORDER BY sequence_id) TO $file "
    "(FORMAT parquet, COMPRESSION zstd, KV_METADATA {memoserve: $metadata})",
    ".csv": "COPY (FROM predicted ORDER BY sequence_id) TO $file (FORMAT csv, HEADER true)",
    ".txt": "COPY (SELECT sequence_id FROM predicted ORDER BY sequence_id) TO $file "
    "(FORMAT csv, HEADER false)",
}
"""What is written, by the ending of the file."""


def _predict(
    catalog: Catalog,
    predictors: Sequence[StoredCheckpoint],
    signal: Signal | None,
    threshold: float | None,
) -> None:
    """Make the temporary table `predicted`. Raises BadInput where a predictor's scores can't tell."""
    # A threshold of all 32 tokens asks for what is memorized, which every store knows.
    line = None if threshold == 32 and signal is None else threshold
    catalog.rows(
        "CREATE OR REPLACE TEMP TABLE flagged (predictor VARCHAR, ordinal BIGINT, sequence_id BIGINT, "
        "matches UTINYINT, matched_prefix UTINYINT, continuation_ll FLOAT)"
    )
    for ordinal, one in enumerate(predictors):
        scored = {"suite": one.suite, "model": one.model, "step": one.step, "signal": signal}
        if line is not None:
            ((unknown,),) = catalog.rows(statement(__file__, "unknown"), scored)
            if unknown:
                raise BadInput(_without_signal(one, signal, line))
        flagging = {"predictor": str(one), "ordinal": ordinal, "seen": one.seen, "threshold": line}
        catalog.rows(statement(__file__, "flagged"), scored | flagging)
    catalog.rows(statement(__file__, "predicted"), {"suite": predictors[0].suite})


def _without_signal(predictor: StoredCheckpoint, signal: Signal | None, threshold: float) -> str:
    if signal is None:
        return (
            f"--threshold {threshold:g}: of {predictor} the store knows only what it memorized, not how "
            "many tokens of the others matched; leave the threshold out"
        )
    return f"--signal {signal}: the store has none for some scores of {predictor}" + (
        ": run with --loglik" if signal == "continuation_ll" else ""
    )
