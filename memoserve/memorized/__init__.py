"""Memorized sequences: which they are, what they say, and lists of the predicted ones for a trainer.

Stands on the catalog and the queries (which ids) and on the suite's sequences and tokenizer (what they say).
"""

from memoserve.memorized.cells import (
    CELLS,
    Cell,
    Pair,
    Row,
    choose,
    count_rows,
    emergent_rows,
    matches_of,
    rows_of,
)
from memoserve.memorized.export import Export, export
from memoserve.memorized.redaction import Redaction, find_private
from memoserve.memorized.shown import Shown, TextReader, open_text_of, open_texts, suite_name
from memoserve.memorized.text import Piece, Words, mismatches, pieces, words

__all__ = [
    "CELLS",
    "Cell",
    "Export",
    "Pair",
    "Piece",
    "Redaction",
    "Row",
    "Shown",
    "TextReader",
    "Words",
    "choose",
    "count_rows",
    "emergent_rows",
    "export",
    "find_private",
    "matches_of",
    "mismatches",
    "open_text_of",
    "open_texts",
    "pieces",
    "rows_of",
    "suite_name",
    "words",
]
