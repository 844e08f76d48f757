"""Which sequences: those that a target memorized, or a cell of predictor against target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from memoserve.catalog import Catalog, StoredCheckpoint, explained
from memoserve.catalog.statements import statement
from memoserve.errors import BadInput, did_you_mean

Cell = Literal["memorized", "hit", "miss", "false-alarm"]
CELLS: tuple[Cell, ...] = ("memorized", "hit", "miss", "false-alarm")


@dataclass(frozen=True)
class Pair:
    """A target, and the predictor if there is one."""

    target: StoredCheckpoint
    predictor: StoredCheckpoint | None


@dataclass(frozen=True)
class Row:
    """A window of a cell: its first sequence, number (None: not numbered) and occurrences in the cell."""

    sequence_id: int
    window_id: int | None
    occurrences: int


def choose(catalog: Catalog, suite: str | None, target: str | None, predictor: str | None) -> Pair:
    """The checkpoints by name; by default the first evaluated suite, and its largest model's last step that
    has weights of its own.

    Raises BadInput for what is not evaluated, saying what is.
    """
    evaluated = catalog.checkpoints(evaluated=True)
    if not evaluated:
        raise BadInput(f"{catalog.store} holds no scores yet: memoserve run fills it")
    suites = sorted({one.suite for one in evaluated})
    suite = suites[0] if suite is None else suite
    if suite not in suites:
        raise BadInput(
            f"suite {suite!r} has no scores in this store{did_you_mean(suite, suites)}; it holds "
            + ", ".join(suites)
        )
    known = [one for one in evaluated if one.suite == suite]
    usual = [one for one in known if one.same_weights_as is None]
    return Pair(
        (usual or known)[-1] if target is None else _find(known, target, "--target"),
        None if predictor is None else _find(known, predictor, "--predictor"),
    )


def _find(known: Sequence[StoredCheckpoint], name: str, option: str) -> StoredCheckpoint:
    for one in known:
        if str(one) == name:
            return one
    shown = ", ".join(map(str, known[:30])) + (f" and {len(known) - 30} more" if len(known) > 30 else "")
    raise BadInput(
        f"{option} {name}: no such checkpoint is evaluated in this store"
        f"{did_you_mean(name, map(str, known))}. Evaluated: {shown}"
    )


def rows_of(
    catalog: Catalog,
    pair: Pair,
    cell: Cell,
    limit: int | None,
    offset: int = 0,
) -> Iterator[Row]:
    """The windows of a cell, each once, in order of their first sequence; at most `limit` after `offset`.

    Raises BadInput for a cell that needs a predictor and has none.
    """
    with explained(catalog.store):
        result = catalog.connection.execute(
            statement(__file__, "cell"), _cell(pair, cell) | {"limit": limit, "offset": offset}
        )
        while rows := result.fetchmany(1024):
            yield from (Row(*row[:3]) for row in rows)


def emergent_rows(catalog: Catalog, target: StoredCheckpoint, threshold: float, limit: int) -> list[Row]:
    """What the target memorized though every smaller model scores below `threshold`: the query emergent."""
    found = catalog.records(
        "emergent", suite=target.suite, target=str(target), threshold=threshold, rows=limit
    )
    return [Row(row["sequence_id"], row["window_id"], row["occurrences"] or 1) for row in found]


def count_rows(catalog: Catalog, pair: Pair, cell: Cell) -> int:
    """How many windows a cell has. Raises BadInput as rows_of does."""
    rows = catalog.rows(statement(__file__, "cell"), _cell(pair, cell) | {"limit": 1, "offset": 0})
    return int(rows[0][3]) if rows else 0


def _cell(pair: Pair, cell: Cell) -> dict[str, object]:
    """The parameters that say which cell."""
    target, predictor = pair.target, pair.predictor
    if cell != "memorized" and predictor is None:
        raise BadInput(f"--cell {cell} compares two checkpoints: say which --predictor")
    return {
        "cell": cell,
        "suite": target.suite,
        "target_model": target.model,
        "target_step": target.step,
        "target_seen": target.seen,
        "predictor_model": None if predictor is None else predictor.model,
        "predictor_step": None if predictor is None else predictor.step,
        "predictor_seen": None if predictor is None else min(predictor.seen, target.seen),
    }


def matches_of(
    catalog: Catalog, checkpoint: StoredCheckpoint, ids: Sequence[int]
) -> dict[int, tuple[int | None, int | None, int | None]]:
    """(matches, matched_prefix, match_mask) of a checkpoint, by sequence id; without those not evaluated."""
    if not ids:
        return {}
    rows = catalog.rows(
        "SELECT sequence_id, matches, matched_prefix, match_mask FROM scores "
        "WHERE suite = ? AND model = ? AND step = ? AND sequence_id BETWEEN ? AND ? "
        "AND sequence_id IN (SELECT unnest(?::BIGINT[]))",
        [checkpoint.suite, checkpoint.model, checkpoint.step, min(ids), max(ids), list(ids)],
    )
    return {row[0]: (row[1], row[2], row[3]) for row in rows}
