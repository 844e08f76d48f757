"""Whether two rules flag the very same sequences, or windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memoserve.recommend.rules import Unit

if TYPE_CHECKING:
    import duckdb

_SIGNALS = ("matches", "matched_prefix", "continuation_ll")


@dataclass(frozen=True)
class Flagging:
    """What `predictors` (names joined by " + ") memorized, or what has a signal of at least tau."""

    predictors: str
    signal: str
    tau: float | None


def flags_the_same(
    connection: duckdb.DuckDBPyConnection,
    suite: str,
    target: str,
    unit: Unit,
    one: Flagging,
    other: Flagging,
    *,
    evaluated: bool,
) -> bool:
    """Whether two rules flag the same of what the target has seen; if `evaluated`, of its scores alone."""
    (first, its), (second, others) = _flagged(one), _flagged(other)
    of_sequences = "sequence_id"
    repeats = ""
    if unit == "windows":
        of_sequences = "coalesce(r.first_id, f.sequence_id)"
        repeats = "LEFT JOIN repeats((SELECT suite FROM target), false) r USING (sequence_id)"
    judged = "SEMI JOIN (FROM scores s SEMI JOIN target USING (suite, model, step)) USING (sequence_id)"
    (differ,) = connection.execute(
        f"""
        WITH checkpoint AS MATERIALIZED (
            SELECT suite, model, step, checkpoint, least(sequences_seen, trained) AS seen
            FROM checkpoints WHERE suite = ? LIMIT 100000
        ),
        target AS MATERIALIZED (FROM checkpoint WHERE checkpoint = ? LIMIT 1),
        flagged AS MATERIALIZED (
            SELECT true AS by_one, sequence_id FROM ({first})
            UNION ALL
            SELECT false, sequence_id FROM ({second})
        ),
        counted AS MATERIALIZED (SELECT * FROM flagged {judged if evaluated else ""}),
        item AS (
            SELECT DISTINCT f.by_one, {of_sequences} AS id FROM counted f {repeats}
        )
        SELECT exists(SELECT 1 FROM item GROUP BY id HAVING count(*) = 1)
        """,
        [suite, target, *its, *others],
    ).fetchone() or (True,)
    return not differ


def _flagged(rule: Flagging) -> tuple[str, list[Any]]:
    """SQL of the ids that a rule flags, and its parameters."""
    values: list[Any] = [rule.predictors.split(" + ")]
    table, line = "memorized", ""
    if rule.tau is not None:
        assert rule.signal in _SIGNALS
        table, line = "scores", f"AND m.{rule.signal} >= ?"
        values.append(rule.tau)
    return (
        f"SELECT m.sequence_id FROM {table} m JOIN checkpoint c USING (suite, model, step) "
        "CROSS JOIN target t "
        f"WHERE list_contains(?::VARCHAR[], c.checkpoint) AND m.sequence_id < least(c.seen, t.seen) {line}",
        values,
    )
