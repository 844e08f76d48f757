"""The store directory: which suites it holds, under which fingerprint, and its parts of scores."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from memoserve.checks import Check
from memoserve.domain import Checkpoint, SuiteFacts
from memoserve.errors import StoreConflict
from memoserve.files.base import Files
from memoserve.files.local import LocalFiles
from memoserve.files.opening import open_files
from memoserve.store import check_files
from memoserve.store import checkpoints as checkpoint_tables
from memoserve.store import memorized as lists
from memoserve.store import parts as part_files
from memoserve.store.checkpoints import Key, Row
from memoserve.store.columns import CHECKPOINTS, SCORES, SEQUENCES, with_all
from memoserve.store.fingerprint import (
    OF_ENGINE,
    Fingerprint,
    differences,
    fingerprint_file,
    fingerprint_in,
    refusal,
)
from memoserve.store.layout import (
    DEFAULT_STORE,
    FINGERPRINT,
    FORMAT,
    MARK,
    MARK_FILE,
    checkpoints_name,
    fingerprint_name,
    format_in,
    holds,
    scores_folder,
    sequences_folder,
    suite_folder,
)
from memoserve.store.parts import Part, missing_ranges, part_named, parts_in
from memoserve.store.scores import Scores, arrow_of, checked_ids, columns_of, rows_between, scores_of

if TYPE_CHECKING:
    import pyarrow as pa


__all__ = ["DEFAULT_STORE", "MARK", "Store"]

_CHECKPOINT_FOLDER = re.compile(r"^scores/suite=[^/]+/model=([^/]+)/step=([0-9]+)$")


class Store:
    """A folder of scores, at a path or behind a URL. `open` or `create` one; the constructor checks nothing.

    `path` is the path or URL. Any machine that can reach it can read and write parts; pickling a store
    takes no connection along.
    """

    def __init__(self, path: str | Path, files: Files | None = None) -> None:
        self.files = open_files(path) if files is None else files
        self.path = self.files.root

    @classmethod
    def open(cls, path: str | Path) -> Store:
        """Open a store. Raises StoreConflict, saying what is there instead, if `path` is none."""
        files = open_files(path)
        format_in(files)
        return cls(path, files)

    @classmethod
    def create(cls, path: str | Path) -> Store:
        """Open the store at `path`, or make one there.

        Raises StoreConflict for a file or a non-empty folder that is not a store.
        """
        files = open_files(path)
        # What a killed `create` left behind doesn't count.
        others = [name for name in files.names("") if not name.startswith(f".{MARK}.")]
        if MARK in others:
            return cls.open(path)
        if isinstance(files, LocalFiles) and files.path.exists() and not files.path.is_dir():
            raise StoreConflict(f"{files.root} is a file: a store is a directory")
        if others:
            raise StoreConflict(
                f"{files.root} is not empty and not a store. {holds(others)} Choose a new or empty directory."
            )
        files.write(MARK, MARK_FILE)
        return cls(path, files)

    @classmethod
    def is_at(cls, path: str | Path) -> bool:
        """Whether there is anything at a path or URL."""
        files = open_files(path)
        return files.path.exists() if isinstance(files, LocalFiles) else bool(files.names(""))

    @property
    def logs(self) -> Path:
        """Where engines on this machine write what they say: always a local folder."""
        if isinstance(self.files, LocalFiles):
            return self.files.path / "logs"
        folder = re.sub(r"[^A-Za-z0-9.-]+", "-", self.path)
        return Path(tempfile.gettempdir()) / f"memoserve-logs-{os.getuid()}" / folder

    # Suites and fingerprints

    def suites(self) -> list[str]:
        """The names of the suites with a fingerprint."""
        return sorted(
            name.removeprefix("suite=")
            for name in self.files.names("suites")
            if name.startswith("suite=") and FINGERPRINT in self.files.names(f"suites/{name}")
        )

    def fingerprint(self, suite: str) -> dict[str, str | int | None]:
        """The fingerprint of a suite's runs. Raises StoreConflict if no run has claimed the suite."""
        name = fingerprint_name(suite)
        try:
            return fingerprint_in(self.files.read(name))
        except FileNotFoundError:
            names = ", ".join(self.suites()) or "none"
            raise StoreConflict(f"{self.path} holds no suite {suite!r}; it holds: {names}") from None
        except ValueError as error:
            raise StoreConflict(
                f"{self.files.location(name)} is damaged ({error}): `memoserve verify --repair` restores it"
            ) from None

    def claim(self, suite: SuiteFacts, fingerprint: Fingerprint) -> None:
        """Say what this store holds of `suite`: write its fingerprint and checkpoints, or check them.

        Raises StoreConflict, listing each differing key, if the store was made under another fingerprint,
        or if the suite now describes an evaluated checkpoint differently.
        """
        self.refuse_unlike(suite.name, fingerprint)
        self._write_checkpoints(suite)
        self._mark()
        name = fingerprint_name(suite.name)
        if suite.name in self.suites() and differences(self.fingerprint(suite.name), fingerprint):
            # What there is under the old one are window numbers, which the next run makes again.
            for bare in self.files.entries(sequences_folder(suite.name)):
                self.files.remove(f"{sequences_folder(suite.name)}/{bare}")
            self.files.write(name, fingerprint_file(fingerprint))
        try:
            self.files.create(name, fingerprint_file(fingerprint))
        except FileExistsError:
            self.refuse_unlike(suite.name, fingerprint)  # another run may have been faster

    def refuse_unlike(self, suite: str, fingerprint: Fingerprint) -> None:
        """Raise StoreConflict, listing each differing key, if `suite` was evaluated under another one.

        A suite without a single part of scores was not evaluated: another engine may do that.
        """
        if suite not in self.suites():
            return
        stored = self.fingerprint(suite)
        if not differences(stored, fingerprint):
            return
        lasting = [{k: v for k, v in one.items() if k not in OF_ENGINE} for one in (stored, fingerprint)]
        if not differences(*lasting) and not self.evaluated(suite):
            return
        raise StoreConflict(refusal(self.path, suite, stored, fingerprint))

    def evaluated(self, suite: str) -> set[tuple[str, int]]:
        """The checkpoints (model, step) of a suite that have at least one part, by one listing."""
        found = set()
        for name, entry in self.files.below(suite_folder(suite)).items():
            match = _CHECKPOINT_FOLDER.search(name.rpartition("/")[0])
            if match is not None and part_named(self.files, name, entry.size) is not None:
                found.add((match[1], int(match[2])))
        return found

    def _mark(self) -> None:
        """Say that this store is of this format: what is written from now on may be of it."""
        if format_in(self.files) != FORMAT:
            self.files.write(MARK, MARK_FILE)

    # Checkpoints

    def _write_checkpoints(self, suite: SuiteFacts) -> None:
        current = checkpoint_tables.described(suite)
        stored = checkpoint_tables.stored_in(self.files, suite.name)
        if stored is not None:
            self._refuse_changed(suite.name, stored, current)
        table = checkpoint_tables.merged(stored, current)
        if stored is None or not stored.equals(table):
            self.files.write(checkpoints_name(suite.name), checkpoint_tables.file_of(table))

    def _refuse_changed(self, suite: str, stored: pa.Table, current: Mapping[Key, Row]) -> None:
        """A suite may gain checkpoints; what is evaluated must stay what it was, where both describe it."""
        for (model, step), changes in checkpoint_tables.changed(stored, current):
            if self.parts(suite, model, step):
                raise StoreConflict(
                    f"{self.path} holds scores of {model}@{step}, which suite {suite} now describes "
                    "differently (stored vs new):\n"
                    + "\n".join(changes)
                    + "\nUse another directory for the changed suite."
                )

    def note_weights(
        self, suite: str, notes: Mapping[tuple[str, int], tuple[str | None, str | None]]
    ) -> None:
        """Keep what was found out about the weights of checkpoints, by (model, step).

        The caller holds the lock. Each note: the identity of the weights, and as model@step the checkpoint
        whose weights these are, None if they are its own; both None if not known. Notes on other checkpoints
        stay. Raises StoreConflict if the suite was not claimed here, BadInput for a checkpoint that it
        doesn't have.
        """
        if not notes:
            return
        self.fingerprint(suite)
        stored = checkpoint_tables.stored_in(self.files, suite)
        if stored is None:
            raise StoreConflict(
                f"{self.files.location(checkpoints_name(suite))} is missing: memoserve run writes it"
            )
        table = checkpoint_tables.noted(stored, notes)
        if not stored.equals(table):
            self._mark()
            self.files.write(checkpoints_name(suite), checkpoint_tables.file_of(table))

    def noted_weights(self, suite: str) -> dict[tuple[str, int], tuple[str | None, str | None]]:
        """What `note_weights` kept of each checkpoint of a suite; empty if the store has none.

        Raises BadInput for a damaged table.
        """
        stored = checkpoint_tables.stored_in(self.files, suite)
        if stored is None:
            return {}
        rows = with_all(stored, CHECKPOINTS).to_pylist()
        return {(row["model"], row["step"]): (row["weights"], row["same_weights_as"]) for row in rows}

    # Checks

    def write_checks(self, suite: str, checks: Sequence[Check]) -> None:
        """Keep what was checked, as of now, in one file that is there whole or not at all.

        Needs no claim and no lock: what failed before a run could claim anything is kept too. Raises
        StorageFailed if the file system refuses.
        """
        if checks:
            self._mark()
            check_files.write_checks(self.files, suite, checks, datetime.now(UTC))

    def read_checks(self, suite: str) -> list[tuple[Check, datetime]]:
        """The newest check of each (model, step, name, subject) and its time in UTC, in order of time.

        Raises BadInput for a damaged file.
        """
        return check_files.read_checks(self.files, suite)

    # Lock

    def lock(self) -> AbstractContextManager[None]:
        """Hold the store for one run; a dead holder's store is free again, after kill -9 too.

        Raises StoreConflict, naming the other process, if the store is held, StorageFailed if it can't be
        written.
        """
        return self.files.held()

    # Scores

    def scores_dir(self, suite: str, model: str, step: int) -> str:
        """Where the parts of one checkpoint are: a path or URL."""
        return self.files.location(scores_folder(suite, model, step))

    def parts(self, suite: str, model: str, step: int) -> list[Part]:
        """The parts of one checkpoint, in order of ids."""
        return parts_in(self.files, scores_folder(suite, model, step))

    def missing(
        self, suite: str, model: str, step: int, ranges: Iterable[tuple[int, int]], part_size: int
    ) -> list[tuple[int, int]]:
        """The half-open ranges still to evaluate, each inside one cell of the grid of `part_size` ids.

        A run with the same part size goes on with whole parts. Raises BadInput for a part size below 1.
        """
        covered = [(part.first, part.stop) for part in self.parts(suite, model, step)]
        return missing_ranges(ranges, covered, part_size)

    def write_scores(
        self,
        checkpoint: Checkpoint,
        first: int,
        stop: int,
        ids: NDArray[np.int64],
        matches: object,
        weights: str,
    ) -> Part:
        """Write the part [first, stop) of a checkpoint, `ids` int64[n] ascending inside it.

        `matches` has as attributes the columns of scores that it gives, by their names, each of length n:
        what an engine returns, or, where there is no mask, the count as `matches` uint8[n] (imported scores).
        A masked array has NULL where it is masked (evaluated, not memorized, the count unknown). Raises
        StoreConflict if the suite has no fingerprint here or a part would overlap, StorageFailed if the file
        system refuses, ValueError for arrays that contradict each other.
        """
        fingerprint = self.fingerprint(checkpoint.suite)
        ids = checked_ids(ids, first, stop)
        values = columns_of(ids, matches)
        return part_files.write_part(
            self.files,
            scores_folder(checkpoint.suite, checkpoint.model.name, checkpoint.step),
            first,
            stop,
            arrow_of(values, SCORES, len(ids)),
            {"fingerprint": fingerprint, "weights": weights, "rows": len(ids)},
            SCORES,
        )

    def weights_of(self, checkpoint: Checkpoint) -> str | None:
        """The identity of the weights that a checkpoint's parts were made with, None if it has none."""
        parts = self.parts(checkpoint.suite, checkpoint.model.name, checkpoint.step)
        return part_files.part_metadata(self.files, parts[0]).get("weights") if parts else None

    def read_scores(self, suite: str, model: str, step: int, first: int, stop: int) -> Scores:
        """The stored scores of one checkpoint with first <= sequence_id < stop.

        A column that one of the parts in this range lacks is None, as if the store lacked it.
        Raises BadInput for a damaged part, StoreConflict for a part of an unlike run.
        """
        parts = self.parts(suite, model, step)
        table = rows_between(self.files, self.fingerprint(suite), parts, first, stop, SCORES)
        return scores_of(table, f"{model}@{step} has {{}} for only some of the sequences {first}..{stop - 1}")

    def list_memorized(self, suite: str, model: str, step: int, *, worth: int = lists.WORTH_A_LIST) -> None:
        """List what a checkpoint memorized, if it has at least `worth` scores and no list of these parts.

        Queries don't need it and are right without it, but slower on many scores. Raises BadInput for a
        damaged part, StorageFailed if the file system refuses.
        """
        parts = self.parts(suite, model, step)
        if sum(part.stop - part.first for part in parts) >= worth:
            lists.list_memorized(self.files, scores_folder(suite, model, step), parts)

    # Windows

    def sequence_parts(self, suite: str) -> list[Part]:
        """The parts with window numbers, in order of ids."""
        return parts_in(self.files, sequences_folder(suite))

    def missing_sequences(
        self, suite: str, ranges: Iterable[tuple[int, int]], part_size: int
    ) -> list[tuple[int, int]]:
        """Like `missing`, for window numbers."""
        covered = [(part.first, part.stop) for part in self.sequence_parts(suite)]
        return missing_ranges(ranges, covered, part_size)

    def write_sequences(
        self, suite: str, first: int, stop: int, ids: NDArray[np.int64], window_ids: NDArray[np.int64]
    ) -> Part:
        """Write the window numbers, int64[n], of `ids`, int64[n] ascending in [first, stop).

        Raises like write_scores.
        """
        fingerprint = self.fingerprint(suite)
        ids = checked_ids(ids, first, stop)
        if np.shape(window_ids) != ids.shape:
            raise ValueError(f"window_ids has shape {np.shape(window_ids)}, the ids {ids.shape}")
        values = {"sequence_id": ids, "window_id": window_ids}
        return part_files.write_part(
            self.files,
            sequences_folder(suite),
            first,
            stop,
            arrow_of(values, SEQUENCES, len(ids)),
            {"fingerprint": fingerprint, "rows": len(ids)},
            SEQUENCES,
        )

    def index_repeats(self, suite: str) -> None:
        """List the sequences whose window occurs more than once, if the list there is not of these parts.

        Queries don't need it and are right without it, but much slower on many sequences. Raises like
        read_scores.
        """
        from memoserve.store.repeats import index_repeats

        if parts := self.sequence_parts(suite):
            index_repeats(self.files, sequences_folder(suite), parts)

    def read_sequences(
        self, suite: str, first: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Stored (sequence_id, window_id), int64[n] each, with first <= sequence_id < stop.

        Raises like read_scores.
        """
        parts = self.sequence_parts(suite)
        table = rows_between(self.files, self.fingerprint(suite), parts, first, stop, SEQUENCES)
        return table.column("sequence_id").to_numpy(), table.column("window_id").to_numpy()
