"""JSONL: one object a line, {"text": ...} with a tokenizer, or {"tokens": [...]}; ids are line numbers.

Where an object has token ids and text, the ids are what training read, and the text is left alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memoserve.errors import BadInput
from memoserve.files.byte_ranges import ByteRanges
from memoserve.files.place import Place
from memoserve.sequences.identity import sampled_sha256
from memoserve.sequences.order import MAYBE_NUMBERS, Numbering, OrderEvidence, evidence_of
from memoserve.sequences.source import (
    LARGEST_TOKEN,
    check_ids,
    check_length,
    check_long_enough,
    check_span,
    sampled_ids,
)
from memoserve.sequences.tokenizer import read_tokenizer_file, tokenizer_from_bytes

MARK_LINES = 4096
MARK_BYTES = 1 << 20
"""The offset of a line is kept every so many lines or bytes: 16 bytes for a MiB of file at most."""

LONGEST_LINE = 64 << 20
BLOCK = 1 << 20
KEYS = ("tokens", "input_ids")
"""Keys of token ids. Where an object has both, they must agree."""

ID_KEYS = ("sequence_id", "index")
"""Keys that number the lines, if they are there: ids are line numbers, so they must be 0, 1, 2 …"""

_WHITE = np.zeros(256, dtype=bool)
_WHITE[list(b" \t\r\n")] = True

SAMPLED_LINES = 1024
"""Lines, at most, in which keys that may number them are looked at."""

TOGETHER = 256
"""Texts given to the tokenizer at once."""


class JsonlSequences:
    """A SequenceSource over the lines of a file. Opening reads it once, to find the lines."""

    cheap_lengths = 4096
    whole_length: tuple[int, int] | None = None

    def __init__(self, place: Place, tokenizer: str | None = None, key: str | None = None) -> None:
        """Open, find the lines and check the first; `key` names the token ids where KEYS don't.

        Raises BadInput, also for text without a tokenizer.
        """
        self._data = ByteRanges([place])
        self._name = self._data.name
        self.count, self._marks, self._sha256, self._blank = _find_lines(self._data)
        self._keys = KEYS if key is None else (key,)
        self.total_bytes = self._data.size
        first: dict[str, Any] = {self._keys[0]: []}
        if self.count:
            first = self._parse(0, next(self._lines(np.array([0], dtype=np.int64)))[1])
        keys = [key for key in self._keys if key in first]
        self._field = "tokens" if keys else "text"
        self._key = keys[0] if keys else "text"
        self._named = key if key is not None and [k for k in KEYS if k in first] != [key] else None
        self.kind = f"jsonl-{self._field}"
        self.token_dtype = "text" if self._field == "text" else "integers"
        self._tokenizer_sha256: str | None = None
        if self._field == "text":
            if tokenizer is None:
                raise BadInput(
                    f"{self._name} holds text: give the tokenizer.json that the model was trained with"
                )
            content = read_tokenizer_file(tokenizer)
            self._tokenizer = tokenizer_from_bytes(content, tokenizer)
            self._tokenizer_sha256 = hashlib.sha256(content).hexdigest()
        self.description = f"{self._name}: {self.count:,} sequences, JSONL {self._key}"

    def order_evidence(self) -> OrderEvidence:
        """See SequenceSource.order_evidence: a blank line among the others, keys that number the lines.

        Numbers under ID_KEYS are checked wherever a line is read; those under other names in a sample.
        """
        if self._blank is not None:
            blank = f"{self._name}: line {self._blank + 1} is blank"
            return OrderEvidence(against=(f"{blank}: ids are line numbers, so it would be one: remove it",))
        numberings: dict[str, Numbering] = {}
        for line, content in self._lines(sampled_ids(self.count, SAMPLED_LINES)):
            for key, value in self._parse(line, content).items():
                if key in ID_KEYS or (key.lower() in MAYBE_NUMBERS and type(value) is int):
                    numbering = numberings.setdefault(key, Numbering(key, "line"))
                    numbering.look_at(np.array([line]), np.array([value], dtype=object), self._name)
        return evidence_of(numberings.values(), "line")

    def read(self, first: int, stop: int, length: int) -> NDArray[np.uint32]:
        """See SequenceSource.read."""
        return self._tokens(check_span(first, stop, self.count, self._name), length)

    def take(self, ids: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
        """See SequenceSource.take."""
        return self._tokens(check_ids(ids, self.count, self._name), length)

    def lengths(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """See SequenceSource.lengths."""
        ids = check_ids(ids, self.count, self._name)
        sizes = [len(tokens) for _, some in self._token_lists(ids) for tokens in some]
        return np.array(sizes, dtype=np.int64)

    def identity(self) -> dict[str, str | int]:
        """See SequenceSource.identity. `index_sha256` is that of the whole file: its lines are the index."""
        identity: dict[str, str | int] = {
            "kind": self.kind,
            "count": self.count,
            "bytes": self.total_bytes,
            "index_sha256": self._sha256,
            "data_sha256": sampled_sha256(self._data),
        }
        if self._tokenizer_sha256 is not None:
            identity["tokenizer_sha256"] = self._tokenizer_sha256
        if self._named is not None:
            identity["tokens_column"] = self._named
        return identity

    def _tokens(self, ids: NDArray[np.int64], length: int) -> NDArray[np.uint32]:
        check_length(length)
        rows = [np.empty((0, length), dtype=np.uint32)]
        for some, lists in self._token_lists(ids):
            sizes = np.array([len(tokens) for tokens in lists], dtype=np.int64)
            check_long_enough(sizes, some, length, self._name)
            rows.append(np.array([tokens[:length] for tokens in lists], dtype=np.uint32))
        return np.concatenate(rows)

    def _token_lists(self, ids: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], list[list[int]]]]:
        """The token ids of each line, some lines at a time."""
        lines = self._lines(ids)
        for start in range(0, len(ids), TOGETHER):
            some = ids[start : start + TOGETHER]
            objects = [self._parse(*next(lines)) for _ in some]
            if self._field == "tokens":
                lists = [self._given_tokens(int(i), found) for i, found in zip(some, objects, strict=True)]
            else:
                lists = self._encoded(some, objects)
            yield some, lists

    def _given_tokens(self, line: int, found: dict[str, Any]) -> list[int]:
        tokens = found.get(self._key)
        if not isinstance(tokens, list):
            raise BadInput(f'{self._where(line)} has no list "{self._key}"')
        for other in self._keys:
            if found.get(other, tokens) != tokens:
                raise BadInput(
                    f'{self._where(line)} has "{self._key}" and "{other}", which differ: name the one that '
                    "holds the token ids"
                )
        for token in tokens:
            if type(token) is not int or not 0 <= token <= LARGEST_TOKEN:
                shown = repr(token)[:40] if isinstance(token, str | int | float) else type(token).__name__
                raise BadInput(f"{self._where(line)}: {shown} is not a token id (0 to {LARGEST_TOKEN})")
        return tokens

    def _encoded(self, ids: NDArray[np.int64], objects: list[dict[str, Any]]) -> list[list[int]]:
        texts = []
        for line, found in zip(ids.tolist(), objects, strict=True):
            text = found.get("text")
            if not isinstance(text, str):
                raise BadInput(f'{self._where(line)} has no string "text"')
            given = [key for key in self._keys if key in found]
            if given:
                raise BadInput(
                    f'{self._where(line)} has "{given[0]}" beside its text, the first line has text alone'
                )
            try:
                text.encode()
            except UnicodeEncodeError:
                raise BadInput(f"{self._where(line)}: its text holds half of a surrogate pair") from None
            texts.append(text)
        try:
            # Training data are packed without the tokens that a tokenizer would add around a prompt.
            return [list(one.ids) for one in self._tokenizer.encode_batch(texts, add_special_tokens=False)]
        except BaseException as error:  # a panic on the Rust side is a BaseException
            if isinstance(error, KeyboardInterrupt | SystemExit):
                raise
            raise BadInput(
                f"{self._name}: the tokenizer fails on one of the sequences {ids[0]} to {ids[-1]}: {error}"
            ) from None

    def _parse(self, line: int, content: bytes) -> dict[str, Any]:
        try:
            found = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{self._where(line)} is not JSON: {error}") from None
        known = ("text", *self._keys) if self._keys == KEYS else self._keys
        if not isinstance(found, dict) or not any(key in found for key in known):
            wanted = ", ".join(f'"{key}"' for key in known)
            raise BadInput(f"{self._where(line)} is not an object with one of {wanted}")
        for name in ID_KEYS:
            if (number := found.get(name, line)) != line:
                raise BadInput(
                    f"{self._where(line)} has {name} {str(number)[:40]}: lines must be sequences 0, 1, 2 … "
                    "in training order; sort them, keep each once, or leave the key out"
                )
        return found

    def _where(self, line: int) -> str:
        return f"{self._name}: sequence {line} (line {line + 1})"

    def _lines(self, ids: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
        """Each of the ascending ids with its line."""
        numbers, offsets = self._marks
        reader: Iterator[bytes] = iter(())
        at = -1  # the line that reader gives next
        previous = b""
        for wanted in ids.tolist():
            mark = int(np.searchsorted(numbers, wanted, side="right")) - 1
            if at < 0 or int(numbers[mark]) > at:
                reader, at = _split(self._data, int(offsets[mark])), int(numbers[mark])
            while at <= wanted:  # not entered where an id comes twice
                line = next(reader, None)
                if line is None:
                    raise BadInput(f"{self._name} changed while it was being read: line {at + 1} is gone")
                previous, at = line, at + 1
            yield wanted, previous


def _split(data: ByteRanges, offset: int) -> Iterator[bytes]:
    """The lines from `offset` on."""
    rest = b""
    while offset < data.size:
        block = data.read(offset, min(BLOCK, data.size - offset))
        offset += len(block)
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
        if len(rest) > LONGEST_LINE:
            raise BadInput(f"{data.name}: a line above {LONGEST_LINE >> 20} MiB at byte {offset - len(rest)}")
    if rest:
        yield rest


def _find_lines(
    data: ByteRanges,
) -> tuple[int, tuple[NDArray[np.int64], NDArray[np.int64]], str, int | None]:
    """Number of lines, (line, offset) of some of them, the sha256 of the file, and the first blank line that
    another follows (None: there is none), in one pass.

    The last line may lack its newline; blank lines at the end are none.
    """
    digest = hashlib.sha256()
    numbers, offsets = [0], [0]
    lines = begin = line_begin = 0
    filled = -1  # the last line that is not blank
    blank: int | None = None
    for block in data.stream(block=BLOCK):
        digest.update(block)
        found = np.frombuffer(block, dtype=np.uint8)
        ends = np.flatnonzero(found == 10) + 1
        # Lines of this block (the last may go on in the next) that hold anything but white space.
        marks = np.flatnonzero(~_WHITE[found])
        here = np.unique(np.searchsorted(ends, marks, side="right")) + lines
        if blank is None and len(here):
            before = np.concatenate([[filled], here])
            skipped = np.flatnonzero(np.diff(before) > 1)
            if len(skipped):
                blank = int(before[skipped[0]]) + 1
        if len(here):
            filled = int(here[-1])
        done = 0  # ends of this block already behind a mark
        while done < len(ends):
            # The next mark: the first line that begins MARK_LINES lines or MARK_BYTES bytes after the last.
            by_lines = numbers[-1] + MARK_LINES - lines - 1
            by_bytes = int(np.searchsorted(ends, offsets[-1] + MARK_BYTES - begin))
            at = max(min(by_lines, by_bytes), done)
            if at >= len(ends):
                break
            numbers.append(lines + at + 1)
            offsets.append(begin + int(ends[at]))
            done = at + 1
        lines += len(ends)
        if len(ends):
            line_begin = begin + int(ends[-1])
        begin += len(block)
        if begin - line_begin > LONGEST_LINE:
            raise BadInput(
                f"{data.name}: a line above {LONGEST_LINE >> 20} MiB at byte {line_begin}: is it JSONL?"
            )
    marks_found = (np.array(numbers, dtype=np.int64), np.array(offsets, dtype=np.int64))
    return filled + 1, marks_found, digest.hexdigest(), blank
