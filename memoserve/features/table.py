"""The columns of features of some sequences, put together from all that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from memoserve.features.compression import compressed, compressed_after
from memoserve.features.patterns import distinct_tokens, incrementing_numbers, repetition
from memoserve.features.runs import RunIndex, Tallies
from memoserve.features.text import TextFacts
from memoserve.features.tokens import KINDS, document_position, frequencies, texts_of
from memoserve.features.windows import DistinctWindows
from memoserve.store.features import FEATURES
from memoserve.store.scores import arrow_of

if TYPE_CHECKING:
    import pyarrow as pa

Numbers = NDArray[np.int64]

_masked: Any = np.ma.MaskedArray

_BLOCK = 1 << 14
"""Windows at a time: their texts, and what is counted of each token, take some kB a window."""


@dataclass(frozen=True)
class Occurrences:
    """Which training sequences begin with each window: windows and sequences, i64[n], by window, ascending.

    steps: how many steps training took; batch: of so many sequences each.
    """

    windows: Numbers
    sequences: Numbers
    steps: int
    batch: int

    def columns(self, rows: Numbers) -> dict[str, Any]:
        """Of distinct windows, i64[n]."""
        first, stop = np.searchsorted(self.windows, rows), np.searchsorted(self.windows, rows, side="right")
        never = first == stop
        last = _masked(np.append(self.sequences, 0)[np.where(never, -1, stop - 1)], never)
        return {
            "occurrences": stop - first,
            "last_occurrence": last,
            "steps_since_last": self.steps - last // self.batch - 1,
        }

    def lists(self, rows: Numbers, wanted: NDArray[np.bool_]) -> list[NDArray[np.int64] | None]:
        """All training sequences with each of these distinct windows, i64[n], where they are several and
        wanted, bool[n].
        """
        first, stop = np.searchsorted(self.windows, rows), np.searchsorted(self.windows, rows, side="right")
        found: list[NDArray[np.int64] | None] = [None] * len(rows)
        for at in np.flatnonzero(wanted & (stop - first > 1)):
            found[at] = self.sequences[first[at] : stop[at]]
        return found


@dataclass(frozen=True)
class Known:
    """All that was found out, to write features of sequences from.

    label: i64[d], for each distinct window the lowest row in its cluster; sizes: i64[d], windows in the
    cluster of that row.
    """

    windows: DistinctWindows
    context: int
    label: Numbers
    sizes: Numbers
    runs: RunIndex
    tallies: Tallies
    tokens: Numbers
    occurrences: Occurrences
    text: TextFacts

    def arrays(self, ids: Numbers, row_of: Numbers) -> Mapping[str, pa.Array]:
        """The Arrow arrays of FEATURES for sequences i64[n], ascending, of these distinct windows i64[n]."""
        import pyarrow as pa

        rows, position = np.unique(row_of, return_inverse=True)
        blocks = [self._of_windows(rows[at : at + _BLOCK]) for at in range(0, len(rows), _BLOCK)]
        # No block, of a part that a sample leaves empty, is one of no windows.
        blocks = blocks or [self._of_windows(rows)]
        values = {name: _joined([block[name] for block in blocks], position) for name in blocks[0]}
        plain = [column for column in FEATURES if column.arrow != "list<int64>"]
        arrays = arrow_of({"sequence_id": ids, **values}, plain, len(ids))
        first = ids == self.windows.number[row_of]
        arrays["occurrence_ids"] = pa.array(self.occurrences.lists(row_of, first), pa.list_(pa.int64()))
        return {column.name: arrays[column.name] for column in FEATURES}

    def _of_windows(self, rows: Numbers) -> dict[str, Any]:
        """Every column but the ids, of distinct windows i64[n]."""
        windows = self.windows.windows[rows]
        continuations = windows[:, self.context :]
        found: dict[str, Any] = {"window_number": self.windows.number[rows]}
        found |= self.occurrences.columns(rows)
        for half, length, least, mean_log in self.runs.summary(windows, self.tallies):
            found |= {f"{half}_runs{length}_least": least, f"{half}_runs{length}_mean_log": mean_log}
        # A cluster's lowest row need not have the least number: rows are in no order.
        found |= {"cluster": self._least[self.label[rows]], "cluster_windows": self.sizes[self.label[rows]]}
        mean, least_log = frequencies(continuations, self.tokens)
        found |= {
            "continuation_frequency_mean_log": mean,
            "continuation_frequency_least_log": least_log,
            "distinct_tokens": distinct_tokens(continuations),
        }
        share, period = repetition(windows, self.context)
        found |= {"repetition_share": share, "repetition_period": _masked(period, period == 0)}
        found |= self._of_texts(windows)
        position, end = document_position(windows, self.context, self.text.end_of_text)
        return found | {"document_position": position, "document_end": end}

    def _of_texts(self, windows: NDArray[Any]) -> dict[str, Any]:
        text = self.text
        texts = texts_of(windows, text.pieces)
        whole = compressed(texts)
        found: dict[str, Any] = {
            "zlib_bytes": whole,
            "continuation_zlib_bytes": whole - compressed(texts_of(windows[:, : self.context], text.pieces)),
            "corpus_zstd_bytes": None
            if text.dictionary is None
            else compressed_after(texts, text.dictionary),
            "incrementing_numbers": None,
            **{f"{kind}_share": None for kind in KINDS},
        }
        if text.classes is not None:
            found["incrementing_numbers"] = np.array([incrementing_numbers(one) for one in texts], np.int64)
            found |= {f"{kind}_share": share for kind, share in text.classes.shares(windows).items()}
        return found

    @cached_property
    def _least(self) -> Numbers:
        """For each distinct window that is the lowest row of its cluster, the least number in it."""
        least = np.full(len(self.label), np.iinfo(np.int64).max)
        np.minimum.at(least, self.label, self.windows.number)
        return least


def _joined(blocks: list[Any], position: Numbers) -> Any:
    """Blocks of a column one after the other, then at these positions; None where the column isn't known."""
    if blocks[0] is None:
        return None
    join: Any = np.ma.concatenate if isinstance(blocks[0], np.ma.MaskedArray) else np.concatenate
    return join(blocks)[position]
