"""The rows of a role as numbers: what is known of each window, and where it is asked for, its label."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from memoserve.catalog import Catalog, explained
from memoserve.catalog.statements import statement
from memoserve.forecast.roles import Basis, Role
from memoserve.queries.identifiers import identifier
from memoserve.queries.output import arrow_table

if TYPE_CHECKING:
    import pyarrow as pa

RANGE = 1 << 20
"""How many ids are read at once."""
BLOCK = 1 << 19
_BLOCKS = 8
"""A sample is of whole blocks of so many ids, at least so many of them: the rest need not be read."""

_SIGNALS = ("matched_prefix", "matches", "continuation_ll")
SIGNALS = (*_SIGNALS, *(f"earlier_{name}" for name in _SIGNALS))
OCCURRENCES = ("occurrences", "steps_since_last")
CLUSTER = "cluster"
"""The column of `features` that numbers clusters of windows that are nearly equal, if it has it."""

_INTEGERS = {
    "TINYINT",
    "SMALLINT",
    "INTEGER",
    "BIGINT",
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "HUGEINT",
}
_KEYS = {
    "suite",
    "sequence_id",
    "window_id",
    "window_number",
    CLUSTER,
    "last_occurrence",
    *OCCURRENCES,
    *SIGNALS,
}
"""Columns of `features` that only number something, or that the store itself says as of the target's step."""

Kind = Literal["feature", "signal"]


@dataclass(frozen=True)
class Column:
    """A number that is known of a window. `counts`: whole numbers, which enter by their logarithms."""

    name: str
    kind: Kind
    counts: bool = False


@dataclass(frozen=True)
class Rows:
    """Rows of a role, one a window (or, to predict, one a sequence).

    values: float32[n, columns], NaN where unknown. memorized: bool[n], or None where labels were not read.
    weight: float64[n], how many windows a sampled row stands for. sequences: int64[n], how many sequences
    that the target has seen are of that window. cluster: int64[n], equal for nearly equal windows.
    """

    sequence_id: NDArray[np.int64]
    window: NDArray[np.int64]
    cluster: NDArray[np.int64]
    sequences: NDArray[np.int64]
    values: NDArray[np.float32]
    weight: NDArray[np.float64]
    memorized: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.sequence_id)

    def take(self, rows: NDArray[Any]) -> Rows:
        """Some of the rows, by number or mask."""
        taken: dict[str, Any] = {name: None if a is None else a[rows] for name, a in vars(self).items()}
        return Rows(**taken)


@dataclass(frozen=True)
class Table:
    """What a store knows about the sequences of a suite, ready to be read role by role."""

    catalog: Catalog
    suite: str
    wanted: tuple[Column, ...] | None = None

    @cached_property
    def columns(self) -> tuple[Column, ...]:
        """Every column there can be (or only those `wanted`): occurrences, what `features` has, signals."""
        if self.wanted is not None:
            return self.wanted
        named = [Column(name, "feature", counts=True) for name in OCCURRENCES]
        named += [
            Column(name, "feature", kind.split("(")[0] in _INTEGERS)
            for name, kind in self._features
            if name not in _KEYS
            and (
                kind.split("(")[0] in _INTEGERS or kind.startswith(("FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN"))
            )
        ]
        return (*named, *(Column(name, "signal") for name in SIGNALS))

    def of(self, basis: Basis) -> list[int]:
        """Which columns a basis uses, by their indices in `columns`."""
        kinds = {"features": {"feature"}, "signals": {"signal"}, "both": {"feature", "signal"}}[basis]
        return [index for index, column in enumerate(self.columns) if column.kind in kinds]

    def labelled(self, role: Role, cap: int) -> Rows:
        """One row a window that the role's target was evaluated on, with its label.

        Of more than `cap` windows of a kind (memorized or not) a sample, with weights: of blocks of ids, and
        in those by the windows' numbers.
        """
        self._prepare(role, labelled=True)
        memorized, others = self._sizes(role)
        keep = (min(1.0, cap / max(memorized, 1)), min(1.0, cap / max(others, 1)))
        parts = list(self._ranges(role, labelled=True, keep=keep))
        rows = join(parts) if parts else _empty(len(self.columns))
        assert rows.memorized is not None
        rows.weight[:] = np.where(rows.memorized, 1 / keep[0], 1 / keep[1])
        return rows

    def unlabelled(self, role: Role, share: float = 1.0) -> Iterator[Rows]:
        """One row a sequence that the role's target has seen, in order of ids; reads no score of the target.

        Of all sequences, or of a share of blocks of ids.
        """
        self._prepare(role, labelled=False)
        yield from self._ranges(role, labelled=False, keep=(share, share))

    def sample(self, role: Role, windows: int) -> Rows:
        """Unlabelled rows of about so many windows, or of all if they are fewer: of each the first.

        A window is of the block that its first occurrence is in.
        """
        share = min(1.0, windows / max(self._seen(role), 1))
        parts = [part.take(part.sequence_id == part.window) for part in self.unlabelled(role, share)]
        rows = join(parts) if parts else _empty(len(self.columns))
        rows.weight[:] = 1 / _blocks(self._seen(role), share)[1]
        return rows

    def close(self) -> None:
        """Drop what was put into the connection."""
        for name in ("target", "predictors", "windows", "signals"):
            self.catalog.connection.execute(f"DROP TABLE IF EXISTS {identifier(f'forecast_{name}')}")

    @cached_property
    def _features(self) -> list[tuple[str, str]]:
        """(name, type) of the columns of `features`; none where the suite has no row there."""
        ((any_row,),) = self.catalog.rows("SELECT EXISTS (FROM features WHERE suite = ?)", [self.suite])
        described = self.catalog.rows("SELECT column_name, column_type FROM (DESCRIBE features)")
        return [(str(name), str(kind)) for name, kind in described] if any_row else []

    def _prepare(self, role: Role, *, labelled: bool) -> None:
        """Find the repeated windows of a role, and the signals of those."""
        self._set(self._asked(role, labelled))
        with explained(self.catalog.store):
            self.catalog.connection.execute(statement(__file__, "windows"))

    def _ranges(self, role: Role, *, labelled: bool, keep: tuple[float, float]) -> Iterator[Rows]:
        seen, sql = self._seen(role), self._rows_sql()
        ranges, share = _blocks(seen, max(keep))
        asked = {
            **self._asked(role, labelled),
            "keep_memorized": keep[0] / share if labelled else 1.0,
            "keep_other": keep[1] / share if labelled else 1.0,
        }
        for first, stop in ranges:
            # Whoever reads on may have asked something else in between.
            self._set({**asked, "first": first, "stop": stop})
            with explained(self.catalog.store):
                found = arrow_table(self.catalog.connection.execute(sql))
            if found.num_rows:
                yield self._rows(found, labelled)

    def _asked(self, role: Role, labelled: bool) -> dict[str, object]:
        return {
            "suite": self.suite,
            "target": role.target.name,
            "predictor": None if role.predictor is None else role.predictor.name,
            "earlier": None if role.earlier is None else role.earlier.name,
            "labelled": labelled,
        }

    def _rows_sql(self) -> str:
        names = [c.name for c in self.columns if c.kind == "feature" and c.name not in OCCURRENCES]
        there = {name for name, _ in self._features}
        taken = [name for name in dict.fromkeys((*names, *OCCURRENCES, CLUSTER)) if name in there]
        source = (
            f"(SELECT {', '.join(map(identifier, ['sequence_id', *taken]))} "
            "FROM features WHERE suite = getvariable('suite')::VARCHAR "
            "AND sequence_id >= getvariable('first')::BIGINT AND sequence_id < getvariable('stop')::BIGINT)"
            if there
            else "(SELECT 0::BIGINT AS sequence_id WHERE false)"
        )
        cluster = f"coalesce(f.{CLUSTER}::BIGINT, i.window_number)" if CLUSTER in there else "i.window_number"
        # Of the whole training data, where the store's own windows may be of a sample.
        whole = {
            name: f"CASE WHEN t.complete THEN f.{name} END" if name in there else "NULL"
            for name in OCCURRENCES
        }
        sql = statement(__file__, "rows")
        sql = sql.replace("@FEATURES@", "".join(f", f.{identifier(name)}" for name in names))
        sql = sql.replace("@WHOLE_OCCURRENCES@", whole["occurrences"])
        sql = sql.replace("@WHOLE_STEPS@", whole["steps_since_last"])
        return sql.replace("@CLUSTER@", cluster).replace("@FEATURE_ROWS@", source)

    def _rows(self, found: pa.Table, labelled: bool) -> Rows:
        """In order of ids: to sort numbers here is cheaper than to have DuckDB sort every column."""
        ids = np.asarray(found.column("sequence_id").to_numpy(), np.int64)
        order = np.argsort(ids, kind="stable")

        def whole(name: str) -> NDArray[np.int64]:
            return np.asarray(found.column(name).to_numpy(), np.int64)[order]

        # Column by column, as everything reads them.
        values = np.empty((found.num_rows, len(self.columns)), np.float32, order="F")
        for index, column in enumerate(self.columns):
            given = found.column(column.name).cast("float32", safe=False).to_numpy()
            np.take(given, order, out=values[:, index])
        memorized = None
        if labelled:
            memorized = np.asarray(found.column("memorized").to_numpy(zero_copy_only=False), np.bool_)[order]
        return Rows(
            ids[order], whole("window_number"), whole("cluster"), whole("sequences"), values,
            np.ones(found.num_rows), memorized,
        )  # fmt: skip

    def _seen(self, role: Role) -> int:
        ((seen,),) = self.catalog.rows(
            "SELECT least(sequences_seen, trained) FROM checkpoints WHERE suite = ? AND checkpoint = ?",
            [self.suite, role.target.name],
        )
        return int(seen)

    def _sizes(self, role: Role) -> tuple[int, int]:
        """About how many windows the role's target memorized, and did not, for the shares to keep."""
        where = [self.suite, role.target.model, role.target.step]
        ((evaluated, memorized),) = self.catalog.rows(
            statement(__file__, "sizes"), [*where, *where, self._seen(role)]
        )
        return int(memorized), int(evaluated - memorized)

    def _set(self, variables: dict[str, object]) -> None:
        for name, value in variables.items():
            self.catalog.connection.execute(f"SET VARIABLE {identifier(name)} = ?", [value])


def _blocks(seen: int, share: float) -> tuple[list[tuple[int, int]], float]:
    """(evenly spread ranges of ids to read for a share of them, the share of blocks that these are)."""
    total = -(-seen // BLOCK)
    count = min(total, max(_BLOCKS, math.ceil(share * total)))
    if count == total:
        return [(first, min(first + RANGE, seen)) for first in range(0, seen, RANGE)], 1.0
    chosen = [int((number + 0.5) * total / count) * BLOCK for number in range(count)]
    return [(first, min(first + BLOCK, seen)) for first in chosen], count / total


def join(parts: Sequence[Rows]) -> Rows:
    """Rows of several reads, one after the other."""
    joined: dict[str, Any] = {
        name: None if first is None else np.concatenate([getattr(part, name) for part in parts])
        for name, first in vars(parts[0]).items()
    }
    return Rows(**joined)


def folds(cluster: NDArray[np.int64], count: int, seed: int = 0) -> NDArray[np.int64]:
    """int64[n] in 0..count-1: which fold each row is in, the same for all rows of a cluster.

    By a hash of the cluster's number: the same for every role, so that no window is on both sides.
    """
    mixed = cluster.astype(np.uint64) + np.uint64((seed * 2 + 1) * 0x9E3779B97F4A7C15 % (1 << 64))
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((mixed ^ (mixed >> np.uint64(31))) % np.uint64(count)).astype(np.int64)


def _empty(columns: int) -> Rows:
    none = np.zeros(0, np.int64)
    return Rows(
        none, none, none, none, np.zeros((0, columns), np.float32), np.zeros(0), np.zeros(0, np.bool_)
    )
