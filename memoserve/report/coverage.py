"""What a store holds, for its status, the service and the report: checkpoints with scores, and checks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memoserve.catalog import explained

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class SuiteChecks:
    """counts: result -> how many checks came to it, the most first; failed: name, subject, detail of each."""

    counts: dict[str, int] = field(default_factory=dict)
    failed: list[dict[str, str]] = field(default_factory=list)


def checks_by_suite(
    connection: duckdb.DuckDBPyConnection, failed_at_most: int | None = None
) -> dict[str, SuiteChecks]:
    """What was verified of each suite; `failed_at_most`: of all suites' failed checks no more than these."""
    found: dict[str, SuiteChecks] = defaultdict(SuiteChecks)
    for suite, result, count in connection.execute(
        "SELECT suite, result, count(*) FROM checks GROUP BY ALL ORDER BY count(*) DESC, result"
    ).fetchall():
        found[suite].counts[result] = count
    limit = "" if failed_at_most is None else f" LIMIT {failed_at_most:d}"
    for suite, name, subject, detail in connection.execute(
        f"SELECT suite, name, subject, detail FROM checks WHERE result = 'failed' ORDER BY ALL{limit}"
    ).fetchall():
        found[suite].failed.append({"name": name, "subject": subject, "detail": detail})
    return found


def coverage(
    connection: duckdb.DuckDBPyConnection, suite: str | None, store: str | Path
) -> list[dict[str, Any]]:
    """The checkpoints of the suite (the first evaluated one), evaluated or not."""
    columns = (
        "suite", "model", "step", "checkpoint", "seen", "evaluated", "trained", "training_flops",
        "same_weights_as",
    )  # fmt: skip
    with explained(store):
        rows = connection.execute(
            "SELECT suite, model, step, checkpoint, least(sequences_seen, trained) AS seen, evaluated, "
            "trained, "
            "training_flops, same_weights_as FROM checkpoints "
            "WHERE suite = coalesce(?, (SELECT min(suite) FROM checkpoints "
            "WHERE evaluated > 0)) ORDER BY model_order, step",
            [suite],
        ).fetchall()
    return [dict(zip(columns, row, strict=True)) for row in rows]
