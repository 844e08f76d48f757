"""What sequences are held against before a run reads them: the suite, the vocabulary, and themselves.

Nothing here reads all of the data: some sequences, spread from the first to the last, say what they can in
about a second, and every check says how many were looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memoserve.checks import Check, CheckResult
from memoserve.errors import BadInput
from memoserve.sequences.order import OrderEvidence
from memoserve.sequences.source import PLACES, SequenceSource, sampled_ids

SAMPLED = 1024
"""Sequences whose tokens are looked at, at most."""

SAMPLED_TOKENS = 4096
"""Of each of them, at most."""

RANGES = {"uint8": 1 << 8, "int8": 1 << 7, "uint16": 1 << 16, "int16": 1 << 15}
"""How many token ids each narrow type of integer can tell apart."""

FEW_TOKENS = 64
"""Fewer tokens than this say nothing about what they are."""

SOME_TOKENS = 4096
"""In so many tokens of text, some id lies beyond the first hundredth of its vocabulary."""


@dataclass(frozen=True)
class LengthRange:
    """Fewest and most tokens of a sequence; `sampled` of all sequences were looked at."""

    fewest: int
    most: int
    sampled: int


def check_sequences(
    source: SequenceSource,
    *,
    trained: int | None,
    control: tuple[int, int] | None,
    sequence_length: int | None,
    vocabulary_size: int | None,
    length: int,
    subject: str | None = None,
    partial: bool = False,
    skip_short: bool = False,
) -> tuple[Check, ...]:
    """Hold sequences against what a suite says of them (None: it isn't known, and not checked).

    `trained` sequences were trained on, those of `control` (half-open) were not; training read
    `sequence_length` tokens of each; a window takes the first `length`. `partial`: the source is known to
    hold a part of the training data (its first sequences, or their first tokens), which makes fewer or
    shorter ones warnings; `skip_short` makes shorter ones warnings, those below `length` are left out.
    `subject` names the sequences in the checks, else their description does. Raises StorageFailed where the
    sequences can't be reached; what is wrong with them becomes a failed check.
    """
    subject = subject or source.description
    seen = _Seen(source, length)
    checks = [
        _order(source),
        _count(source, trained, control, partial),
        *_lengths(seen, sequence_length, partial, skip_short),
        *_window_fits(seen, length, skip_short),
        _type(source, vocabulary_size),
        *_tokens(seen, vocabulary_size),
    ]
    return tuple(Check(name, subject, result, detail, figure) for name, result, detail, figure in checks)


def short_sequences(source: SequenceSource, ids: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    """Which of the ascending sequence ids i64[n] have fewer than `length` tokens: bool[n].

    Costs what `lengths` costs: nothing where all are of one size, else reading them. Raises as `lengths`.
    """
    return source.lengths(ids) < length


def length_range(source: SequenceSource) -> LengthRange:
    """Fewest and most tokens of the sequences: of all where that is cheap, else of a sample.

    Raises as SequenceSource.lengths.
    """
    if not source.count:
        return LengthRange(0, 0, 0)
    sizes = source.lengths(sampled_ids(source.count, source.cheap_lengths))
    return LengthRange(int(sizes.min()), int(sizes.max()), len(sizes))


_Row = tuple[str, CheckResult, str, float | None]


class _Seen:
    """What a sample of the sequences holds; `damaged` says why it couldn't be read."""

    def __init__(self, source: SequenceSource, length: int) -> None:
        self.source = source
        self.damaged: str | None = None
        whole = source.count <= source.cheap_lengths
        # A sample is read twice, for lengths and for tokens, and from places apart.
        self.ids = sampled_ids(source.count, source.count if whole else source.cheap_lengths // 4)
        self.sizes = np.empty(0, np.int64)
        self.token_ids = np.empty(0, np.int64)
        self.tokens = np.empty((0, 0), np.uint32)
        try:
            if len(self.ids):
                self.sizes = source.lengths(self.ids)
                self._read_tokens(length)
        except BadInput as error:
            self.damaged = str(error)

    def _read_tokens(self, length: int) -> None:
        some = self.ids[sampled_ids(len(self.ids), min(SAMPLED, max(self.source.cheap_lengths // 4, 1)))]
        sizes = self.sizes[np.searchsorted(self.ids, some)]
        long_enough = sizes >= length
        # Where none is as long as a window, what the longest hold still says what they are.
        least = int(sizes[long_enough].min()) if long_enough.any() else int(sizes.max())
        width = min(least, SAMPLED_TOKENS)
        self.token_ids = some[sizes >= max(width, 1)]
        if width:
            self.tokens = self.source.take(self.token_ids, width)

    @property
    def scope(self) -> str:
        """Which sequences were measured."""
        whole = len(self.ids) == self.source.count
        return "all sequences" if whole else f"{len(self.ids):,} sequences in {PLACES} places"


def _order(source: SequenceSource) -> _Row:
    name = "training order"
    try:
        evidence = source.order_evidence()
    except BadInput as error:
        evidence = OrderEvidence(against=(str(error),))
    if evidence.against:
        return name, "failed", "; ".join(evidence.against), None
    if evidence.doubts:
        return name, "warning", "; ".join(evidence.doubts), None
    if evidence.support:
        return name, "passed", evidence.support, None
    return name, "not checked", "nothing in the files says in which order training read them", None


def _count(
    source: SequenceSource, trained: int | None, control: tuple[int, int] | None, partial: bool
) -> _Row:
    name = "sequence count"
    figure = float(source.count)
    if not source.count:
        return name, "failed", "there are no sequences", figure
    if trained is None:
        return name, "not checked", "no suite says how many sequences there should be", figure
    expected = control[1] if control is not None else trained
    expectation = f"the suite trained on {trained:,}" + (
        f" and keeps {control[0]:,} to {control[1]:,} as control" if control is not None else ""
    )
    found = f"{source.count:,} sequences; {expectation}"
    if source.count == expected:
        return name, "passed", found, figure
    if source.count > expected and control is not None:
        advice = "these are other data, or cut in another way, or the suite's control range is wrong"
        return name, "failed", f"{found}: {advice}", figure
    if source.count > expected:
        # What follows the trained ones may be held out without the suite saying so; it isn't evaluated.
        advice = (
            f"those from {expected:,} on are not evaluated; if they were held out, let the suite say so "
            f"(control = [{expected}, {source.count}])"
        )
        return name, "warning", f"{found}: {advice}", figure
    if partial:
        return name, "warning", f"{found}: taken as the first part of them", figure
    advice = "these are other data, cut in another way, or files are missing; if it is the first part, say so"
    return name, "failed", f"{found}: {advice}", figure


def _lengths(seen: _Seen, sequence_length: int | None, partial: bool, skip_short: bool) -> Iterable[_Row]:
    """How many tokens sequences have, against those that training read of each."""
    name = "sequence lengths"
    if not len(seen.sizes):
        if seen.damaged is not None:
            yield name, "failed", seen.damaged, None
        return
    fewest, most = int(seen.sizes.min()), int(seen.sizes.max())
    packed = seen.source.kind == "pack"
    if packed:  # the pack's own length says nothing: it holds the beginnings of longer sequences
        if seen.source.whole_length is None:
            yield (
                name,
                "not checked",
                "this pack doesn't say how long its sequences were: pack them anew",
                None,
            )
            return
        fewest, most = seen.source.whole_length
    tokens = f"{fewest} tokens each" if fewest == most else f"{fewest} to {most} tokens"
    found = f"{tokens} {'before they were packed' if packed else f'({seen.scope})'}"
    if sequence_length is None:
        yield name, "not checked", f"{found}; no suite says how many there should be", float(most)
        return
    found += f"; the suite trained on {sequence_length} (or one more, with the target)"
    if most > sequence_length + 1:
        advice = "training cut them elsewhere: give the sequences as training read them"
        yield name, "failed", f"{found}: {advice}", float(most)
    elif fewest >= sequence_length:
        yield name, "passed", found, float(fewest)
    elif partial or skip_short:
        detail = f"{found}: taken as the beginnings of what training read"
        yield name, "warning", detail, float(fewest)
    else:
        advice = "these are not the sequences as training read them; if they are their beginnings, say so"
        yield name, "failed", f"{found}: {advice}", float(fewest)


def _window_fits(seen: _Seen, length: int, skip_short: bool) -> Iterable[_Row]:
    """Whether sequences are as long as a window."""
    name = "window fits"
    if not len(seen.sizes):
        return
    short, sizes = seen.ids[seen.sizes < length], seen.sizes[seen.sizes < length]
    if not len(short):
        detail = f"a window takes {length} tokens, the shortest has {int(seen.sizes.min())} ({seen.scope})"
        yield name, "passed", detail, 0.0
        return
    which = ", ".join(f"{i} ({n})" for i, n in zip(short[:5].tolist(), sizes[:5].tolist(), strict=True))
    detail = (
        f"{len(short):,} of {len(seen.sizes):,} ({seen.scope}) have fewer than the {length} tokens of a "
        f"window: {'sequences' if len(short) > 1 else 'sequence'} {which}{', ...' if len(short) > 5 else ''}"
    )
    if skip_short:
        yield name, "warning", f"{detail}: they are left out", float(len(short))
    else:
        advice = "ask for a shorter context, or leave them out (--skip-short)"
        if seen.source.kind == "pack":
            advice = f"this pack keeps {int(sizes[0])} tokens of each: make one with a longer context"
        yield name, "failed", f"{detail}: {advice}", float(len(short))


def _type(source: SequenceSource, vocabulary_size: int | None) -> _Row:
    name = "token type"
    if vocabulary_size is None:
        return name, "not checked", f"{source.token_dtype}; the vocabulary isn't known", None
    narrow = [kind for kind in source.token_dtype.split("/") if RANGES.get(kind, 1 << 32) < vocabulary_size]
    if not narrow:
        return name, "passed", f"{source.token_dtype} holds {vocabulary_size:,} ids", float(vocabulary_size)
    return (
        name,
        "failed",
        f"the model's vocabulary has {vocabulary_size:,} ids, {narrow[0]} holds {RANGES[narrow[0]]:,}: "
        "larger ids were cut off when the file was written, or another tokenizer wrote it: write it again as "
        "uint32",
        float(vocabulary_size),
    )


def _tokens(seen: _Seen, vocabulary_size: int | None) -> Iterable[_Row]:
    if seen.damaged is not None:
        if len(seen.sizes):
            yield "token ids", "failed", seen.damaged, None
        return
    tokens = seen.tokens
    if not tokens.size:
        return
    largest = int(tokens.max())
    scope = (
        f"{len(tokens):,} of {seen.source.count:,} sequences, {tokens.shape[1]} tokens of each, from the "
        "first to the last"
    )
    if vocabulary_size is None:
        yield "token ids", "not checked", f"largest {largest} in {scope}; the vocabulary isn't known", largest
    elif largest >= vocabulary_size:
        row, column = (int(i) for i in np.argwhere(tokens >= vocabulary_size)[0])
        yield (
            "token ids",
            "failed",
            f"sequence {int(seen.token_ids[row])} has token id {int(tokens[row, column])} at position "
            f"{column}, but the model's vocabulary has {vocabulary_size} ids (0..{vocabulary_size - 1}): "
            "these sequences were made with another tokenizer, or the file is damaged",
            float(largest),
        )
    else:
        yield (
            "token ids",
            "passed",
            f"largest {largest}, vocabulary {vocabulary_size:,}, in {scope}",
            float(largest),
        )
    yield _plausible(seen, vocabulary_size, scope)


def _plausible(seen: _Seen, vocabulary_size: int | None, scope: str) -> _Row:
    """Whether the numbers look like token ids at all: not a mask, positions, or a file that isn't filled."""
    name = "token content"
    tokens = seen.tokens
    distinct = len(np.unique(tokens))
    advice = "these are not token ids: name the column, or the file, that holds them"
    if tokens.size < FEW_TOKENS:
        return name, "not checked", f"{tokens.size} tokens are too few to say", float(distinct)
    if (distinct <= 2 or int(tokens.max()) < 3) and (vocabulary_size or 16) >= 16:
        shown = ", ".join(map(str, np.unique(tokens)[:3].tolist()))
        return name, "failed", f"nothing but {shown} in {scope}, as in a mask: {advice}", float(distinct)
    steps = np.diff(tokens.astype(np.int64), axis=1)
    counting = float(((steps == 0) | (steps == 1)).mean()) if steps.size else 0.0
    if counting > 0.95:
        detail = f"{counting:.0%} of the numbers repeat or follow the one before in {scope}, as positions do"
        return name, "failed", f"{detail}: {advice}", counting
    empty = _unfilled(seen)
    if empty is not None:
        first, last, token = empty
        return (
            name,
            "failed",
            f"the sequences {first} to {last} hold nothing but {token}: the file was not written to its end, "
            "or not downloaded whole: get it anew",
            float(token),
        )
    if len(tokens) >= 16 and bool((tokens == tokens[0]).all()):
        return name, "failed", f"all sequences are the same in {scope}: {advice}", 1.0
    if vocabulary_size and tokens.size >= SOME_TOKENS and int(tokens.max()) < vocabulary_size // 100:
        detail = f"no id above {int(tokens.max())} of a vocabulary of {vocabulary_size:,} in {scope}"
        return name, "warning", f"{detail}: are they of this tokenizer?", float(distinct)
    return name, "passed", f"{distinct:,} distinct ids in {scope}", float(distinct)


def _unfilled(seen: _Seen) -> tuple[int, int, int] | None:
    """Eight or more neighbouring sequences that hold nothing but one token: (first, last, that token)."""
    constant = (seen.tokens == seen.tokens[:, :1]).all(axis=1)
    ids, heads = seen.token_ids, seen.tokens[:, 0]
    new = np.ones(len(ids), bool)
    new[1:] = (np.diff(ids) != 1) | (heads[1:] != heads[:-1]) | ~constant[1:] | ~constant[:-1]
    starts = np.flatnonzero(new)
    ends = np.append(starts[1:], len(ids))
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        if end - start >= 8 and constant[start]:
            return int(ids[start]), int(ids[end - 1]), int(heads[start])
    return None
