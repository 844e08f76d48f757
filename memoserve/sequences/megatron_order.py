"""Whether a Megatron index is one of training sequences, or of documents, from which training drew samples.

GPT-NeoX and Megatron-LM train on samples: documents in the order of a `doc_idx`, cut across at `sample_idx`,
drawn by `shuffle_idx`. An index of documents has the same format as one of sequences that were written in
training order (such as Pythia's), so what it holds must tell the two apart.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from memoserve.errors import BadInput
from memoserve.files.place import Place

ADVICE = (
    "training reads samples that are cut from documents and shuffled: write these samples in training order, "
    "one a sequence, and give that file"
)

# GPT-NeoX: PREFIX_train_indexmap_…_doc_idx.npy; Megatron-LM: …-GPTDataset-train-document_index.npy.
ORDER_FILE = re.compile(r".*((doc|sample|shuffle)_idx|(document|sample|shuffle)_index)\.npy", re.DOTALL)
CACHE = ("cache/GPTDataset_indices", "GPTDataset_indices")


@dataclass(frozen=True)
class IndexFacts:
    """What one pass over an index says.

    Its sha256; `uniform`, the tokens of every sequence (None: they differ, or aren't stored one after
    another); fewest and most tokens; how many sequences are empty; what is wrong with its document index; how
    many sequences have a mode other than 0.
    """

    sha256: str
    count: int
    uniform: int | None
    fewest: int
    most: int
    empty: int
    documents: str | None
    other_modes: int

    def contradictions(self) -> Iterator[str]:
        """What speaks against sequences in training order."""
        if self.fewest != self.most:
            empty = f", {self.empty:,} of them none" if self.empty else ""
            yield (
                f"its {self.count:,} sequences have {self.fewest} to {self.most} tokens{empty}: it is an "
                "index of documents, not of training sequences"
            )
        elif self.empty:
            yield f"its {self.empty:,} sequences are empty"
        if self.documents is not None:
            yield self.documents
        if self.other_modes:
            yield (f"{self.other_modes:,} sequences have a mode other than 0: they are no text")


class IndexReader:
    """Collects IndexFacts while the blocks of an index pass, in their order."""

    def __init__(self, header: bytes, count: int, width: int) -> None:
        self._digest = hashlib.sha256(header)
        self._count, self._width = count, width
        self._fewest, self._most, self._empty = 2**31, -1, 0
        self._pointer, self._follow = 0, True
        self._seen, self._each, self._ascend, self._first, self._last = 0, True, True, 0, 0
        self._modes = 0

    def sizes(self, block: bytes) -> None:
        """Tokens of sequences, i32."""
        self._digest.update(block)
        sizes = np.frombuffer(block, dtype="<i4")
        self._fewest, self._most = min(self._fewest, int(sizes.min())), max(self._most, int(sizes.max()))
        self._empty += int((sizes == 0).sum())

    def pointers(self, block: bytes) -> None:
        """Where sequences begin, bytes, i64; all sizes have passed."""
        self._digest.update(block)
        if self._fewest == self._most:
            step = self._most * self._width
            found = np.frombuffer(block, dtype="<i8")
            self._follow &= bool((found == self._pointer + step * np.arange(len(found))).all())
            self._pointer += step * len(found)

    def documents(self, block: bytes) -> None:
        """At which sequences documents begin, i64."""
        self._digest.update(block)
        found = np.frombuffer(block, dtype="<i8")
        if not self._seen:
            self._first = int(found[0])
        elif found[0] < self._last:
            self._ascend = False
        self._each &= bool((found == self._seen + np.arange(len(found))).all())
        self._ascend &= bool((found[1:] >= found[:-1]).all())
        self._seen, self._last = self._seen + len(found), int(found[-1])

    def modes(self, block: bytes) -> None:
        """What sequences hold, i8: 0 is text."""
        self._digest.update(block)
        self._modes += int(np.count_nonzero(np.frombuffer(block, dtype="i1")))

    def facts(self) -> IndexFacts:
        """Once all has passed."""
        if not self._count:
            return IndexFacts(self._digest.hexdigest(), 0, None, 0, 0, 0, None, 0)
        uniform = self._fewest == self._most > 0 and self._follow
        return IndexFacts(
            self._digest.hexdigest(),
            self._count,
            self._most if uniform else None,
            self._fewest,
            self._most,
            self._empty,
            self._document_problem(),
            self._modes,
        )

    def _document_problem(self) -> str | None:
        """None where each sequence is a document, or where documents were not told apart at all."""
        count, seen = self._count, self._seen
        if self._each and seen in (count, count + 1):
            return None
        if seen == 0 or (self._first, seen) == (0, 1) or (self._first, self._last, seen) == (0, count, 2):
            return None
        if not self._ascend or self._first != 0 or self._last != count:
            return (
                f"its document index ({seen:,} entries, from {self._first} to {self._last}) doesn't ascend "
                f"from 0 to its {count:,} sequences: it is damaged, or was merged wrongly"
            )
        return f"its document index makes {seen - 1:,} documents of {count:,} sequences"


def order_files(index: Place) -> Iterator[str]:
    """Files beside a .idx that say in which order training read it, as names relative to its folder.

    A web server has no listing: nothing is found there. Raises BadInput where the listing fails.
    """
    if index.web:
        return
    folder, _, name = index.path.rpartition("/")
    beside = _names(index.sibling(folder or ("." if index.remote is None else "")))
    own = name.removesuffix(".idx")
    others = [other.removesuffix(".idx") for other in beside if other.endswith(".idx") and other != name]
    for found in beside:
        # That of the longest name that it begins with; of no name: it may be this one's.
        theirs = any(found.startswith(other) and not own.startswith(other) for other in others)
        if ORDER_FILE.fullmatch(found) and not theirs:
            yield found
    for cache in CACHE:
        parts = cache.split("/")
        if parts[0] in beside and not others:
            inside = _names(index.sibling(f"{folder}/{cache}" if folder else cache))
            yield from (f"{cache}/{found}" for found in inside if ORDER_FILE.fullmatch(found))


def _names(folder: Place) -> list[str]:
    try:
        return folder.names()
    except BadInput:
        return []
