"""Memorized windows that somebody asks for, as text: how the command line and Python find them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

from memoserve.catalog import Catalog
from memoserve.errors import BadInput, did_you_mean
from memoserve.memorized.cells import CELLS, Cell, Pair, choose, emergent_rows, rows_of
from memoserve.memorized.shown import Shown, open_texts, suite_name
from memoserve.store import Store

Group = Cell | Literal["emergent"]
"""Which windows: see find_texts."""

_GROUPS = (*CELLS, "emergent")

_EVERY = 1_000_000_000
"""More windows than anyone has: a search looks at all of them."""

TEXT_COLUMNS = (
    "sequence_id", "window_id", "occurrences", "context", "continuation", "compared", "matches",
    "matched_prefix", "mismatches",
)  # fmt: skip
"""What text_row gives."""


@dataclass(frozen=True)
class FoundTexts:
    """Windows of a pair, each ready to show. They are read while the catalog's connection is open."""

    pair: Pair
    shown: Iterator[Shown]


def find_texts(
    catalog: Catalog,
    store: Store,
    *,
    target: str | None = None,
    predictor: str | None = None,
    cell: Group = "memorized",
    below: float = 16,
    search: str | None = None,
    limit: int = 20,
    redact: bool = False,
    suite: str | None = None,
    data: str | None = None,
    tokenizer: str | None = None,
    warn: Callable[[str], None],
) -> FoundTexts:
    """At most `limit` windows, each once, in order of training.

    `cell`: memorized by the target; by both (hit), by the target alone (miss), by the predictor alone
    (false-alarm); emergent: by the target though every smaller model scores less than `below`, of 32.
    `search`: only those with this text, in any case. `redact`: what looks private is masked. `suite` is a
    name or file; `data`, `tokenizer`, `warn`: see open_text_of. Raises BadInput for what is not evaluated, a
    cell that needs a predictor, and where a search or masking has no text.
    """
    if cell not in _GROUPS:
        raise BadInput(f"--cell is {', '.join(_GROUPS[:-1])} or {_GROUPS[-1]}, not {cell!r}"
                       + did_you_mean(cell, _GROUPS))  # fmt: skip
    pair = choose(catalog, suite_name(suite), target, predictor)
    reader = open_texts(catalog, store, pair, suite=suite, data=data, tokenizer=tokenizer, warn=warn)
    if reader.decoder is None and (search is not None or redact):
        raise BadInput(f"--{'search' if search is not None else 'redact'} needs text: name a --tokenizer")
    drawn_from: Cell = "memorized"
    if cell == "emergent":
        few = limit if search is None else _EVERY
        every = iter(emergent_rows(catalog, pair.target, below, few))
    else:
        drawn_from = cell
        every = rows_of(catalog, pair, drawn_from, limit if search is None else None)
    found = every if search is None else islice(reader.containing(every, search), limit)
    return FoundTexts(pair, reader.shown(drawn_from, list(found), redact))


def text_row(one: Shown) -> tuple[Any, ...]:
    """A window as the values of TEXT_COLUMNS; mismatches: positions in the continuation, from 0 on."""
    return (
        one.row.sequence_id,
        one.row.window_id,
        one.row.occurrences,
        "".join(piece.text for piece in one.context),
        "".join(piece.text for piece in one.continuation),
        one.compared,
        one.matches,
        one.matched_prefix,
        one.mismatches,
    )
