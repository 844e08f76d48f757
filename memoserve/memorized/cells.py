"""Which sequences: those that a target memorized, or a cell of predictor against target."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from memoserve.catalog import Catalog, explained
from memoserve.errors import BadInput, did_you_mean

Cell = Literal["memorized", "hit", "miss", "false-alarm"]
CELLS: tuple[Cell, ...] = ("memorized", "hit", "miss", "false-alarm")


@dataclass(frozen=True)
class Checkpoint:
    """An evaluated checkpoint of the store. `seen`: training sequences it has seen."""

    suite: str
    model: str
    step: int
    seen: int

    def __str__(self) -> str:
        return f"{self.model}@{self.step}"


@dataclass(frozen=True)
class Pair:
    """A target, and the predictor if there is one."""

    target: Checkpoint
    predictor: Checkpoint | None


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
    rows = catalog.rows(
        "SELECT suite, model, step, least(sequences_seen, trained), same_weights_as IS NULL FROM checkpoints "
        "WHERE evaluated > 0 ORDER BY suite, model_order, step"
    )
    if not rows:
        raise BadInput(f"{catalog.store} holds no scores yet: memoserve run fills it")
    suites = sorted({row[0] for row in rows})
    suite = suites[0] if suite is None else suite
    if suite not in suites:
        raise BadInput(
            f"suite {suite!r} has no scores in this store{did_you_mean(suite, suites)}; it holds "
            + ", ".join(suites)
        )
    known = [Checkpoint(*row[:4]) for row in rows if row[0] == suite]
    usual = [Checkpoint(*row[:4]) for row in rows if row[0] == suite and row[4]]
    return Pair(
        (usual or known)[-1] if target is None else _find(known, target, "--target"),
        None if predictor is None else _find(known, predictor, "--predictor"),
    )


def _find(known: Sequence[Checkpoint], name: str, option: str) -> Checkpoint:
    for one in known:
        if str(one) == name:
            return one
    shown = ", ".join(map(str, known[:30])) + (f" and {len(known) - 30} more" if len(known) > 30 else "")
    raise BadInput(
        f"{option} {name}: no such checkpoint is evaluated in this store"
        f"{did_you_mean(name, map(str, known))}. Evaluated: {shown}"
    )


# What each memorized of what it has seen; held-out sequences never count. As in the catalog's
# `predictions`, what one has seen but was not evaluated on is in no cell, and of what the predictor has not
# seen it predicts nothing.
_MEMORIZED = (
    "SELECT sequence_id FROM memorized "
    "WHERE suite = $suite AND model = ${0}_model AND step = ${0}_step AND sequence_id < ${0}_seen"
)
_EVALUATED = "SELECT sequence_id FROM scores WHERE suite = $suite AND model = ${0}_model AND step = ${0}_step"


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
    sql, values = _windows_of(pair, cell)
    sql += "ORDER BY first"
    if limit is not None:
        sql += f" LIMIT {limit:d}"
    with explained(catalog.store):
        result = catalog.connection.execute(f"{sql} OFFSET {offset:d}", values)
        while rows := result.fetchmany(1024):
            yield from (Row(*row) for row in rows)


def emergent_rows(catalog: Catalog, target: Checkpoint, threshold: float, limit: int) -> list[Row]:
    """What the target memorized though every smaller model scores below `threshold`: the query emergent."""
    with explained(catalog.store):
        result = catalog.query(
            "emergent", suite=target.suite, target=str(target), threshold=threshold, rows=limit
        )
        columns = [column[0] for column in result.description or ()]
        found = [dict(zip(columns, row, strict=True)) for row in result.fetchall()]
    return [Row(row["sequence_id"], row["window_id"], row["occurrences"] or 1) for row in found]


def count_rows(catalog: Catalog, pair: Pair, cell: Cell) -> int:
    """How many windows a cell has. Raises BadInput as rows_of does."""
    sql, values = _windows_of(pair, cell)
    ((count,),) = catalog.rows(f"SELECT count(*) FROM ({sql})", values)
    return int(count)


def _windows_of(pair: Pair, cell: Cell) -> tuple[str, dict[str, object]]:
    """SQL of a cell's windows, and its parameters."""
    t, p = pair.target, pair.predictor
    if cell != "memorized" and p is None:
        raise BadInput(f"--cell {cell} compares two checkpoints: say which --predictor")
    values: dict[str, object] = {"suite": t.suite, "t_model": t.model, "t_step": t.step, "t_seen": t.seen}
    target = f"({_MEMORIZED.format('t')})"
    ids = f"SELECT sequence_id FROM {target}"
    if p is not None and cell != "memorized":
        values |= {"p_model": p.model, "p_step": p.step, "p_seen": min(p.seen, t.seen)}
        predicted = f"({_MEMORIZED.format('p')})"
        if cell == "hit":
            ids = f"FROM {target} SEMI JOIN {predicted} USING (sequence_id)"
        elif cell == "miss":
            ids = (
                f"FROM (FROM {target} ANTI JOIN {predicted} USING (sequence_id)) m "
                f"WHERE sequence_id >= $p_seen OR sequence_id IN ({_EVALUATED.format('p')})"
            )
        else:
            ids = (
                f"FROM (FROM {predicted} ANTI JOIN {target} USING (sequence_id)) m "
                f"WHERE sequence_id IN ({_EVALUATED.format('t')})"
            )
    return (
        f"""
        SELECT min(c.sequence_id) AS first, s.window_id, count(*)
        FROM ({ids}) c
        LEFT JOIN (SELECT sequence_id, window_id FROM sequences WHERE suite = $suite) s USING (sequence_id)
        GROUP BY s.window_id, CASE WHEN s.window_id IS NULL THEN c.sequence_id END
        """,
        values,
    )


def matches_of(
    catalog: Catalog, checkpoint: Checkpoint, ids: Sequence[int]
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
