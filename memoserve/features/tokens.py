"""What single tokens say: how frequent they are, what they are made of, where documents end."""

from __future__ import annotations

import json
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memoserve.errors import BadInput

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CODE = frozenset("{}[]()<>=;:+*/\\|&^%$#@~_`")
"""Punctuation that code is full of and prose is not."""

KINDS = ("letter", "digit", "code", "whitespace")

Windows = NDArray[np.unsignedinteger]


def pieces_of(tokenizer: Tokenizer) -> list[bytes]:
    """What each token id is as bytes, its white space in place."""
    content = json.loads(tokenizer.to_str())
    size = tokenizer.get_vocab_size()
    written = [tokenizer.id_to_token(token) or "" for token in range(size)]
    added = {token["id"] for token in content.get("added_tokens") or ()}
    if _is_byte_level(content.get("decoder")):
        byte_of = _bytes_of_characters()
        return [
            piece.encode() if token in added or not set(piece) <= set(byte_of)
            else bytes(byte_of[character] for character in piece)
            for token, piece in enumerate(written)
        ]  # fmt: skip
    return [
        piece.replace("\u2581", " ").encode()
        if piece.startswith("\u2581") or token in added
        else tokenizer.decode([token], skip_special_tokens=False).encode()
        for token, piece in enumerate(written)
    ]


def _is_byte_level(decoder: Any) -> bool:
    if not isinstance(decoder, dict):
        return False
    return decoder.get("type") == "ByteLevel" or any(map(_is_byte_level, decoder.get("decoders") or ()))


def _bytes_of_characters() -> dict[str, int]:
    """Which byte each character of a byte-level vocabulary stands for (GPT-2's table): printable Latin-1 is
    itself, the others follow from 256 on.
    """
    itself = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in itself]
    return {chr(byte): byte for byte in itself} | {chr(256 + at): byte for at, byte in enumerate(others)}


def texts_of(windows: Windows, pieces: Sequence[bytes] | None) -> list[bytes]:
    """Each row of [n, m] as bytes: its text, or without a tokenizer its token ids, 2 or 4 bytes each.

    Raises BadInput for a token that the tokenizer doesn't have.
    """
    if pieces is None:
        narrow = np.dtype("<u2") if windows.size == 0 or windows.max() < 1 << 16 else np.dtype("<u4")
        return [row.tobytes() for row in np.ascontiguousarray(windows, narrow)]
    if windows.size and windows.max() >= len(pieces):
        raise BadInput(
            f"the sequences have a token {int(windows.max())}, and the tokenizer knows 0 to "
            f"{len(pieces) - 1}: give the one they were made with (--tokenizer)"
        )
    return [b"".join([pieces[token] for token in row]) for row in windows.tolist()]


@dataclass(frozen=True)
class TokenClasses:
    """Of each token, how many of its characters are of each kind, and how many it has: i64[v, 5]."""

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, pieces: Sequence[bytes]) -> TokenClasses:
        """Of a tokenizer's pieces. Bytes that are no character by themselves are of no kind."""
        return cls(np.array([_kinds(piece.decode(errors="replace")) for piece in pieces], np.int64))

    def shares(self, windows: Windows) -> dict[str, NDArray[np.float32]]:
        """Of each row of [n, m] the share of characters of each kind, by kind: f32[n]."""
        sums = self.counts[windows].sum(axis=1)
        total = np.maximum(sums[:, -1], 1)
        return {kind: (sums[:, at] / total).astype(np.float32) for at, kind in enumerate(KINDS)}


def _kinds(text: str) -> tuple[int, int, int, int, int]:
    return (
        sum(map(str.isalpha, text)),
        sum(character in string.digits for character in text),
        sum(character in CODE for character in text),
        sum(map(str.isspace, text)),
        len(text),
    )


def frequencies(
    continuations: Windows, times: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and least ln((1 + n) / (1 + N)) of each row's tokens, f32[rows] each.

    times: n of each token, i64[v], how often training reads it; N is their sum.
    """
    known = np.zeros(max(len(times), int(continuations.max(initial=0)) + 1), np.int64)
    known[: len(times)] = times
    logs = np.log1p(known) - np.log1p(known.sum())
    found = logs[continuations]
    return found.mean(axis=1).astype(np.float32), found.min(axis=1).astype(np.float32)


def document_position(windows: Windows, context: int, end_of_text: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of each row of [n, m]: tokens between the context's last end-of-text and the continuation, and tokens
    of the continuation before its first one; masked where there is none.
    """
    ends = windows[:, :context] == end_of_text
    after = np.argmax(ends[:, ::-1], axis=1)
    within = windows[:, context:] == end_of_text
    before = np.argmax(within, axis=1)
    masked: Any = np.ma.MaskedArray
    return masked(after, ~ends.any(axis=1)), masked(before, ~within.any(axis=1))
