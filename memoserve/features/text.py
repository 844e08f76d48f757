"""What is known of tokens as text, and a sample of the training data to compress with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from memoserve.features.compression import DICTIONARY
from memoserve.features.tokens import TokenClasses, pieces_of, texts_of
from memoserve.sequences import SequenceSource
from memoserve.sequences.tokenizer import tokenizer_from_bytes

_SEQUENCES = 64
"""So many of the training sequences, evenly spread, go into the dictionary, each with its beginning."""


@dataclass(frozen=True)
class TextFacts:
    """What is known of tokens: their pieces (None without a tokenizer), and a sample of the training data."""

    pieces: Sequence[bytes] | None
    classes: TokenClasses | None
    dictionary: bytes
    end_of_text: int


def text_facts(
    source: SequenceSource, trained: int, tokenizer: bytes | None, name: str, end_of_text: int
) -> TextFacts:
    """Of the first `trained` sequences and what a tokenizer.json, called `name`, holds. Raises BadInput."""
    pieces = classes = None
    if tokenizer is not None:
        pieces = pieces_of(tokenizer_from_bytes(tokenizer, name))
        classes = TokenClasses.of(pieces)
    ids = np.unique(np.linspace(0, trained - 1, min(_SEQUENCES, trained)).astype(np.int64))
    each = DICTIONARY // len(ids)
    texts = []
    for sequence, length in zip(ids.tolist(), source.lengths(ids).tolist(), strict=True):
        tokens = source.read(sequence, sequence + 1, length) if length else np.zeros((1, 0), np.uint32)
        texts.append(texts_of(tokens, pieces)[0][:each])
    return TextFacts(pieces, classes, b"".join(texts), end_of_text)
