"""Computing features: what is asked for, what is missing, and making it part by part."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import psutil
from numpy.typing import NDArray

from memoserve.checks import failures
from memoserve.domain import CONTINUATION
from memoserve.errors import BadInput, StoreConflict
from memoserve.features.compression import zstd_version
from memoserve.features.corpus import SAVE_EVERY, Corpus, Counts
from memoserve.features.near_duplicates import clusters
from memoserve.features.options import Estimate, Options, Outcome
from memoserve.features.runs import RunIndex
from memoserve.features.table import Known, Occurrences
from memoserve.features.text import TextFacts, text_facts
from memoserve.features.windows import DistinctWindows, WindowIndex, distinct_windows
from memoserve.run.plan import part_size_for
from memoserve.sequences import Selection, SequenceSource, check_sequences, open_sequences, parse_range
from memoserve.sequences.selection import sample_in
from memoserve.sequences.source import sampled_ids
from memoserve.sequences.tokenizer import read_tokenizer_file
from memoserve.store import Store, missing_ranges
from memoserve.store.features import FEATURES, RECIPE, features_folder
from memoserve.store.fingerprint import SEQUENCES_PREFIX, Fingerprint, differences
from memoserve.store.parts import part_metadata, parts_in, write_part
from memoserve.suites import Suite, load_suite

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

BYTES_A_WINDOW = 6_000
"""Memory for the runs of one window and what is counted of them; measured, see docs/features.md."""

BYTES_A_ROW = 60
"""Of a part; measured likewise."""

Numbers = NDArray[np.int64]
Range = tuple[int, int]


@dataclass(frozen=True)
class FeaturesJob:
    """The features of a suite's sequences in a store. Everything is found out when it is first asked for."""

    options: Options

    @cached_property
    def suite(self) -> Suite:
        """Raises BadInput for a suite that can't be read."""
        return load_suite(self.options.suite)

    @cached_property
    def source(self) -> SequenceSource:
        """The whole training data. Raises BadInput for what can't be, or isn't, that."""
        options, sequences = self.options, self.suite.sequences
        path = options.data or sequences.path
        if path is None:
            raise BadInput(f"suite {self.suite.name} doesn't say where its sequences are: give --data")
        source = open_sequences(path, self._tokenizer_path, options.tokens_column or sequences.column)
        if source.kind == "pack":
            raise BadInput(
                f"{path} is a pack: it holds the beginnings of sequences, and features count what stands at "
                "any place of the training data: give the data that it was made from (--data)"
            )
        checks = check_sequences(
            source,
            trained=sequences.trained,
            control=sequences.control,
            sequence_length=self.suite.sequence_length,
            vocabulary_size=None,
            length=self._length,
            subject="sequences",
            skip_short=self._skip_short,
        )
        if wrong := failures(checks):
            raise BadInput("\n".join(f"{check.name}: {check.detail}" for check in wrong))
        return source

    @cached_property
    def selection(self) -> Selection:
        """The sequences that get features: those that the store's runs evaluate, if options don't say."""
        options, sequences = self.options, self.suite.sequences
        last = max(sequences.trained, sequences.control[1] if sequences.control else 0)
        span = parse_range(options.sequences, self.source.count) if options.sequences else (0, last)
        fraction, seed = sample_in(self._of_runs.get("sample"))
        fraction = fraction if options.sample is None else options.sample
        seed = seed if options.seed is None else options.seed
        return Selection(*span, fraction=fraction, seed=seed, skip_short=self._skip_short)

    @cached_property
    def fingerprint(self) -> dict[str, str | int | None]:
        """What all parts of these features have in common."""
        selection = self.selection
        pieces = self._tokenizer
        return {
            "recipe": RECIPE,
            "suite": self.suite.name,
            **{f"{SEQUENCES_PREFIX}{key}": value for key, value in self.source.identity().items()},
            "context": self._context,
            "continuation": CONTINUATION,
            "range": f"{selection.first}:{selection.stop}",
            "sample": selection.sample,
            "short_sequences": "left out" if selection.skip_short else None,
            "trained": self.suite.trained,
            "batch_size": self.suite.batch_size,
            "end_of_text": self.suite.eos_token_id,
            "zstd": zstd_version(),
            "tokenizer_sha256": hashlib.sha256(pieces).hexdigest() if pieces is not None else None,
        }

    def missing(self, store: Store | None) -> list[Range]:
        """The half-open ranges of ids that have no part yet.

        Raises StoreConflict where there are parts of other data, another recipe or other sequences, BadInput
        for a damaged one.
        """
        selection = self.selection
        size = self.options.part_size or part_size_for(selection)
        covered = []
        if store is not None:
            self._refuse_other_sequences(store)
            for part in parts_in(store.files, self._folder):
                stored = part_metadata(store.files, part).get("fingerprint") or {}
                if self.options.replace and differences(stored, self.fingerprint):
                    continue
                self._refuse_unlike(store, stored)
                covered.append((part.first, part.stop))
        return missing_ranges([(selection.first, selection.stop)], covered, size)

    def estimate(self) -> Estimate:
        """What is still to do. Counts a sample of the training data, for a second or so, to say how fast."""
        store = Store.open(self.options.out) if Store.is_at(self.options.out) else None
        parts = self.missing(store)
        sizes = [self._count(part) for part in parts]
        sequences = sum(sizes)
        lengths = self.source.lengths(
            sampled_ids(self.suite.trained, min(self.source.cheap_lengths, 1 << 16))
        )
        tokens = int(lengths.mean() * self.suite.trained)
        return Estimate(
            parts=len(parts),
            sequences=sequences,
            passes=len(list(_batches(parts, sizes, self._memory // BYTES_A_WINDOW))),
            tokens=tokens,
            rate=self._measured_rate() if parts else 0.0,
            bytes=sequences * BYTES_A_ROW,
            memory=min(sequences * BYTES_A_WINDOW, self._memory) + sequences * 3 * self._length,
        )

    def run(self, progress: Progress = lambda *_: None, *, save_every: float = SAVE_EVERY) -> Outcome:
        """Make what is missing, and hold the store meanwhile. Whole parts stay, whatever ends it, and a pass
        over the training data goes on from where it was last saved.

        Raises StoreConflict if the store is held, or has features or scores of other data; BadInput for
        sequences that can't be read; StorageFailed where the file system refuses.
        """
        begin = time.monotonic()
        _ = self.fingerprint  # what is wrong with the data, before a store is made
        store = Store.create(self.options.out)
        with store.lock():
            parts = self.missing(store)
            self._remove_unlike(store)
            if not parts:
                return Outcome(0, 0, 0, 0, 0, time.monotonic() - begin)
            ids, windows = self._read_windows(progress)
            label = clusters(windows.windows, lambda *done: progress("near-duplicates", *done))
            passes = tokens = 0
            for batch, counts in self._batches(store, parts):
                known = self._known(store, ids, windows, label, batch, counts, progress, save_every)
                tokens += int(known.tokens.sum())
                passes += 1
                todo = [part for part in batch if part in parts]
                for number, (first, stop) in enumerate(todo):
                    self._write(store, known, ids, first, stop)
                    progress("writing", number + 1, len(todo))
                store.files.remove(self._saved)
        return Outcome(len(parts), sum(map(self._count, parts)), len(windows.windows), passes, tokens,
                       time.monotonic() - begin)  # fmt: skip

    def _read_windows(self, progress: Progress) -> tuple[Numbers, DistinctWindows]:
        """The ids of all sequences of the selection, i64[n], and their distinct windows."""
        narrow = np.uint16 if self.source.token_dtype in ("uint8", "uint16") else np.uint32
        ids, blocks = [], []
        selection, step = self.selection, 1 << 16
        for first in range(selection.first, selection.stop, step):
            stop = min(first + step, selection.stop)
            some = selection.ids_in(self.source, first, stop, self._length)
            whole = len(some) == stop - first
            read = (
                self.source.read(first, stop, self._length) if whole else self.source.take(some, self._length)
            )
            ids.append(some)
            blocks.append(read.astype(narrow))
            progress("reading windows", stop - selection.first, selection.stop - selection.first)
        all_ids = np.concatenate(ids)
        if not len(all_ids):
            raise BadInput("none of these sequences is to be evaluated: give a larger --sample or range")
        return all_ids, distinct_windows(all_ids, np.concatenate(blocks))

    def _known(
        self,
        store: Store,
        ids: Numbers,
        windows: DistinctWindows,
        label: Numbers,
        batch: Sequence[Range],
        counts: Counts | None,
        progress: Progress,
        save_every: float,
    ) -> Known:
        """Count in the training data what the windows of some parts need."""
        within = np.concatenate([_span(ids, *part) for part in batch])
        rows = np.unique(windows.row_of[within])
        chosen = windows.windows[rows]
        progress("indexing runs", 0, 1)
        runs, index = RunIndex(chosen, self._context), WindowIndex(chosen)
        progress("indexing runs", 1, 1)
        of = json.dumps([self.fingerprint, list(batch)])
        counts = counts or Counts(runs.tallies(), np.zeros(1, np.int64))
        Corpus(self.source, self.suite.trained, runs, index, self._length).count(
            counts,
            save=lambda now: store.files.write(self._saved, now.to_bytes(of)),
            save_every=save_every,
            progress=lambda *done: progress("counting in the training data", *done),
        )
        found, sequences = counts.occurrences()
        batch_size, trained = self.suite.batch_size, self.suite.trained
        occurrences = Occurrences(rows[found], sequences, -(-trained // batch_size), batch_size)
        sizes = np.bincount(label, minlength=len(label))
        return Known(
            windows, self._context, label, sizes, runs, counts.runs, counts.tokens, occurrences, self._text
        )

    def _write(self, store: Store, known: Known, ids: Numbers, first: int, stop: int) -> None:
        within = _span(ids, first, stop)
        write_part(
            store.files,
            self._folder,
            first,
            stop,
            known.arrays(ids[within], known.windows.row_of[within]),
            {"fingerprint": self.fingerprint, "rows": len(within)},
            FEATURES,
        )

    # What is there

    @cached_property
    def _of_runs(self) -> Fingerprint:
        """The fingerprint of the store's runs of this suite, empty where there are none."""
        if not Store.is_at(self.options.out):
            return {}
        store = Store.open(self.options.out)
        return store.fingerprint(self.suite.name) if self.suite.name in store.suites() else {}

    def _refuse_other_sequences(self, store: Store) -> None:
        """Raise StoreConflict if the scores that the store has are of other sequences or windows."""
        mine = self.fingerprint
        shared = [
            k for k in self._of_runs if k.startswith(SEQUENCES_PREFIX) or k in ("context", "continuation")
        ]
        if lines := differences(
            {k: self._of_runs[k] for k in shared}, {k: mine[k] for k in mine if k in shared}
        ):
            raise StoreConflict(
                f"{store.path} holds scores of suite {self.suite.name} of other windows (stored vs new):\n"
                + "\n".join(lines)
                + "\nFeatures stand beside scores of the same windows: use those, or another directory."
            )

    def _refuse_unlike(self, store: Store, stored: Fingerprint) -> None:
        if lines := differences(stored, self.fingerprint):
            raise StoreConflict(
                f"{store.files.location(self._folder)} holds features made otherwise (stored vs new):\n"
                + "\n".join(lines)
                + "\nUse the stored settings, another directory, or --replace to make them again."
            )

    def _remove_unlike(self, store: Store) -> None:
        """With --replace, take the parts away that were made otherwise."""
        for part in parts_in(store.files, self._folder) if self.options.replace else ():
            if differences(part_metadata(store.files, part).get("fingerprint") or {}, self.fingerprint):
                store.files.remove(part.name)

    def _batches(self, store: Store, parts: Sequence[Range]) -> Iterator[tuple[list[Range], Counts | None]]:
        """Parts to count for together: first those of a pass that was saved, with what it counted."""
        saved = None
        if "counting" in store.files.names(self._folder):
            saved = Counts.from_bytes(store.files.read(self._saved))
        if saved is not None:
            fingerprint, batch = json.loads(saved[0])
            batch = [(first, stop) for first, stop in batch]
            if not differences(fingerprint, self.fingerprint) and set(batch) & set(parts):
                yield batch, saved[1]
                parts = [part for part in parts if part not in batch]
        sizes = [self._count(part) for part in parts]
        for batch in _batches(parts, sizes, self._memory // BYTES_A_WINDOW):
            yield batch, None

    # What follows from options

    @property
    def _folder(self) -> str:
        return features_folder(self.suite.name)

    @property
    def _saved(self) -> str:
        return f"{self._folder}/counting"

    @property
    def _context(self) -> int:
        stored = self._of_runs.get("context")
        return self.options.context or (int(stored) if stored else 32)

    @property
    def _length(self) -> int:
        return self._context + CONTINUATION

    @property
    def _skip_short(self) -> bool:
        if self.options.skip_short is not None:
            return self.options.skip_short
        return self._of_runs.get("short_sequences") is not None

    @cached_property
    def _memory(self) -> int:
        return max(self.options.memory or psutil.virtual_memory().available // 2, BYTES_A_WINDOW)

    @property
    def _tokenizer_path(self) -> str | None:
        return self.options.tokenizer or self.suite.sequences.tokenizer

    @cached_property
    def _tokenizer(self) -> bytes | None:
        return None if self._tokenizer_path is None else read_tokenizer_file(self._tokenizer_path)

    @cached_property
    def _text(self) -> TextFacts:
        return text_facts(
            self.source,
            self.suite.trained,
            self._tokenizer,
            str(self._tokenizer_path),
            self.suite.eos_token_id,
        )

    def _count(self, part: Range) -> int:
        return len(self.selection.ids(*part))

    def _measured_rate(self) -> float:
        """Training tokens a second that one core looks through, on a few thousand windows and a sample."""
        ids = self.selection.ids(
            self.selection.first, min(self.selection.stop, self.selection.first + (1 << 24))
        )
        some = ids[sampled_ids(len(ids), 4096)]
        some = some[self.source.lengths(some) >= self._length]
        runs = RunIndex(self.source.take(some, self._length), self._context)
        sample = sampled_ids(self.suite.trained, 1 << 10)
        sample = sample[self.source.lengths(sample) >= self._length]
        width = int(self.source.lengths(sample).min(initial=1 << 20))
        tokens = self.source.take(sample, width)
        begin = time.process_time()
        runs.find(tokens)
        return tokens.size / max(time.process_time() - begin, 1e-6)


def _span(ids: Numbers, first: int, stop: int) -> Numbers:
    """Where the ids first..stop-1 stand in the ascending `ids`."""
    return np.arange(np.searchsorted(ids, first), np.searchsorted(ids, stop))


def _batches(parts: Sequence[Range], sizes: Sequence[int], limit: int) -> Iterator[list[Range]]:
    """Parts one after the other, together at most `limit` sequences, or one alone."""
    batch: list[Range] = []
    held = 0
    for part, size in zip(parts, sizes, strict=True):
        if batch and held + size > limit:
            yield batch
            batch, held = [], 0
        batch.append(part)
        held += size
    if batch:
        yield batch
