"""The store directory: which suites it holds, under which fingerprint, and its parts of scores."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memoserve.checks import Check
from memoserve.domain import CONTINUATION
from memoserve.errors import BadInput, StoreConflict
from memoserve.files.base import Files
from memoserve.files.local import LocalFiles
from memoserve.files.opening import open_files
from memoserve.store import check_files, checksum
from memoserve.store import checkpoints as checkpoint_tables
from memoserve.store import memorized as lists
from memoserve.store import parts as part_files
from memoserve.store.columns import CHECKPOINTS, SCORES, SEQUENCES, Column, schema_of, with_all
from memoserve.store.fingerprint import (
    OF_ENGINE,
    Fingerprint,
    differences,
    fingerprint_file,
    fingerprint_in,
    unknown_keys,
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
from memoserve.store.parts import Part, Scores, damaged, missing_ranges, part_named, parts_in

if TYPE_CHECKING:
    import pyarrow as pa

    from memoserve.domain import Checkpoint
    from memoserve.suites import Suite

__all__ = ["DEFAULT_STORE", "MARK", "MatchesLike", "Store"]

_ALL_MATCH = np.uint32(0xFFFFFFFF)


_CHECKPOINT_FOLDER = re.compile(r"^scores/suite=[^/]+/model=([^/]+)/step=([0-9]+)$")


class MatchesLike(Protocol):
    """What an engine returns: arrays of one length n, or None where the mode doesn't give it."""

    @property
    def matched_prefix(self) -> NDArray[np.uint8] | None: ...
    @property
    def match_mask(self) -> NDArray[np.uint32] | None: ...
    @property
    def continuation_ll(self) -> NDArray[np.float32] | None: ...


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
        place = re.sub(r"[^A-Za-z0-9.-]+", "-", self.path)
        return Path(tempfile.gettempdir()) / f"memoserve-logs-{os.getuid()}" / place

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

    def claim(self, suite: Suite, fingerprint: Fingerprint) -> None:
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
        differing = differences(stored, fingerprint)
        if not differing:
            return
        lasting = [{k: v for k, v in one.items() if k not in OF_ENGINE} for one in (stored, fingerprint)]
        if not differences(*lasting) and not self.evaluated(suite):
            return
        if unknown := unknown_keys(stored, fingerprint):
            raise StoreConflict(
                f"{self.path} holds results of suite {suite} from a run with settings that this version of "
                f"memoserve doesn't know ({', '.join(f'{key}: {stored[key]}' for key in unknown)}), so it "
                "can't go on with them: use the version that wrote them, or another directory. Queries and "
                "reports work."
            )
        raise StoreConflict(
            f"{self.path} holds results of suite {suite} from an unlike run (stored vs new):\n"
            + "\n".join(differing)
            + "\nResults of unlike runs are never mixed: use another directory, or the stored settings."
        )

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

    def _write_checkpoints(self, suite: Suite) -> None:
        current = checkpoint_tables.described(suite)
        stored = self._stored_checkpoints(suite.name)
        if stored is not None:
            self._refuse_changed(suite.name, stored.to_pylist(), current)
        table = checkpoint_tables.merged(stored, current)
        if stored is None or not stored.equals(table):
            self.files.write(checkpoints_name(suite.name), checkpoint_tables.file_of(table))

    def _stored_checkpoints(self, suite: str) -> pa.Table | None:
        """The whole table as it is, None if there is none. Raises BadInput if it is damaged."""
        import pyarrow as pa

        name = checkpoints_name(suite)
        try:
            content = self.files.read(name)
            checksum.check(content)
            return part_files.rows_of(content)
        except FileNotFoundError:
            return None
        except (pa.ArrowException, ValueError) as error:
            raise damaged(self.files.location(name), error) from None

    def _refuse_changed(
        self, suite: str, stored: list[dict[str, Any]], current: Mapping[tuple[str, int], dict[str, Any]]
    ) -> None:
        """A suite may gain checkpoints; what is evaluated must stay what it was, where both describe it."""
        for row in stored:
            model, step = row["model"], row["step"]
            now = current.get((model, step), {})
            before = checkpoint_tables.description_of(row, now or row)
            changes = differences(before, {key: now[key] for key in before if key in now})
            if not changes or not self.parts(suite, model, step):
                continue
            raise StoreConflict(
                f"{self.path} holds scores of {model}@{step}, which suite {suite} now describes differently "
                "(stored vs new):\n" + "\n".join(changes) + "\nUse another directory for the changed suite."
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
        stored = self._stored_checkpoints(suite)
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
        stored = self._stored_checkpoints(suite)
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
        matches: MatchesLike,
        weights: str,
    ) -> Part:
        """Write the part [first, stop) of a checkpoint, `ids` int64[n] ascending inside it.

        `matches` has matched_prefix, match_mask and continuation_ll (each of length n or None); an optional
        attribute `matches` uint8[n] gives the count where there is no mask (imported scores); a masked array
        there has NULL where it is masked (evaluated, not memorized, the count unknown). Raises
        StoreConflict if the suite has no fingerprint here or a part would overlap, StorageFailed if the file
        system refuses, ValueError for arrays that contradict each other.
        """
        fingerprint = self.fingerprint(checkpoint.suite)
        ids = _checked_ids(ids, first, stop)
        values = {"sequence_id": ids, **_checked_scores(ids, matches)}
        return part_files.write_part(
            self.files,
            scores_folder(checkpoint.suite, checkpoint.model.name, checkpoint.step),
            first,
            stop,
            {column.name: _array(values[column.name], column, len(ids)) for column in SCORES},
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
        table = self._read(suite, self.parts(suite, model, step), first, stop, SCORES)
        found: dict[str, Any] = {}
        for wanted in SCORES:
            column = table.column(wanted.name)
            if wanted.required:
                found[wanted.name] = column.to_numpy()
            elif column.null_count == len(column):
                found[wanted.name] = None
            elif column.null_count and wanted.arrow != "float32":
                raise BadInput(
                    f"{model}@{step} has {wanted.name} for only some of the sequences {first}..{stop - 1}: "
                    "ask for a range that one kind of run covers"
                )
            else:
                found[wanted.name] = column.to_numpy().astype(wanted.arrow, copy=False)
        return Scores(**found)

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
        ids = _checked_ids(ids, first, stop)
        if np.shape(window_ids) != ids.shape:
            raise ValueError(f"window_ids has shape {np.shape(window_ids)}, the ids {ids.shape}")
        values = {"sequence_id": ids, "window_id": window_ids}
        return part_files.write_part(
            self.files,
            sequences_folder(suite),
            first,
            stop,
            {column.name: _array(values[column.name], column, len(ids)) for column in SEQUENCES},
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
        table = self._read(suite, self.sequence_parts(suite), first, stop, SEQUENCES)
        return table.column("sequence_id").to_numpy(), table.column("window_id").to_numpy()

    def _read(
        self, suite: str, parts: list[Part], first: int, stop: int, columns: tuple[Column, ...]
    ) -> pa.Table:
        import pyarrow as pa
        import pyarrow.compute as pc

        fingerprint = self.fingerprint(suite)
        tables = [
            part_files.read_part(self.files, part, fingerprint, columns)
            for part in parts
            if part.first < stop and first < part.stop
        ]
        if not tables:
            return schema_of(columns).empty_table()
        # A column that a part lacks is not known of the range.
        common = [column for column in columns if all(column.name in table.column_names for table in tables)]
        table = with_all(pa.concat_tables(with_all(table, common) for table in tables), columns)
        ids = table.column("sequence_id")
        return table.filter(pc.and_(pc.greater_equal(ids, first), pc.less(ids, stop)))


def _checked_scores(ids: NDArray[np.int64], matches: MatchesLike) -> dict[str, NDArray[Any] | None]:
    """The columns of scores beside their ids, by name. Raises ValueError for what can't be."""
    count = getattr(matches, "matches", None)
    prefix, mask, likelihood = matches.matched_prefix, matches.match_mask, matches.continuation_ll
    for name, array in (
        ("matches", count),
        ("matched_prefix", prefix),
        ("match_mask", mask),
        ("continuation_ll", likelihood),
    ):
        if array is not None and np.shape(array) != ids.shape:
            raise ValueError(f"{name} has shape {np.shape(array)}, the ids {ids.shape}")
    if mask is not None:
        mask = np.asarray(mask, dtype=np.uint32)
        counted = np.bitwise_count(mask).astype(np.uint8)
        if count is not None and not np.array_equal(count, counted):
            raise ValueError("matches is not the number of bits set in match_mask")
        count = counted
        if prefix is not None and not np.array_equal(prefix == CONTINUATION, mask == _ALL_MATCH):
            raise ValueError("matched_prefix and match_mask disagree on what is memorized")
    if prefix is None and count is None:
        raise ValueError("neither matched_prefix nor matches: nothing says what is memorized")
    for name, array in (("matches", count), ("matched_prefix", prefix)):
        known = None if array is None else np.ma.compressed(array)
        if (
            known is not None
            and len(known)
            and not 0 <= int(np.min(known)) <= int(np.max(known)) <= CONTINUATION
        ):
            raise ValueError(f"{name} must lie in 0..{CONTINUATION}")
    if likelihood is not None:
        impossible = np.isnan(likelihood) | np.isposinf(likelihood)
        if np.any(impossible):
            at = int(np.argmax(impossible))
            raise ValueError(
                f"continuation_ll of sequence {ids[at]} is {likelihood[at]}: no weights that can be used "
                "give that"
            )
    return {"matches": count, "matched_prefix": prefix, "match_mask": mask, "continuation_ll": likelihood}


def _array(values: NDArray[Any] | None, column: Column, n: int) -> pa.Array:
    import pyarrow as pa

    kind = pa.type_for_alias(column.arrow)
    if values is None:
        return pa.nulls(n, kind)
    # `mask` may be one False for the whole array.
    mask = np.broadcast_to(values.mask, n) if isinstance(values, np.ma.MaskedArray) else None
    return pa.array(np.asarray(values, dtype=column.arrow), kind, mask=mask)


def _checked_ids(ids: NDArray[np.int64], first: int, stop: int) -> NDArray[np.int64]:
    ids = np.asarray(ids, dtype=np.int64)
    if not 0 <= first < stop:
        raise ValueError(f"[{first}, {stop}) is not a range of sequence ids")
    if ids.ndim != 1 or (len(ids) and (ids[0] < first or ids[-1] >= stop or np.any(np.diff(ids) <= 0))):
        raise ValueError(f"the ids of a part must ascend inside [{first}, {stop})")
    return ids
