"""Memorized windows ready to show: found, checked to be what was evaluated, decoded, marked, masked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from memoserve.catalog import Catalog
from memoserve.domain import CONTINUATION
from memoserve.errors import BadInput, StoreConflict
from memoserve.memorized.cells import Cell, Pair, Row, matches_of
from memoserve.memorized.text import Piece, Words, mismatches, pieces, words
from memoserve.sequences import SequenceSource, load_tokenizer, open_sequences
from memoserve.store import Store
from memoserve.suites import load_suite

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_SEARCHED = 1024
"""Windows that a search reads at once."""


@dataclass(frozen=True)
class Shown:
    """A window ready to print. `compared`: the checkpoint whose matches these are, None: nothing to say."""

    row: Row
    context: list[Piece]
    continuation: list[Piece]
    compared: str | None
    matches: int | None
    matched_prefix: int | None
    mismatches: list[int] | None


def suite_name(suite: str | None) -> str | None:
    """The name in the store: that of the suite file, or the word itself."""
    if suite is None or not Path(suite).exists():
        return suite
    return load_suite(suite).name


def open_text_of(
    store: Store,
    name: str,
    suite: str | None,
    data: str | None,
    tokenizer: str | None,
    warn: Callable[[str], None],
) -> tuple[SequenceSource, Tokenizer | None]:
    """The sequences, checked to be the ones that were evaluated, and the tokenizer if there is one.

    `warn` is told where that can't be checked. Raises BadInput where nothing says which sequences they are,
    StoreConflict for others than those that were evaluated.
    """
    if data is None or tokenizer is None:
        try:
            described = load_suite(suite or name).sequences
        except BadInput:
            if data is None:
                raise BadInput(
                    f"suite {name} is not one that comes with memoserve: name its file with --suite, or the "
                    "sequences with --data (and --tokenizer)"
                ) from None
        else:
            if data is None and described.path is None:
                raise BadInput(f"suite {name} doesn't say where its sequences are: name them with --data")
            tokenizer = tokenizer or described.tokenizer
            data = data or described.path
    assert data is not None
    fingerprint = store.fingerprint(name)
    column = fingerprint.get("sequences_tokens_column")
    source = open_sequences(data, tokenizer, None if column is None else str(column))
    stored = {key: value for key, value in fingerprint.items() if key.startswith("sequences_")}
    if not stored:
        warn(
            f"the store doesn't say which sequences its scores are about ({fingerprint.get('engine')}), so "
            f"that they are those of {data} can't be checked"
        )
        return source, None if tokenizer is None else load_tokenizer(tokenizer)
    found = {f"sequences_{key}": value for key, value in source.identity().items()}
    differing = [key for key in sorted({*stored, *found}) if stored.get(key) != found.get(key)]
    if differing:
        raise StoreConflict(
            f"{data} is not what was evaluated (stored vs given):\n"
            + "\n".join(f"  {key}: {stored.get(key)} vs {found.get(key)}" for key in differing)
            + "\nName the sequences that this store was made with."
        )
    return source, None if tokenizer is None else load_tokenizer(tokenizer)


@dataclass(frozen=True)
class TextReader:
    """Windows of a pair's suite as text. decoder: None without a tokenizer, then they are token ids."""

    catalog: Catalog
    pair: Pair
    source: SequenceSource
    decoder: Tokenizer | None
    context: int

    def shown(self, cell: Cell, rows: Sequence[Row], redact: bool) -> Iterator[Shown]:
        """The rows of a cell as text, in their order; `redact`: what looks private is masked."""
        ids = [row.sequence_id for row in rows]
        # A hit matches for both; the target's own memorized ones only against a predictor.
        pair = self.pair
        compared = pair.target if cell == "false-alarm" else None if cell == "hit" else pair.predictor
        known = matches_of(self.catalog, compared, ids) if compared is not None else {}
        for first in range(0, len(rows), _SEARCHED):
            block = rows[first : first + _SEARCHED]
            windows = _windows(self.source, block, self.context + CONTINUATION)
            for row, tokens in zip(block, windows, strict=True):
                text: Words = words(tokens, self.context, self.decoder)
                matches, prefix, mask = known.get(row.sequence_id, (None, None, None))
                marked = mismatches(text, self.context, mask)
                yield Shown(
                    row,
                    pieces(text, 0, text.border, marked, redact),
                    pieces(text, text.border, len(text.text), marked, redact),
                    str(compared) if row.sequence_id in known else None,
                    matches,
                    prefix,
                    None if mask is None else [bit for bit in range(CONTINUATION) if not mask >> bit & 1],
                )

    def containing(self, rows: Iterator[Row], search: str) -> Iterator[Row]:
        """Those of the rows whose windows hold the text `search`, in any case. Takes a decoder."""
        assert self.decoder is not None
        wanted = search.casefold()
        while block := list(islice(rows, _SEARCHED)):
            windows = _windows(self.source, block, self.context + CONTINUATION)
            texts = self.decoder.decode_batch(windows, skip_special_tokens=False)
            yield from (row for row, text in zip(block, texts, strict=True) if wanted in text.casefold())


def open_texts(
    catalog: Catalog,
    store: Store,
    pair: Pair,
    *,
    suite: str | None,
    data: str | None,
    tokenizer: str | None,
    warn: Callable[[str], None],
) -> TextReader:
    """What reads the texts of a pair; `suite`, `data`, `tokenizer`, `warn` and errors: see open_text_of."""
    name = pair.target.suite
    source, decoder = open_text_of(store, name, suite, data, tokenizer, warn)
    return TextReader(catalog, pair, source, decoder, int(store.fingerprint(name).get("context") or 32))


def _windows(source: SequenceSource, rows: Sequence[Row], length: int) -> list[list[int]]:
    """The rows' tokens, in their order; a source reads in that of the ids."""
    ids = np.array([row.sequence_id for row in rows], dtype=np.int64)
    order = np.argsort(ids)
    found = source.take(ids[order], length)
    return [list(window) for window in found[np.argsort(order)].tolist()]
