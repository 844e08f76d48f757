"""What is known of tokens as text, and a sample of the training data to compress with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memoserve.features.compression import trained_on
from memoserve.features.tokens import TokenClasses, pieces_of, texts_of
from memoserve.sequences import SequenceSource
from memoserve.sequences.tokenizer import tokenizer_from_bytes

_SEQUENCES, _TOKENS = 4096, 1024
"""So many of the training sequences, evenly spread, teach the dictionary, each with so many tokens."""


@dataclass(frozen=True)
class TextFacts:
    """What is known of tokens: their pieces (None without a tokenizer), and what a sample of the training
    data taught (None without Zstandard).
    """

    pieces: Sequence[bytes] | None
    classes: TokenClasses | None
    dictionary: Any
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
    sample = []
    for sequence, length in zip(ids.tolist(), source.lengths(ids).tolist(), strict=True):
        if length:
            tokens = source.read(sequence, sequence + 1, min(length, _TOKENS))
            sample += texts_of(tokens, pieces)
    return TextFacts(pieces, classes, trained_on(sample), end_of_text)
