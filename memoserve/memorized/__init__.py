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
from memoserve.memorized.finding import TEXT_COLUMNS, FoundTexts, Group, find_texts, text_row
from memoserve.memorized.redaction import Redaction, find_private
from memoserve.memorized.shown import Shown, TextReader, open_text_of, open_texts, suite_name
from memoserve.memorized.text import Piece, Words, mismatches, pieces, words

__all__ = [
    "CELLS",
    "TEXT_COLUMNS",
    "Cell",
    "Export",
    "FoundTexts",
    "Group",
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
    "find_texts",
    "matches_of",
    "mismatches",
    "open_text_of",
    "open_texts",
    "pieces",
    "rows_of",
    "suite_name",
    "text_row",
    "words",
]
