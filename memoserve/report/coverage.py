"""What a store holds, for its status, the service and the report: checkpoints with scores, and checks."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from memoserve.catalog import Catalog, StoredCheckpoint, explained
from memoserve.store import Part, Store, foreign_parts


@dataclass(frozen=True)
class SuiteChecks:
    """counts: result -> how many checks came to it, the most first; failed: name, subject, detail of each."""

    counts: dict[str, int] = field(default_factory=dict)
    failed: list[dict[str, str]] = field(default_factory=list)


def checks_by_suite(catalog: Catalog, failed_at_most: int | None = None) -> dict[str, SuiteChecks]:
    """What was verified of each suite; `failed_at_most`: of all suites' failed checks no more than these."""
    found: dict[str, SuiteChecks] = defaultdict(SuiteChecks)
    for suite, result, count in catalog.rows(
        "SELECT suite, result, count(*) FROM checks GROUP BY ALL ORDER BY count(*) DESC, result"
    ):
        found[suite].counts[result] = count
    for suite, name, subject, detail in catalog.rows(
        "SELECT suite, name, subject, detail FROM checks WHERE result = 'failed' ORDER BY ALL LIMIT ?",
        [failed_at_most],
    ):
        found[suite].failed.append({"name": name, "subject": subject, "detail": detail})
    return found


def coverage(catalog: Catalog, suite: str | None) -> list[StoredCheckpoint]:
    """The checkpoints of the suite, by default of the first evaluated one, evaluated or not."""
    every = catalog.checkpoints()
    first = min((one.suite for one in every if one.evaluated), default=None)
    return [one for one in every if one.suite == (first if suite is None else suite)]


def store_checks(directory: str) -> list[dict[str, Any]]:
    """What was verified of all suites of a store, as JSON has it: the newest of each, what failed first.

    Raises StoreConflict if there is no store, BadInput for a damaged file.
    """
    with Catalog.open(directory) as catalog:
        rows = catalog.records("checks")
    return [{**row, "checked_at": f"{row['checked_at'].isoformat(timespec='seconds')}Z"} for row in rows]


def store_status(directory: str) -> dict[str, Any]:
    """What a store holds, as JSON has it.

    Raises StoreConflict if there is no store, BadInput for a damaged part.
    """
    store = Store.open(directory)
    with Catalog.open(directory) as catalog, explained(directory):
        checkpoints = catalog.checkpoints()
        memorized = _memorized(catalog)
        checks = checks_by_suite(catalog)
    suites = []
    for suite in store.suites():
        in_suite = [one for one in checkpoints if one.suite == suite]
        parts = {one: store.parts(suite, one.model, one.step) for one in in_suite if one.evaluated}
        foreign = foreign_parts(store.files, chain.from_iterable(parts.values()), store.fingerprint(suite))
        suites.append(
            {
                "suite": suite,
                "fingerprint": store.fingerprint(suite),
                "checkpoints_in_suite": len(in_suite),
                "checkpoints": [_checkpoint_status(one, parts[one], memorized) for one in parts],
                "foreign_parts": [part.path for part in foreign],
                "same_weights": [
                    {"checkpoint": one.name, "same_weights_as": one.same_weights_as}
                    for one in in_suite
                    if one.same_weights_as is not None
                ],
                "checks": checks[suite].counts,
                "failed_checks": checks[suite].failed,
            }
        )
    return {"store": str(directory), "suites": suites}


def _memorized(catalog: Catalog) -> dict[tuple[str, str], tuple[int, int]]:
    """(suite, checkpoint) -> how many training and how many held-out sequences it memorized."""
    rows = catalog.rows(
        """
        SELECT suite, checkpoint, count(*) FILTER (sequence_id < trained),
               count(*) FILTER (sequence_id >= trained)
        FROM memorized JOIN checkpoints USING (suite, model, step) GROUP BY suite, checkpoint
        """
    )
    return {(suite, checkpoint): (of_training, control) for suite, checkpoint, of_training, control in rows}


def _checkpoint_status(
    one: StoredCheckpoint, parts: Sequence[Part], memorized: Mapping[tuple[str, str], tuple[int, int]]
) -> dict[str, Any]:
    of_training, control = memorized.get((one.suite, one.name), (0, 0))
    # Scored before that was known; no query but counts uses it unless it is named.
    twin = {} if one.same_weights_as is None else {"same_weights_as": one.same_weights_as}
    return {
        "checkpoint": one.name,
        "parts": len(parts),
        "first": parts[0].first,
        "last": parts[-1].last,
        "evaluated": one.evaluated,
        "sequences_seen": one.sequences_seen,
        "memorized": of_training,
        "control_memorized": control,
    } | twin
