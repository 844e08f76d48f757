"""What of a store is damaged, and taking it out of the way so that the next run makes it again."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal

from memoserve.errors import StoreConflict
from memoserve.files.base import Files
from memoserve.files.local import LocalFiles
from memoserve.files.opening import open_files
from memoserve.files.whole import temporary_owner
from memoserve.store import checksum
from memoserve.store.check_files import physical_types, refuse_damaged_checks, suite_of_checks
from memoserve.store.columns import CHECKPOINTS, MEMORIZED_BY, SCORES, SEQUENCES, Column, misfit
from memoserve.store.features import ADDED, FEATURES
from memoserve.store.fingerprint import SEQUENCES_PREFIX, differences, fingerprint_file, fingerprint_in
from memoserve.store.layout import (
    FINGERPRINT,
    MARK,
    MARK_FILE,
    checkpoints_name,
    fingerprint_name,
    format_in,
    no_store,
    scores_folder,
    sequences_folder,
)
from memoserve.store.listed import is_list
from memoserve.store.parts import Part, metadata_in, part_named, read_footer, rows_of
from memoserve.store.store import Store

ASIDE = "damaged"
"""The folder in a store that damaged files are moved to."""

WHOLE_UP_TO = 1 << 30
"""Bytes of a local store that a run reads whole before it starts, in about two seconds."""

Depth = Literal["footer", "bytes", "rows"]

# What DuckDB's views read, whatever the end of its name says.
_READ_BY_QUERIES = re.compile(
    r"^(?:scores/suite=([^/]*)/[^/]*/[^/]*|(?:sequences|features)/suite=([^/]*))/part-[^/]*\.parquet$"
)

_COLUMNS: dict[str, tuple[Column, ...]] = {"scores": SCORES, "sequences": SEQUENCES, "features": FEATURES}


@dataclass(frozen=True)
class Damage:
    """A file of a store that isn't as it should be: its name in the store, and what is wrong with it."""

    name: str
    problem: str


@dataclass(frozen=True)
class Verified:
    """How much was looked at, and what is wrong."""

    files: int
    bytes: int
    damages: tuple[Damage, ...]


def verify(path: str) -> Verified:
    """Check every byte of every file of the store at a path or URL. It may be in use.

    Raises StoreConflict if there is no store, StorageFailed if it can't be read.
    """
    files = open_files(path)
    found = {
        name: entry for name, entry in files.below("").items() if not name.startswith((f"{ASIDE}/", "logs/"))
    }
    damages = list(_mark(files, found))
    parts: dict[str, list[Part]] = {}
    checks: list[str] = []
    added: list[str] = []
    for name, entry in found.items():
        owner = temporary_owner(name)
        if owner is not None and not _alive(owner):
            damages.append(Damage(name, "left behind by a writer that was killed"))
        if is_list(name):
            damages += _list(files, name, entry.size, "bytes")
        if suite_of_checks(name) is not None:
            checks.append(name)
            damages += _checks(files, name)
        if ADDED.match(name):
            added.append(name)
            damages += _added(files, name)
        if match := _READ_BY_QUERIES.match(name):
            part = part_named(files, name, entry.size)
            if part is None:
                damages.append(Damage(name, "not the name of a part, but queries would read it"))
            else:
                parts.setdefault(match[1] or match[2], []).append(part)
    described = [name for name in found if name.startswith("suites/suite=")]
    suites = {name.split("/")[1].removeprefix("suite=") for name in described} | set(parts)
    for suite in sorted(suites):
        damages += _suite(files, suite, parts.get(suite, []), "rows")
    checked = [*described, *checks, *added, *(part.name for of_suite in parts.values() for part in of_suite)]
    return Verified(len(checked), sum(found[name].size for name in checked), tuple(damages))


def mend(store: Store, suite: str, checkpoints: Iterable[tuple[str, int]]) -> tuple[Damage, ...]:
    """Move aside what is damaged of the checkpoints (model, step) of a suite, and of the lists beside them;
    the caller holds the lock.

    Footers are always checked; the rest too, if the store is local and that is at most a GiB. Returns what
    was found and moved. Raises StoreConflict, and moves nothing, for what is from before there were
    checksums: all of a store may be, and need not be damaged.
    """
    folders = [sequences_folder(suite), *(scores_folder(suite, model, step) for model, step in checkpoints)]
    files = store.files
    there = {f"{folder}/{bare}": entry for folder in folders for bare, entry in files.entries(folder).items()}
    named = (part_named(files, name, entry.size) for name, entry in there.items())
    parts = [part for part in named if part is not None]
    whole = isinstance(files, LocalFiles) and sum(part.size for part in parts) <= WHOLE_UP_TO
    depth: Depth = "bytes" if whole else "footer"
    damages = tuple(_suite(files, suite, parts, depth))
    for name, entry in there.items():
        if is_list(name):
            damages += tuple(_list(files, name, entry.size, depth))
    old = [damage for damage in damages if damage.problem == checksum.FROM_BEFORE]
    if old:
        raise StoreConflict(
            f"{len(old):,} files in {store.path}, such as {old[0].name}, were {checksum.FROM_BEFORE}.\n"
            "Use another directory; or `memoserve verify --repair` moves them into the folder "
            f"{ASIDE} of the store, and the same command then makes them again."
        )
    repair(files, damages)
    return damages


def repair(files: Files, damages: Iterable[Damage]) -> None:
    """Take damaged files out of the way: into the folder `damaged` of the store, temporary ones for good.

    What describes the store is written anew where it is known; a run writes the rest. The caller holds the
    store's lock.
    """
    for damage in damages:
        if temporary_owner(damage.name) is not None:
            files.remove(damage.name)
            continue
        with suppress(FileNotFoundError):  # what is wrong may be that it is missing
            files.move(damage.name, f"{ASIDE}/{damage.name}")
        if damage.name == MARK:
            files.write(MARK, MARK_FILE)
        elif damage.name.endswith(f"/{FINGERPRINT}"):
            suite = damage.name.split("/")[1].removeprefix("suite=")
            if (fingerprint := _fingerprint_of_parts(files, suite)) is not None:
                files.create(fingerprint_name(suite), fingerprint_file(fingerprint))


def _mark(files: Files, found: Iterable[str]) -> Iterator[Damage]:
    try:
        json.loads(files.read(MARK))["format"]
    except FileNotFoundError:
        if not any(name.startswith(("suites/suite=", "scores/suite=")) for name in found):
            raise StoreConflict(no_store(files)) from None
        yield Damage(MARK, "it is missing")
    except (ValueError, KeyError, TypeError, RecursionError):
        yield Damage(MARK, "it is damaged")
    else:
        format_in(files)


@dataclass(frozen=True)
class _Looked:
    """A part by itself: what is wrong with it, else what it says of itself."""

    part: Part
    problem: str | None
    metadata: dict[str, Any] = field(default_factory=dict)


def _suite(files: Files, suite: str, parts: list[Part], depth: Depth) -> list[Damage]:
    """What is wrong with the description of a suite and with the given parts of it."""
    damages = []
    fingerprint: dict[str, Any] | None = None
    of_runs = any(not _is_of_features(part) for part in parts)
    try:
        fingerprint = fingerprint_in(files.read(fingerprint_name(suite)))
    except FileNotFoundError:
        fingerprint = _fingerprint_of_parts(files, suite)
        if of_runs or fingerprint is not None:
            damages.append(Damage(fingerprint_name(suite), "it is missing"))
    except ValueError as error:
        fingerprint = _fingerprint_of_parts(files, suite)
        damages.append(Damage(fingerprint_name(suite), str(error)))
    damages += _checkpoints(files, suite, of_runs)

    with _pool(files) as pool:
        looked = list(pool.map(lambda part: _look(files, part, depth), sorted(parts, key=_order)))
    for _, group in groupby(looked, lambda one: _order(one.part)[0]):
        kept: _Looked | None = None
        for one in group:
            problem = one.problem or _misfit(one, kept, fingerprint)
            if problem is None:
                kept = one
            else:
                damages.append(Damage(one.part.name, problem))
    return damages


def _is_of_features(part: Part) -> bool:
    return part.name.startswith("features/")


def _checkpoints(files: Files, suite: str, needed: bool) -> Iterator[Damage]:
    """What is wrong with the table of a suite's checkpoints."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    name = checkpoints_name(suite)
    try:
        content = files.read(name)
        checksum.check(content)
        problem = misfit(physical_types(pq.read_metadata(pa.BufferReader(content))), CHECKPOINTS)
    except FileNotFoundError:
        problem = "it is missing; memoserve run writes it" if needed else None
    except (pa.ArrowException, OSError, ValueError) as error:
        problem = (str(error).splitlines() or [repr(error)])[0]
    if problem is not None:
        yield Damage(name, problem)


def _checks(files: Files, name: str) -> Iterator[Damage]:
    """What is wrong with a file of checks."""
    import pyarrow as pa

    try:
        refuse_damaged_checks(name, files.read(name))
    except FileNotFoundError:
        return
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        yield Damage(name, (str(error).splitlines() or [repr(error)])[0])


def _added(files: Files, name: str) -> Iterator[Damage]:
    """What is wrong with a table that was added to features."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        content = files.read(name)
        checksum.check(content)
        written = metadata_in(pq.read_metadata(pa.BufferReader(content)))
        ids = rows_of(content, ["sequence_id"]).column("sequence_id").to_numpy()
        if written.get("name") != name:
            raise ValueError(f"its metadata names a different table: {written.get('name')}")
        if np.any(np.diff(ids) <= 0) or len(ids) != written.get("rows"):
            raise ValueError("its sequences don't ascend, or are not all there")
    except FileNotFoundError:
        return
    except (pa.ArrowException, KeyError, OSError, TypeError, ValueError) as error:
        yield Damage(name, (str(error).splitlines() or [repr(error)])[0])


def _list(files: Files, name: str, size: int, depth: Depth) -> Iterator[Damage]:
    """What is wrong with a list beside parts: its footer, or any of its bytes."""
    import pyarrow as pa

    try:
        if depth == "footer":
            read_footer(files, Part(0, 0, name, files.location(name), size))
        else:
            checksum.check(files.read(name))
    except FileNotFoundError:
        return  # a run has put another one in its place
    except (pa.ArrowException, ValueError) as error:
        yield Damage(name, (str(error).splitlines() or [repr(error)])[0])


def _order(part: Part) -> tuple[str, int, int]:
    return part.name.rpartition("/")[0], part.first, part.last


def _look(files: Files, part: Part, depth: Depth) -> _Looked:
    """Check a part by itself: its footer, or every byte, or also what its rows say."""
    import pyarrow as pa

    try:
        footer = read_footer(files, part)
        metadata = metadata_in(footer)
        problem = _contradiction(part, footer, metadata)
        if problem is None and depth != "footer":
            content = files.read(part.name)
            checksum.check(content)
            problem = _disorder(part, content) if depth == "rows" else None
    except FileNotFoundError:
        return _Looked(part, "it went away while it was looked at")
    except (pa.ArrowException, OSError, TypeError, ValueError) as error:
        # The checksum is right: a forger's, whose statistics, say, are of another type.
        return _Looked(part, (str(error).splitlines() or [repr(error)])[0])
    return _Looked(part, problem, metadata)


def _contradiction(part: Part, footer: Any, metadata: dict[str, Any]) -> str | None:
    """Where the footer of a part contradicts itself or the part's path."""
    if metadata.get("name") != part.name:
        return f"its metadata names a different part: {metadata.get('name')}"
    kind = part.name.split("/")[0]
    columns = physical_types(footer)
    if problem := misfit(columns, _COLUMNS[kind]):
        return problem
    if kind == "scores" and not columns.keys() & set(MEMORIZED_BY):
        return f"it has neither {' nor '.join(MEMORIZED_BY)}: nothing says what is memorized"
    if footer.num_rows != metadata.get("rows") or footer.num_rows > part.stop - part.first:
        return f"it has {footer.num_rows} rows and should have {metadata.get('rows')}"
    ids = list(columns).index("sequence_id")
    for group in range(footer.num_row_groups):
        statistics = footer.row_group(group).column(ids).statistics
        if (
            statistics is not None
            and statistics.has_min_max
            and not part.first <= statistics.min <= statistics.max <= part.last
        ):
            return f"it has sequences {statistics.min}..{statistics.max}"
    return None


def _disorder(part: Part, content: bytes) -> str | None:
    """Whether the ids of a part ascend inside it, and its values lie in their ranges."""
    import numpy as np
    import pyarrow.compute as pc

    kind = _COLUMNS[part.name.split("/")[0]]
    bounded = [column for column in kind if column.highest is not None]
    rows = rows_of(content, ["sequence_id", *(column.name for column in bounded)])
    column = rows.column("sequence_id")
    ids = column.to_numpy()
    if np.any(np.diff(ids) <= 0):
        return "its sequences don't ascend"
    if column.null_count or (len(ids) and not part.first <= ids[0] <= ids[-1] <= part.last):
        return "it has sequences that its name doesn't cover"
    for one in bounded:
        if one.name in rows.column_names:
            highest = pc.max(rows.column(one.name)).as_py()
            if highest is not None and highest > (one.highest or 0):
                return f"its column {one.name} has {highest}, above {one.highest}"
    return None


def _misfit(one: _Looked, before: _Looked | None, fingerprint: dict[str, Any] | None) -> str | None:
    """Why a part that is whole doesn't belong beside the others."""
    made_by = one.metadata.get("fingerprint") or {}
    if _is_of_features(one.part):
        # They have one of their own, which names the same sequences.
        of_data = {k: v for k, v in (fingerprint or {}).items() if k.startswith(SEQUENCES_PREFIX)}
        others = before.metadata.get("fingerprint") or {} if before is not None else made_by
        fingerprint = {**others, **of_data}
    if fingerprint is not None and (differing := differences(fingerprint, made_by)):
        return "made by another run (store vs part): " + "; ".join(line.strip() for line in differing)
    if before is None:
        return None
    if one.part.first <= before.part.last:
        return f"it overlaps with {before.part.name.rpartition('/')[2]}"
    if one.metadata.get("weights") != before.metadata.get("weights"):
        theirs, others = one.metadata.get("weights"), before.metadata.get("weights")
        return f"made with weights {theirs}, the ones before with {others}"
    return None


def _fingerprint_of_parts(files: Files, suite: str) -> dict[str, Any] | None:
    """The fingerprint that all whole parts of a suite carry, None if they carry none or several."""
    parts = [
        part
        for top in (f"scores/suite={suite}", f"sequences/suite={suite}")
        for name, entry in files.below(top).items()
        if (part := part_named(files, name, entry.size)) is not None
    ]
    with _pool(files) as pool:
        looked = pool.map(lambda part: _look(files, part, "footer"), parts)
        found = [one.metadata.get("fingerprint") for one in looked if one.problem is None]
    return found[0] if found and all(one == found[0] for one in found) else None


def _pool(files: Files) -> ThreadPoolExecutor:
    """As many at once as the machine computes checksums of, or as a server answers requests of."""
    return ThreadPoolExecutor(min(8, os.cpu_count() or 1) if isinstance(files, LocalFiles) else 16, "verify")


def _alive(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)
