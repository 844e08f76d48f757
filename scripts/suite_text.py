"""From any text to the sequences of a suite: tokenizer, planted text, packing, control, what is planted.

Real training data repeat themselves in many ways. What is planted here imitates them, so that a small
suite has every way by which text gets memorized: passages copied inside other documents, by a power law,
word for word, with a few tokens changed, or as templates with slots; text that can be continued without
any copy of it; and a few whole sequences trained on again. Everything is a pure function of the text and
a seed.
"""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from suite_recipe import (
    CONTROL,
    CONTROL_RUN,
    COPIES_EXPONENT,
    COUNTING,
    EDITS,
    END_OF_TEXT,
    MOST_COPIES,
    MOST_SEQUENCE_COPIES,
    PASSAGE_KINDS,
    PASSAGE_TOKENS,
    PASSAGES,
    PHRASE_TOKENS,
    REPEATING,
    SEQUENCES,
    SLOTS,
    TOKENS,
    VOCABULARY,
)


@dataclass(frozen=True)
class Corpus:
    """u16[n, 81] in training order with the control last, and what is planted in it.

    `planted` has one row for each planted piece of each sequence: sequence id, kind, passage (pieces of one
    passage share it), copies of the passage in the training data, first token and count of tokens here.
    """

    sequences: NDArray[np.uint16]
    trained: int
    planted: dict[str, NDArray[Any]]


def read_documents(source: Path, suffixes: tuple[str, ...]) -> list[str]:
    """The text files of a folder, a wheel or other zip, or one text file, in the order of their names.

    Of a folder or zip only files with one of `suffixes`; files that are no UTF-8 are left out.
    """
    if source.is_dir():
        files = sorted(p for p in source.rglob("*") if p.is_file() and p.name.endswith(suffixes))
        contents = [path.read_bytes() for path in files]
    elif zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            contents = [archive.read(n) for n in sorted(archive.namelist()) if n.endswith(suffixes)]
    elif source.exists():
        contents = [source.read_bytes()]
    else:
        raise SystemExit(f"{source} does not exist: name a text file, a folder or a wheel")
    documents = []
    for content in contents:
        try:
            text = content.decode()
        except UnicodeDecodeError:
            continue
        if text.strip():
            documents.append(text)
    if not documents:
        raise SystemExit(f"{source} has no text in files named {' or '.join(suffixes)}: pass --suffix")
    return documents


def train_tokenizer(documents: list[str], path: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.save(str(path))


def power_law(count: int, most: int) -> NDArray[np.int64]:
    """Copies by rank: most, most / 2**a, most / 3**a, ..., never fewer than two."""
    return np.maximum(2, (most * np.arange(1, count + 1) ** -COPIES_EXPONENT).astype(np.int64))


def starts_of_lines(stream: NDArray[np.uint16], tokenizer: Any) -> NDArray[np.int64]:
    """Where something may be inserted: after a line's end, inside a document."""
    newline = [i for i in range(tokenizer.get_vocab_size()) if "Ċ" in tokenizer.id_to_token(i)]
    after = np.flatnonzero(np.isin(stream, newline)) + 1
    after = after[after < len(stream)]
    inside: NDArray[np.bool_] = stream[after] != 0
    return after[inside]


def random_length(rng: np.random.Generator) -> int:
    low, high = np.log(PASSAGE_TOKENS)
    return int(np.exp(rng.uniform(low, high)))


def cut_passages(
    stream: NDArray[np.uint16], starts: NDArray[np.int64], rng: np.random.Generator
) -> tuple[list[NDArray[np.uint16]], int]:
    """Passages that begin a line and lie in one document, from the stream's beginning; where they end."""
    passages: list[NDArray[np.uint16]] = []
    cursor = 0
    while len(passages) < PASSAGES:
        at = np.searchsorted(starts, cursor)
        if at == len(starts):
            raise SystemExit("the corpus is too short for the passages to plant: bring more text")
        start = int(starts[at])
        passage = stream[start : start + random_length(rng)]
        cursor = start + len(passage)
        if not (passage == 0).any():
            passages.append(passage)
    return passages, cursor


def copy_of(
    passage: NDArray[np.uint16],
    kind: str,
    slots: NDArray[np.int64],
    stream: NDArray[np.uint16],
    rng: np.random.Generator,
) -> NDArray[np.uint16]:
    """One copy of a passage; what is changed is drawn from the tokens of the text."""
    if kind == "exact":
        return passage
    if kind == "edited":
        slots = rng.choice(len(passage), rng.integers(EDITS[0], EDITS[1], endpoint=True), replace=False)
    filling = stream[rng.integers(0, len(stream), len(slots))]
    copy = passage.copy()
    copy[slots] = np.where(filling == 0, passage[slots], filling)  # never end of text
    return copy


def repeating(stream: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.uint16]:
    """A phrase of a few tokens from the text, over and over."""
    length = int(rng.integers(PHRASE_TOKENS[0], PHRASE_TOKENS[1], endpoint=True))
    phrase = np.zeros(1, dtype=np.uint16)
    while (phrase == 0).any():
        start = rng.integers(0, len(stream) - length)
        phrase = stream[start : start + length]
    return np.resize(phrase, random_length(rng))


def counting(stream: NDArray[np.uint16], tokenizer: Any, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Numbered lines: a word or two of the text, a number that grows, a word or two."""
    start = int(rng.integers(0, len(stream) - 4))
    before, after = (tokenizer.decode(stream[i : i + 2].tolist()).strip() for i in (start, start + 2))
    first, step = int(rng.integers(0, 1000)), int(rng.choice([1, 1, 1, 2, 5, 10]))
    lines = "".join(f"{before} {first + step * i} {after}\n" for i in range(100))
    tokens = np.array(tokenizer.encode(lines).ids, dtype=np.uint16)
    return tokens[: random_length(rng)]


@dataclass(frozen=True)
class Piece:
    """What is inserted at one place."""

    tokens: NDArray[np.uint16]
    kind: str
    passage: int
    copies: int


def pieces_to_plant(
    passages: list[NDArray[np.uint16]],
    stream: NDArray[np.uint16],
    tokenizer: Any,
    rng: np.random.Generator,
) -> list[Piece]:
    """All pieces, in random order."""
    pieces = []
    for i, (passage, copies) in enumerate(zip(passages, power_law(PASSAGES, MOST_COPIES), strict=True)):
        kind = PASSAGE_KINDS[i % len(PASSAGE_KINDS)]
        slots = rng.choice(len(passage), SLOTS, replace=False)
        for _ in range(copies):
            pieces.append(Piece(copy_of(passage, kind, slots, stream, rng), kind, i, int(copies)))
    for i in range(REPEATING):
        pieces.append(Piece(repeating(stream, rng), "repeating", PASSAGES + i, 1))
    for i in range(COUNTING):
        tokens = counting(stream, tokenizer, rng)
        pieces.append(Piece(tokens, "counting", PASSAGES + REPEATING + i, 1))
    return [pieces[i] for i in rng.permutation(len(pieces))]


def insert(
    text: NDArray[np.uint16], starts: NDArray[np.int64], pieces: list[Piece], rng: np.random.Generator
) -> tuple[NDArray[np.uint16], NDArray[np.int32]]:
    """The text with each piece inserted at a random line's start, and each token's piece (-1: none)."""
    positions = np.sort(rng.choice(starts, len(pieces)))
    tokens: list[NDArray[np.uint16]] = []
    labels: list[NDArray[np.int32]] = []
    done = 0
    for i, (position, piece) in enumerate(zip(positions, pieces, strict=True)):
        tokens += [text[done:position], piece.tokens]
        labels += [np.full(position - done, -1, np.int32), np.full(len(piece.tokens), i, np.int32)]
        done = position
    tokens.append(text[done:])
    labels.append(np.full(len(text) - done, -1, np.int32))
    return np.concatenate(tokens), np.concatenate(labels)


def planted_spans(labels: NDArray[np.int32]) -> NDArray[np.int64]:
    """i64[m, 4]: row, first token, count and piece of every run of one label that is not -1."""
    spans = []
    for row, line in enumerate(labels):
        edges = np.flatnonzero(np.diff(line, prepend=-2, append=-2))
        for start, end in pairwise(edges):
            if line[start] >= 0:
                spans.append((row, start, end - start, line[start]))
    return np.array(spans, dtype=np.int64).reshape(-1, 4)


def runs_of(rows: NDArray[np.uint16], length: int) -> set[bytes]:
    """Every run of `length` tokens in the rows, at any offset, as bytes."""
    return {row[i : i + length].tobytes() for row in rows for i in range(row.size - length + 1)}


def make_corpus(documents: list[str], tokenizer_path: Path, trained: int, seed: int) -> Corpus:
    """`trained` training sequences in random order, then CONTROL held-out ones.

    The shuffled documents, joined by end of text, are cut into three parts: passages to copy, the text
    they are inserted into, and the rest, which gives the control. No control sequence shares a run of 32
    tokens with any training sequence, at any offset.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_path))
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    assert end_of_text is not None
    rng = np.random.default_rng(seed)
    joined: list[int] = []
    for encoding in tokenizer.encode_batch([documents[i] for i in rng.permutation(len(documents))]):
        joined += [*encoding.ids, end_of_text]
    stream = np.array(joined, dtype=np.uint16)
    starts = starts_of_lines(stream, tokenizer)
    passages, begin = cut_passages(stream, starts, rng)
    pieces = pieces_to_plant(passages, stream[begin:], tokenizer, rng)

    again = power_law(SEQUENCES, MOST_SEQUENCE_COPIES) - 1
    rows = trained - int(again.sum())
    end = begin + rows * TOKENS - sum(len(piece.tokens) for piece in pieces)
    if not begin < end < len(stream) - CONTROL * TOKENS:
        raise SystemExit(f"the corpus has {len(stream):,} tokens and {end + CONTROL * TOKENS:,} are needed")
    inside = starts[(starts > begin) & (starts < end)] - begin
    tokens, labels = insert(stream[begin:end], inside, pieces, rng)
    sequences, labels = tokens.reshape(rows, TOKENS), labels.reshape(rows, TOKENS)

    plain = rng.choice(np.flatnonzero((labels == -1).all(axis=1)), SEQUENCES, replace=False)
    order = rng.permutation(np.concatenate([np.arange(rows), np.repeat(plain, again)]))
    planted = planted_table(order, labels, pieces, dict(zip(plain.tolist(), again + 1, strict=True)))

    seen = runs_of(sequences, CONTROL_RUN)
    left = stream[end : end + (len(stream) - end) // TOKENS * TOKENS].reshape(-1, TOKENS)
    unseen = [row for row in left[rng.permutation(len(left))] if not runs_of(row[None], CONTROL_RUN) & seen]
    if len(unseen) < CONTROL:
        raise SystemExit(f"only {len(unseen)} held-out sequences share no text: bring more text")
    return Corpus(np.concatenate([sequences[order], np.array(unseen[:CONTROL])]), trained, planted)


def planted_table(
    order: NDArray[np.int64], labels: NDArray[np.int32], pieces: list[Piece], again: dict[int, int]
) -> dict[str, NDArray[Any]]:
    """The columns of `Corpus.planted`, by sequence id."""
    rows: list[tuple[int, str, int, int, int, int]] = []
    for sequence, start, count, label in planted_spans(labels[order]).tolist():
        piece = pieces[label]
        rows.append((sequence, piece.kind, piece.passage, piece.copies, start, count))
    first = PASSAGES + REPEATING + COUNTING
    whole = {row: (first + i, copies) for i, (row, copies) in enumerate(again.items())}
    for sequence in np.flatnonzero(np.isin(order, list(whole))).tolist():
        passage, copies = whole[int(order[sequence])]
        rows.append((sequence, "sequence", passage, int(copies), 0, TOKENS))
    rows.sort()
    ids, kinds, passages, copies_, starts, counts = zip(*rows, strict=True)
    return {
        "sequence_id": np.array(ids, dtype=np.int64),
        "kind": np.array(kinds),
        "passage": np.array(passages, dtype=np.int32),
        "copies": np.array(copies_, dtype=np.int32),
        "first_token": np.array(starts, dtype=np.int16),
        "tokens": np.array(counts, dtype=np.int16),
    }


def write_megatron(sequences: NDArray[np.uint16], prefix: Path) -> None:
    """Megatron / GPT-NeoX indexed dataset: one document a sequence, dtype code 8 (u16)."""
    count, length = sequences.shape
    with open(prefix.with_suffix(".bin"), "wb") as data:
        data.write(sequences.astype("<u2").tobytes())
    with open(prefix.with_suffix(".idx"), "wb") as index:
        index.write(b"MMIDIDX\x00\x00")
        index.write(np.uint64(1).tobytes() + np.uint8(8).tobytes())
        index.write(np.uint64(count).tobytes() + np.uint64(count + 1).tobytes())
        index.write(np.full(count, length, dtype="<i4").tobytes())
        index.write((np.arange(count, dtype="<i8") * length * 2).tobytes())
        index.write(np.arange(count + 1, dtype="<i8").tobytes())


def write_planted(planted: dict[str, NDArray[Any]], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(planted)
    kinds = table["kind"].dictionary_encode()
    table = table.set_column(table.schema.get_field_index("kind"), "kind", kinds)
    pq.write_table(table, path, compression="zstd")
