"""The authors' own results, CSV parts of `index,accuracy`, as a store.

Their script (EleutherAI/pythia, predictable-memorization/eval_memorization.py) writes one file a rank,
without a header, a line for each sequence: its index and the share of the 32 tokens that match, as a
decimal number. Two of its habits matter here:

Files overlap. A rank reads whole batches of 1024 sequences until its own range is covered, so its last
batch runs over into the next rank's range (or, for an early checkpoint, into sequences that come later in
training). Equal duplicates are taken once; two lines that give one sequence different scores are refused,
both named.

The last batch may be numbered one too high. Only where the data ends is a batch shorter than 1024, and that
one is queued under `i - len + 1`, where `i` already points behind it, while full batches are queued under
`i - len`. Such a file shows it: it counts up by one, then, at a multiple of 1024 lines, skips one index and
ends in fewer than 1024 lines. A file that looks so is refused unless the caller wants it mended; a file
that is nothing but one short batch can't be told from a right one.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from memoserve.domain import Checkpoint
from memoserve.errors import BadInput
from memoserve.imports.into_store import (
    PART_SIZE,
    ImportedScores,
    imported_fingerprint,
    refuse_other_origin,
    write_imported,
)
from memoserve.store import Store
from memoserve.suites import Suite

if TYPE_CHECKING:
    import duckdb

BATCH = 1024
"""Sequences a batch in the authors' script."""

MODE = "matches only"

# Text, so that a wrong line is seen as it is: a cast would round 1.5 to a sequence 2.
_READ = (
    "read_csv(?, header = false, auto_detect = false, delim = ',', quote = '', escape = '', "
    "columns = {'id': 'VARCHAR', 'accuracy': 'VARCHAR'}, parallel = false)"
)
_MATCHES = "try_cast(accuracy AS DOUBLE) * 32"
_GOOD_ID = "coalesce(regexp_full_match(trim(id), '[0-9]{1,15}'), false)"
_GOOD_ACCURACY = f"coalesce({_MATCHES} BETWEEN 0 AND 32 AND {_MATCHES} = round({_MATCHES}), false)"


@dataclass
class CsvImport:
    """What an import of CSV parts did. `renumbered`: file -> lines of its last batch, moved by one."""

    checkpoint: Checkpoint
    files: int
    lines: int = 0
    sequences: int = 0
    memorized: int = 0
    written: int = 0
    renumbered: dict[str, int] = field(default_factory=dict)


def csv_files(paths: list[Path]) -> list[Path]:
    """The files, and every *.csv of the folders, rank 2 before rank 10. Raises BadInput if one is missing."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(path.glob("*.csv"), key=_natural)
            if not inside:
                raise BadInput(f"the folder {path} holds no .csv file")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise BadInput(f"{path} does not exist")
    repeated = {str(path) for path in found if found.count(path) > 1}
    if repeated:
        raise BadInput(f"{sorted(repeated)[0]} is given twice")
    return found


def _natural(path: Path) -> tuple[int, str]:
    digits = "".join(c for c in path.stem if c.isdigit())
    return (int(digits[:18]) if digits else -1, path.name)


def import_csv(
    store: Store, suite: Suite, checkpoint: Checkpoint, files: list[Path], *, fix_last_batch: bool = False
) -> CsvImport:
    """Write what the files say of `checkpoint` into the store: matches = accuracy x 32 and nothing else.

    All is read and checked before anything is written. Raises BadInput, naming file and line, for a line
    that is not `index,accuracy`, an accuracy that is no multiple of 1/32, an index outside the suite's
    sequences, and two lines that contradict each other; StoreConflict if the store holds something else.
    """
    import duckdb

    done = CsvImport(checkpoint, len(files))
    limit = suite.sequences.trained if suite.sequences.control is None else suite.sequences.control[1]
    fingerprint = imported_fingerprint(suite, "csv", MODE)
    store.refuse_unlike(suite.name, fingerprint)
    origin = f"csv sha256:{_digest(files, fix_last_batch)}"
    refuse_other_origin(store, checkpoint, origin)
    with (
        TemporaryDirectory(prefix="memoserve-") as folder,
        duckdb.connect(str(Path(folder) / "lines.duckdb")) as db,
    ):
        db.execute("CREATE TABLE lines (file INTEGER, row BIGINT, id BIGINT, matches UTINYINT)")
        for number, file in enumerate(files):
            shifted = _read(db, number, file, limit, fix_last_batch)
            if shifted:
                done.renumbered[str(file)] = shifted
        done.lines, first, last = _one(db, "SELECT count(*), min(id), max(id) FROM lines")
        if not done.lines:
            raise BadInput(
                f"there is not one line in {files[0]}{' and the others' if len(files) > 1 else ''}"
            )
        # Range by range, so that memory doesn't grow with the files.
        db.execute("CREATE TABLE scores (id BIGINT, matches UTINYINT)")
        for start in range(first // PART_SIZE * PART_SIZE, last + 1, PART_SIZE):
            _refuse_contradictions(db, start, start + PART_SIZE, files)
            db.execute(
                "INSERT INTO scores SELECT id, any_value(matches) FROM lines "
                "WHERE id >= ? AND id < ? GROUP BY id ORDER BY id",
                [start, start + PART_SIZE],
            )
        done.sequences, done.memorized = _one(
            db, "SELECT count(*), count(*) FILTER (matches = 32) FROM scores"
        )

        store.claim(suite, fingerprint)

        def rows(start: int, stop: int) -> ImportedScores:
            found = db.execute(
                "SELECT id, matches FROM scores WHERE id >= ? AND id < ? ORDER BY id", [start, stop]
            ).fetchnumpy()
            return ImportedScores(np.asarray(found["id"], np.int64), np.asarray(found["matches"], np.uint8))

        done.written = write_imported(store, checkpoint, (first, last + 1), rows, origin)
    return done


def _read(db: duckdb.DuckDBPyConnection, number: int, file: Path, limit: int, fix: bool) -> int:
    """Check one file and add its lines; the number of lines that were renumbered."""
    import duckdb

    if file.stat().st_size == 0:
        return 0
    try:
        db.execute(
            "CREATE OR REPLACE TEMP TABLE part AS "
            f"SELECT row_number() OVER () AS row, id, accuracy FROM {_READ}",
            [_literal_glob(file)],
        )
    except duckdb.Error as error:
        raise _malformed(file, error) from None
    wrong = db.execute(
        f"SELECT row, id, accuracy, {_GOOD_ID}, {_GOOD_ACCURACY} FROM part "
        f"WHERE NOT {_GOOD_ID} OR NOT {_GOOD_ACCURACY} ORDER BY row LIMIT 1"
    ).fetchone()
    if wrong is not None:
        row, id_, accuracy, good_id, _ = wrong
        header = ": these files have no header, remove that line" if row == 1 and id_ == "index" else ""
        raise BadInput(
            f"{_where(file, row)}: "
            + (
                f"{accuracy!r} is not a share of 32 tokens, a multiple of 1/32 from 0 to 1"
                if good_id
                else f"{id_!r} is not a sequence index{header}"
            )
        )
    lines = int(_one(db, "SELECT count(*) FROM part")[0])
    jumps = db.execute(
        "SELECT row, jump FROM (SELECT row, i - lag(i) OVER (ORDER BY row) AS jump "
        "FROM (SELECT row, trim(id)::BIGINT AS i FROM part)) WHERE jump <> 1 LIMIT 2"
    ).fetchall()
    shifted_from = None
    if len(jumps) == 1:
        row, jump = jumps[0]
        if jump == 2 and (row - 1) % BATCH == 0 and lines - row + 1 < BATCH:
            shifted_from = row
    if shifted_from is not None and not fix:
        raise BadInput(
            f"{_where(file, shifted_from)}: the last {lines - shifted_from + 1} lines, a batch of fewer than "
            f"{BATCH}, are numbered one too high: the index skips one just where the batch begins, as the "
            "authors' script does it. --fix-last-batch takes one off each of them."
        )
    db.execute(
        f"INSERT INTO lines SELECT ?, row, trim(id)::BIGINT - CASE WHEN row >= ? THEN 1 ELSE 0 END, "
        f"({_MATCHES})::UTINYINT FROM part ORDER BY row",
        [number, shifted_from or lines + 1],
    )
    beyond = db.execute(
        "SELECT row, id FROM lines WHERE file = ? AND id >= ? ORDER BY row LIMIT 1", [number, limit]
    ).fetchone()
    if beyond is not None:
        raise BadInput(
            f"{_where(file, beyond[0])}: there is no sequence {beyond[1]}, the suite has {limit:,}"
        )
    return 0 if shifted_from is None else lines - shifted_from + 1


def _refuse_contradictions(db: duckdb.DuckDBPyConnection, first: int, stop: int, files: list[Path]) -> None:
    found = db.execute(
        "SELECT id FROM lines WHERE id >= ? AND id < ? GROUP BY id HAVING min(matches) <> max(matches) "
        "ORDER BY id LIMIT 1",
        [first, stop],
    ).fetchone()
    if found is None:
        return
    rows = db.execute(
        "SELECT file, row, matches FROM lines WHERE id = ? ORDER BY file, row", [found[0]]
    ).fetchall()
    one = rows[0]
    other = next(row for row in rows if row[2] != one[2])
    raise BadInput(
        f"sequence {found[0]} has two scores: {one[2]}/32 in {_where(files[one[0]], one[1])}, and "
        f"{other[2]}/32 in {_where(files[other[0]], other[1])}. Leave out the file that is wrong."
    )


def _one(db: duckdb.DuckDBPyConnection, sql: str) -> tuple[int, ...]:
    row = db.execute(sql).fetchone()
    assert row is not None
    return row


def _where(file: Path, row: int) -> str:
    """File and line of its row-th line that is not empty."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            row -= bool(line.strip())
            if row == 0:
                return f"{file} line {number}"
    return str(file)


def _malformed(file: Path, error: Exception) -> BadInput:
    """The first line that is not two fields; DuckDB's own words where there is none."""
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                text = line.strip()
                if text and (text.count(b",") != 1 or not text.isascii()):
                    shown = text[:40].decode("utf-8", "backslashreplace")
                    return BadInput(f"{file} line {number}: {shown!r} is not index,accuracy")
    except OSError as cause:
        return BadInput(f"{file} can't be read: {cause.strerror}")
    return BadInput(f"{file} can't be read as index,accuracy: {str(error).splitlines()[0]}")


def _digest(files: list[Path], fix: bool) -> str:
    """Identity of the content of all files, whatever their names and order, and of how they are read."""
    digests = []
    for file in files:
        try:
            with file.open("rb") as content:
                digests.append(hashlib.file_digest(content, "sha256").hexdigest())
        except OSError as error:
            raise BadInput(f"{file} can't be read: {error.strerror}") from None
    return hashlib.sha256(" ".join([*sorted(digests), str(fix)]).encode()).hexdigest()


def _literal_glob(file: Path) -> str:
    """read_csv takes a pattern: characters with a meaning in it stand for themselves."""
    return "".join(f"[{c}]" if c in "[*?" else c for c in str(file))
