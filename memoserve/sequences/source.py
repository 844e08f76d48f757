"""What every kind of sequence file offers, and the checks that they share."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memoserve.errors import BadInput
from memoserve.sequences.order import OrderEvidence

LARGEST_TOKEN = 2**32 - 1

PLACES = 16
"""A sample is so many runs of neighbouring sequences, the first and the last sequence among them."""


def sampled_ids(count: int, limit: int) -> NDArray[np.int64]:
    """Up to `limit` of the ids 0..count-1, ascending, in PLACES runs from the first to the last: i64[n]."""
    if count <= limit:
        return np.arange(count, dtype=np.int64)
    run = max(limit // PLACES, 1)
    starts = [(count - run) * i // (PLACES - 1) for i in range(PLACES)]
    return np.unique(np.concatenate([np.arange(start, start + run) for start in starts]))


class SequenceSource(Protocol):
    """Sequences 0..count-1 in training order. Nothing of the data stays in memory between calls."""

    kind: str
    """`megatron`, `npy`, `parquet`, `jsonl-tokens`, `jsonl-text` or `pack`."""

    count: int
    """How many sequences there are."""

    description: str
    """One line for people."""

    token_dtype: str
    """How the file stores a token id: `uint16`, ..., or `text`."""

    total_bytes: int
    """Size of the data, without a separate index file."""

    cheap_lengths: int
    """For so many sequences `lengths` takes about a second."""

    whole_length: tuple[int, int] | None
    """Where the source holds only the beginnings of its sequences (a pack): fewest and most tokens of those
    that they were cut from, None where that isn't known or nothing was cut.
    """

    def order_evidence(self) -> OrderEvidence:
        """What the files say for and against being sequences in training order.

        Looking at sequences in another order is possible all the same. May read a whole index (as `identity`
        does) and a sample of the data.
        """
        ...

    def read(self, first: int, stop: int, length: int) -> NDArray[np.uint32]:
        """The first `length` tokens of each of the sequences first..stop-1, u32[stop - first, length].

        Raises BadInput naming file and sequence where one is shorter than `length` or damaged, or the
        range leaves 0..count; StorageFailed where the file system or the network refuses.
        """
        ...

    def take(self, ids: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
        """The same for ascending sequence ids i64[n]: u32[n, length]."""
        ...

    def lengths(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """How many tokens each of these sequences (ascending ids) has, i64[n]."""
        ...

    def identity(self) -> dict[str, str | int]:
        """What the data is, wherever it lies: `kind`, `count`, `bytes`, `index_sha256`, `data_sha256`.

        `data_sha256` covers sampled blocks (see memoserve.sequences.identity), so it is quick for 600 GB
        but doesn't see every byte. `jsonl-text` adds `tokenizer_sha256`, and `tokens_column` is there where
        the token ids are another column, or key, than would be read without naming it.
        """
        ...


def check_tokens(
    tokens: NDArray[np.uint32], first_ids: NDArray[np.int64] | int, vocabulary_size: int, where: str
) -> None:
    """Raise BadInput if a token id of u32[n, length] doesn't fit the vocabulary.

    `first_ids` names the rows: their sequence ids i64[n], or the id of the first row where the others
    follow it. `where` names the file.
    """
    beyond = tokens >= vocabulary_size
    if not beyond.any():
        return
    row, column = np.argwhere(beyond)[0]
    sequence = int(first_ids) + int(row) if isinstance(first_ids, int) else int(first_ids[row])
    raise BadInput(
        f"{where}: sequence {sequence} has token id {int(tokens[row, column])} at position {int(column)}, "
        f"but the model's vocabulary has {vocabulary_size} ids (0..{vocabulary_size - 1}): "
        "these sequences were made with another tokenizer, or the file is damaged"
    )


def check_ids(ids: NDArray[np.int64], count: int, name: str) -> NDArray[np.int64]:
    """The ids as i64[n]. Raises BadInput unless they ascend and lie in 0..count-1."""
    ids = np.asarray(ids, dtype=np.int64)
    if ids.ndim != 1 or (ids.size > 1 and bool((ids[1:] < ids[:-1]).any())):
        raise BadInput(f"{name}: sequence ids must be a list in ascending order")
    if ids.size and not 0 <= ids[0] <= ids[-1] < count:
        wrong = int(ids[0] if ids[0] < 0 else ids[-1])
        raise BadInput(f"{name} has no sequence {wrong}: it has {count:,} sequences, ids 0 to {count - 1}")
    return ids


def check_span(first: int, stop: int, count: int, name: str) -> NDArray[np.int64]:
    """The ids first..stop-1. Raises BadInput unless the half-open range lies in 0..count."""
    if not 0 <= first <= stop <= count:
        raise BadInput(f"{name}: sequences {first}:{stop} are asked for, it has {count:,} (0:{count})")
    return np.arange(first, stop, dtype=np.int64)


def check_length(length: int) -> None:
    """Raise BadInput unless `length` is a number of tokens that one can ask for."""
    if not 1 <= length <= 2**31:
        raise BadInput(f"{length} tokens of a sequence are asked for: ask for at least 1")


def check_long_enough(
    sizes: NDArray[np.int64], ids: NDArray[np.int64], length: int, name: str, row: str = "sequence"
) -> None:
    """Raise BadInput naming how many and which sequences have fewer than `length` tokens."""
    short = ids[sizes < length]
    if len(short):
        at = int(np.argmax(sizes < length))
        others = ", ".join(map(str, short[:5].tolist())) + (", ..." if len(short) > 5 else "")
        how_many = f" ({len(short):,} of the {len(ids):,} read here are too short: {others})"
        raise BadInput(
            f"{name}: {row} {int(ids[at])} has {int(sizes[at])} tokens, {length} are needed (context and "
            f"continuation){how_many if len(short) > 1 else ''}: ask for a shorter context, or leave such "
            "sequences out"
        )


def as_token_ids(values: NDArray[Any], ids: NDArray[np.int64], name: str) -> NDArray[np.uint32]:
    """Integers [n, length] of any width as u32. Raises BadInput for a negative or too large one."""
    wrong: NDArray[np.bool_] | None = None
    if values.dtype.kind == "i":
        wrong = values < 0
    if values.dtype.itemsize > 4:
        too_large = values > LARGEST_TOKEN
        wrong = too_large if wrong is None else wrong | too_large
    if wrong is not None and wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise BadInput(
            f"{name}: sequence {int(ids[row])} has {int(values[row, column])} at position {int(column)}: "
            f"a token id is a number from 0 to {LARGEST_TOKEN}"
        )
    return values.astype(np.uint32)
