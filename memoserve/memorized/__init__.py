"""Memorized sequences: which they are, what they say, and lists of the predicted ones for a trainer.

Stands on the catalog (which ids) and on the suite's sequences and tokenizer (what they say).
"""

from memoserve.memorized.cells import CELLS, Cell, Pair, Row, choose, matches_of, rows_of
from memoserve.memorized.export import Export, export
from memoserve.memorized.redaction import Redaction, find_private
from memoserve.memorized.text import Piece, Words, mismatches, pieces, words

__all__ = [
    "CELLS",
    "Cell",
    "Export",
    "Pair",
    "Piece",
    "Redaction",
    "Row",
    "Words",
    "choose",
    "export",
    "find_private",
    "matches_of",
    "mismatches",
    "pieces",
    "rows_of",
    "words",
]
