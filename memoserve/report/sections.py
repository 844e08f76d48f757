"""The report's sections in words and tables: what goes into their templates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memoserve.catalog import StoredCheckpoint
from memoserve.report.page import answer_of, interval, percent, render
from memoserve.report.rows import Table
from memoserve.store import Store

if TYPE_CHECKING:
    from markupsafe import Markup

    from memoserve.memorized import Piece

_RESULTS = ("passed", "warning", "failed", "not checked")


@dataclass(frozen=True)
class ReportText:
    """A memorized window to show: its context and its continuation."""

    sequence_id: int
    occurrences: int
    context: Sequence[Piece]
    continuation: Sequence[Piece]


@dataclass(frozen=True)
class ReportTexts:
    """Memorized texts for the report, or why there are none."""

    shown: Sequence[ReportText]
    redacted: bool
    missing: str | None = None


def run(store: Store, suite: str, cells: Sequence[StoredCheckpoint], counts: Table) -> Markup:
    """What was run: the checkpoints, the control, the fingerprint."""
    evaluated = [one for one in cells if one.evaluated]
    counted = {row["checkpoint"]: row for row in counts.rows}
    names = (
        "sequences",
        "sequences_memorized",
        "windows",
        "windows_memorized",
        "control",
        "control_memorized",
    )
    rows = []
    for one in evaluated:
        row = counted.get(one.name, {})
        rows.append((one.name, one.seen, *(row.get(name) for name in names)))
    return render(
        "run.html",
        suite=suite,
        cells=cells,
        evaluated=evaluated,
        models=len({one.model for one in evaluated}),
        scores=sum(one.evaluated for one in evaluated),
        held_out=sum(row["control"] or 0 for row in counts.rows),
        found=sum(row["control_memorized"] or 0 for row in counts.rows),
        rows=rows,
        fingerprint=[(key, str(value)) for key, value in sorted(store.fingerprint(suite).items())],
    )


def verified(checks: Table, cells: Sequence[StoredCheckpoint]) -> Markup:
    """What was held against what: counts by check and result, and each one that did not pass."""
    counted: dict[str, dict[str, int]] = {}
    for row in checks.rows:
        results = counted.setdefault(row["name"], dict.fromkeys(_RESULTS, 0))
        results[row["result"]] = results.get(row["result"], 0) + 1
    return render(
        "verified.html",
        twins=[one for one in cells if one.same_weights_as is not None],
        results=_RESULTS,
        counted=[(name, *(row[result] for result in _RESULTS)) for name, row in sorted(counted.items())],
        not_passed=[
            (row["result"], row["name"], row["subject"], row["figure"], row["detail"])
            for row in checks.rows
            if row["result"] != "passed"
        ],
        answer=answer_of(checks),
    )


def answer(predictors: Table, target: str) -> Markup:
    """How well smaller models predict the target, by sequences and by windows."""
    units = []
    for unit in ("sequences", "windows"):
        rows = [row for row in predictors.rows if row["unit"] == unit]
        if rows:
            units.append(
                {
                    "unit": unit,
                    "memorized": max(row["target_memorized"] for row in rows),
                    "best": max(rows, key=lambda row: row["recall_corpus"] or 0.0),
                    "rows": [_predictor(row) for row in rows],
                }
            )
    return render("answer.html", target=target, units=units, answer=answer_of(predictors))


def _predictor(row: Mapping[str, Any]) -> tuple[Any, ...]:
    shares = (interval(row, name) for name in ("precision", "recall_corpus", "recall_seen"))
    return row["predictor"], percent(row["flops_share"]), *shares, row["both_memorized"]


def limits(store: Store, suite: str, cells: Sequence[StoredCheckpoint], predictors: Table) -> Markup:
    """What the figures don't say, by what was evaluated and how."""
    made_with = store.fingerprint(suite)
    evaluated = [one for one in cells if one.evaluated]
    return render(
        "limits.html",
        cells=len(cells),
        missing=[one.name for one in cells if not one.evaluated],
        partial=[one.name for one in evaluated if one.evaluated < one.seen],
        unevaluated=sum(row["not_evaluated"] or 0 for row in predictors.rows),
        engine=made_with.get("engine"),
        dtype=made_with.get("dtype"),
        imported=str(made_with.get("engine", "")).startswith("imported"),
        extract=made_with.get("mode") == "extract",
    )
