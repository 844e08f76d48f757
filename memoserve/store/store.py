"""The store directory: which suites it holds, under which fingerprint, and its parts of scores."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memoserve.definitions import CONTINUATION
from memoserve.errors import BadInput, StoreConflict
from memoserve.store import checksum
from memoserve.store import memorized as lists
from memoserve.store import parts as part_files
from memoserve.store.files import Files, LocalFiles, open_files
from memoserve.store.parts import Part, Scores, damaged, differences, missing_ranges, parts_in

if TYPE_CHECKING:
    import pyarrow as pa

    from memoserve.suites import Checkpoint, Suite

DEFAULT_STORE = "memoserve-out"
MARK = "memoserve.json"
FINGERPRINT = "fingerprint.json"
_CHECKSUM = "checksum"
FORMAT = 1
MARK_FILE = (json.dumps({"format": FORMAT}) + "\n").encode()

Fingerprint = Mapping[str, str | int | None]

_ALL_MATCH = np.uint32(0xFFFFFFFF)


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
        try:
            content = json.loads(files.read(MARK))
            format_ = content["format"]
        except FileNotFoundError:
            raise StoreConflict(no_store(files)) from None
        except (ValueError, KeyError, TypeError, RecursionError):
            raise StoreConflict(
                f'{files.location(MARK)} is damaged: it should say {{"format": {FORMAT}}}; `memoserve verify '
                "--repair` restores it"
            ) from None
        if format_ != FORMAT:
            raise StoreConflict(
                f"{files.root} is a store of format {format_}; this memoserve reads format {FORMAT}: use the "
                "version of memoserve that wrote it"
            )
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
                f"{files.root} is not empty and not a store. {_holds(others)} Choose a new or empty "
                "directory."
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
        self._write_checkpoints(suite, checkpoints_name(suite.name))
        try:
            self.files.create(fingerprint_name(suite.name), fingerprint_file(fingerprint))
        except FileExistsError:
            self.refuse_unlike(suite.name, fingerprint)  # another run may have been faster

    def refuse_unlike(self, suite: str, fingerprint: Fingerprint) -> None:
        """Raise StoreConflict, listing each differing key, if `suite` was evaluated under another one."""
        if suite not in self.suites():
            return
        differing = differences(self.fingerprint(suite), fingerprint)
        if differing:
            raise StoreConflict(
                f"{self.path} holds results of suite {suite} from an unlike run (stored vs new):\n"
                + "\n".join(differing)
                + "\nResults of unlike runs are never mixed: use another directory, or the stored settings."
            )

    def _write_checkpoints(self, suite: Suite, name: str) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        checkpoints = suite.all_checkpoints()
        table = pa.table(
            {
                "model": pa.array([c.model.name for c in checkpoints], pa.string()),
                "step": pa.array([c.step for c in checkpoints], pa.int64()),
                "model_order": pa.array([c.model.order for c in checkpoints], pa.int32()),
                "parameters": pa.array([c.model.parameters for c in checkpoints], pa.int64()),
                "parameters_without_embeddings": pa.array(
                    [c.model.parameters_without_embeddings for c in checkpoints], pa.int64()
                ),
                "sequences_seen": pa.array([c.sequences_seen for c in checkpoints], pa.int64()),
                "tokens_seen": pa.array([c.tokens_seen for c in checkpoints], pa.int64()),
                "training_flops": pa.array([float(c.training_flops) for c in checkpoints], pa.float64()),
                "training_flops_without_embeddings": pa.array(
                    [float(c.training_flops_without_embeddings) for c in checkpoints], pa.float64()
                ),
                "trained": pa.array([suite.sequences.trained] * len(checkpoints), pa.int64()),
            }
        )
        try:
            content = self.files.read(name)
            checksum.check(content)
            stored = part_files.rows_of(content)
        except FileNotFoundError:
            pass
        except (pa.ArrowException, ValueError) as error:
            raise damaged(self.files.location(name), error) from None
        else:
            if stored.equals(table):
                return
            self._refuse_changed(suite.name, stored.to_pylist(), table.to_pylist())
        sink = pa.BufferOutputStream()
        with pq.ParquetWriter(sink, table.schema, version="2.6", compression="zstd") as writer:
            writer.write_table(table)
            writer.add_key_value_metadata({checksum.KEY: checksum.PLACEHOLDER})
        self.files.write(name, checksum.seal(sink.getvalue().to_pybytes()))

    def _refuse_changed(self, suite: str, stored: list[dict[str, Any]], new: list[dict[str, Any]]) -> None:
        """A suite may gain checkpoints; what is evaluated must stay what it was."""
        current = {(row["model"], row["step"]): row for row in new}
        for row in stored:
            model, step = row["model"], row["step"]
            now = current.get((model, step))
            if now == row or not self.parts(suite, model, step):
                continue
            changes = differences(row, now or {})
            raise StoreConflict(
                f"{self.path} holds scores of {model}@{step}, which suite {suite} now describes differently "
                "(stored vs new):\n" + "\n".join(changes) + "\nUse another directory for the changed suite."
            )

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
        import pyarrow as pa

        fingerprint = self.fingerprint(checkpoint.suite)
        ids = _checked_ids(ids, first, stop)
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

        return part_files.write_part(
            self.files,
            scores_folder(checkpoint.suite, checkpoint.model.name, checkpoint.step),
            first,
            stop,
            {
                "sequence_id": pa.array(ids),
                "matches": _column(count, np.uint8, pa.uint8(), len(ids)),
                "matched_prefix": _column(prefix, np.uint8, pa.uint8(), len(ids)),
                "match_mask": _column(mask, np.uint32, pa.uint32(), len(ids)),
                "continuation_ll": _column(likelihood, np.float32, pa.float32(), len(ids)),
            },
            {"fingerprint": fingerprint, "weights": weights, "rows": len(ids)},
            encodings={
                "sequence_id": "DELTA_BINARY_PACKED",
                "match_mask": "PLAIN",
                "continuation_ll": "BYTE_STREAM_SPLIT",
            },
            dictionary=["matches", "matched_prefix"],
        )

    def weights_of(self, checkpoint: Checkpoint) -> str | None:
        """The identity of the weights that a checkpoint's parts were made with, None if it has none."""
        parts = self.parts(checkpoint.suite, checkpoint.model.name, checkpoint.step)
        return part_files.part_metadata(self.files, parts[0]).get("weights") if parts else None

    def read_scores(self, suite: str, model: str, step: int, first: int, stop: int) -> Scores:
        """The stored scores of one checkpoint with first <= sequence_id < stop.

        Raises BadInput for a damaged part, StoreConflict for a part of an unlike run.
        """
        table = self._read(suite, self.parts(suite, model, step), first, stop)
        columns: dict[str, Any] = {}
        for name, dtype in (
            ("matches", np.uint8),
            ("matched_prefix", np.uint8),
            ("match_mask", np.uint32),
            ("continuation_ll", np.float32),
        ):
            column = table.column(name) if table is not None else None
            if column is None or column.null_count == len(column):
                columns[name] = None
            elif column.null_count and dtype is not np.float32:
                raise BadInput(
                    f"{model}@{step} has {name} for only some of the sequences {first}..{stop - 1}: "
                    "ask for a range that one kind of run covers"
                )
            else:
                columns[name] = column.to_numpy().astype(dtype, copy=False)
        ids = table.column("sequence_id").to_numpy() if table is not None else np.empty(0, np.int64)
        return Scores(sequence_id=ids, **columns)

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
        import pyarrow as pa

        fingerprint = self.fingerprint(suite)
        ids = _checked_ids(ids, first, stop)
        if np.shape(window_ids) != ids.shape:
            raise ValueError(f"window_ids has shape {np.shape(window_ids)}, the ids {ids.shape}")
        return part_files.write_part(
            self.files,
            sequences_folder(suite),
            first,
            stop,
            {"sequence_id": pa.array(ids), "window_id": pa.array(np.asarray(window_ids, dtype=np.int64))},
            {"fingerprint": fingerprint, "rows": len(ids)},
            encodings={"sequence_id": "DELTA_BINARY_PACKED", "window_id": "PLAIN"},
            dictionary=[],
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
        table = self._read(suite, self.sequence_parts(suite), first, stop)
        if table is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        return table.column("sequence_id").to_numpy(), table.column("window_id").to_numpy()

    def _read(self, suite: str, parts: list[Part], first: int, stop: int) -> pa.Table | None:
        import pyarrow as pa
        import pyarrow.compute as pc

        fingerprint = self.fingerprint(suite)
        tables = [
            part_files.read_part(self.files, part, fingerprint)
            for part in parts
            if part.first < stop and first < part.stop
        ]
        if not tables:
            return None
        table = pa.concat_tables(tables)
        ids = table.column("sequence_id")
        return table.filter(pc.and_(pc.greater_equal(ids, first), pc.less(ids, stop)))


def fingerprint_name(suite: str) -> str:
    """Where the fingerprint of a suite is in a store."""
    return f"suites/suite={suite}/{FINGERPRINT}"


def checkpoints_name(suite: str) -> str:
    """Where the checkpoints of a suite are in a store."""
    return f"suites/suite={suite}/checkpoints.parquet"


def fingerprint_file(fingerprint: Fingerprint) -> bytes:
    """The content of a fingerprint's file: one JSON object, with a checksum of all its other keys."""
    said = dict(fingerprint)
    return (json.dumps({**said, _CHECKSUM: _digest(said)}, indent=2, sort_keys=True) + "\n").encode()


def fingerprint_in(content: bytes) -> dict[str, str | int | None]:
    """The fingerprint in the content of its file. Raises ValueError if it isn't as it was written."""
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError("it nests without end") from None
    if isinstance(found, dict) and found and _CHECKSUM not in found:
        raise ValueError("it carries no checksum: damaged, or written by a memoserve that knew none")
    if not isinstance(found, dict) or found.pop(_CHECKSUM, None) != _digest(found):
        raise ValueError("it does not match its checksum")
    return found


def _digest(said: Fingerprint) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def scores_folder(suite: str, model: str, step: int) -> str:
    """Where the parts of a checkpoint are in a store."""
    return f"scores/suite={suite}/model={model}/step={step}"


def sequences_folder(suite: str) -> str:
    """Where the window numbers of a suite's sequences are in a store."""
    return f"sequences/suite={suite}"


def _column(array: NDArray[Any] | None, dtype: type[np.generic], arrow: pa.DataType, n: int) -> pa.Array:
    import pyarrow as pa

    if array is None:
        return pa.nulls(n, arrow)
    # `mask` may be one False for the whole array.
    mask = np.broadcast_to(array.mask, n) if isinstance(array, np.ma.MaskedArray) else None
    return pa.array(np.asarray(array, dtype=dtype), arrow, mask=mask)


def _checked_ids(ids: NDArray[np.int64], first: int, stop: int) -> NDArray[np.int64]:
    ids = np.asarray(ids, dtype=np.int64)
    if not 0 <= first < stop:
        raise ValueError(f"[{first}, {stop}) is not a range of sequence ids")
    if ids.ndim != 1 or (len(ids) and (ids[0] < first or ids[-1] >= stop or np.any(np.diff(ids) <= 0))):
        raise ValueError(f"the ids of a part must ascend inside [{first}, {stop})")
    return ids


def no_store(files: Files) -> str:
    """What is there instead of a store, for people."""
    names = files.names("")
    if isinstance(files, LocalFiles):
        if files.path.exists() and not files.path.is_dir():
            return f"{files.root} is a file, not the directory of a store"
        there = files.path.exists()
    else:
        there = bool(names)
    if not there:
        return f"there is no store at {files.root}: `memoserve run` makes one, or name another directory"
    return (
        f"{files.root} is not a store: it has no {MARK}. {_holds(names)} `memoserve run` makes a store in an "
        "empty or new directory."
    )


def _holds(names: list[str]) -> str:
    if not names:
        return "It is empty."
    return f"It holds {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}."
