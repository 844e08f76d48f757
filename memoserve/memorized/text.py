"""The text of a window: context and continuation apart, mismatching tokens marked, private spans masked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from memoserve.memorized.redaction import find_private

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class Words:
    """A window as text: `starts[i]` is where token i begins in it; context is `text[:border]`."""

    text: str
    starts: tuple[int, ...]
    border: int

    def end(self, token: int) -> int:
        """Where token `token` ends."""
        return self.starts[token + 1] if token + 1 < len(self.starts) else len(self.text)


@dataclass(frozen=True)
class Piece:
    """A run of text in one style: as it stands, or of mismatching tokens."""

    text: str
    mismatch: bool = False


def words(tokens: Sequence[int], context: int, tokenizer: Tokenizer | None) -> Words:
    """The text of a window's tokens, `context` of them the context; their ids where there is no tokenizer.

    All tokens are decoded together: a character that the border cuts in two belongs to the token that ends
    it.
    """
    if tokenizer is None:
        text, starts = "", []
        for token in tokens:
            starts.append(len(text))
            text += f"{token} "
        return Words(text.rstrip(), tuple(starts), starts[context])
    text = tokenizer.decode(list(tokens), skip_special_tokens=False)
    starts = []
    for count in range(len(tokens)):
        before = tokenizer.decode(list(tokens[:count]), skip_special_tokens=False) if count else ""
        # Half a character decodes to U+FFFD, which more tokens turn into something else.
        length = len(before) if text.startswith(before) else len(before.rstrip("\ufffd"))
        starts.append(min(max(length, starts[-1] if starts else 0), len(text)))
    return Words(text, tuple(starts), starts[context])


def mismatches(words_: Words, context: int, match_mask: int | None) -> list[tuple[int, int]]:
    """The spans of text whose continuation tokens the mask says were not generated."""
    if match_mask is None:
        return []
    spans = []
    for bit in range(len(words_.starts) - context):
        if not match_mask >> bit & 1:
            spans.append((words_.starts[context + bit], words_.end(context + bit)))
    return spans


def pieces(
    words_: Words, first: int, stop: int, marked: Sequence[tuple[int, int]], redact: bool
) -> list[Piece]:
    """The characters first..stop-1 in pieces of one style.

    With `redact`, what looks private in the whole window becomes <kind>, also where only a part of it lies
    inside; it is marked if a token in it is.
    """
    masked = [r for r in find_private(words_.text) if r.start < stop and first < r.end] if redact else []
    found: list[Piece] = []
    position = first
    for private in [*masked, None]:
        upto = stop if private is None else min(max(private.start, first), stop)
        found += _plain(words_.text, position, upto, marked)
        if private is not None:
            hit = any(start < private.end and private.start < end for start, end in marked)
            found.append(Piece(f"<{private.kind}>", hit))
            position = min(private.end, stop)
    joined: list[Piece] = []
    for piece in found:
        if joined and joined[-1].mismatch == piece.mismatch:
            joined[-1] = Piece(joined[-1].text + piece.text, piece.mismatch)
        elif piece.text:
            joined.append(piece)
    return joined


def _plain(text: str, first: int, stop: int, marked: Sequence[tuple[int, int]]) -> list[Piece]:
    cuts = sorted({first, stop, *(min(max(edge, first), stop) for span in marked for edge in span)})
    return [Piece(text[a:b], any(start <= a < end for start, end in marked)) for a, b in pairwise(cuts)]
