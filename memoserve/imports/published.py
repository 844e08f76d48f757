"""EleutherAI's published results, the hub dataset `EleutherAI/pythia-memorized-evals`, as a store.

The dataset lists, for each model, the sequences that it memorized, and nothing else: columns `index`
(int64, the sequence), `tokens` (64 int64, the window) and `__index_level_0__`, left over from pandas. A
split is named `duped.12b` (final checkpoint) or `duped.12b.23000` (that step), and lies in
`data/duped.12b-00000-of-00003-<hash>.parquet`. Every sequence that a checkpoint had seen was evaluated, so
one that is not listed was evaluated and is not memorized.

What the store gets is one row for each evaluated sequence: matches = 32 where it is listed, NULL elsewhere,
because how many tokens matched there is not published (0 would be a lie, and queries would believe it).
Rows that say so little cost next to nothing: 146,432,000 rows with the published 463,953 memorized ones of
70M take 4.4 MB (0.030 bytes a row), with the 2,382,326 of 12B 10.8 MB (0.074), written in five seconds.
So every count of evaluated sequences, and every query, is right without knowing of imports.

Tokens are published for memorized sequences only, so windows can't be numbered: the occurrences of the
others are unknown, and a count of distinct windows would be wrong. Queries answer by sequences alone, and
their intervals take each sequence as its own cluster (too narrow where windows repeat).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from memoserve.domain import Checkpoint
from memoserve.errors import BadInput
from memoserve.imports.into_store import ImportedScores, imported_fingerprint, write_imported
from memoserve.store import Store
from memoserve.suites import Suite

if TYPE_CHECKING:
    import duckdb

DATASET = "EleutherAI/pythia-memorized-evals"
ENGINE = "pythia-memorized-evals"
MODE = "memorized only"
WINDOW = 64

_SPLIT = re.compile(r"(?P<kind>duped|deduped)\.(?P<model>\d+(?:\.\d+)?[mb])(?:\.(?P<step>\d+))?")
_FILE = re.compile(
    rf"(?P<split>{_SPLIT.pattern})-(?P<shard>\d{{5}})-of-(?P<of>\d{{5}})(?:-[0-9a-f]+)?\.parquet"
)


@dataclass(frozen=True)
class Split:
    """A split of the dataset: one checkpoint's memorized sequences. `step` None: the final checkpoint."""

    name: str
    deduped: bool
    model: str
    step: int | None
    files: tuple[Path, ...]

    def checkpoint(self, suite: Suite) -> Checkpoint:
        """The checkpoint of `suite` that it belongs to. Raises BadInput if the suite has none such."""
        for model in suite.models:
            if model.name == self.model:
                return suite.checkpoint(model, suite.steps[-1] if self.step is None else self.step)
        raise BadInput(
            f"split {self.name}: suite {suite.name} has no model {self.model}; its models are "
            + ", ".join(model.name for model in suite.models)
        )


@dataclass(frozen=True)
class SplitImport:
    """What an import of a split did. `beyond` were listed, but the checkpoint had not seen them.

    `windows`: how many distinct token sequences the memorized ones are.
    """

    checkpoint: Checkpoint
    evaluated: int
    memorized: int
    windows: int
    beyond: int
    written: int


@contextmanager
def fetched(path: str, splits: list[str]) -> Iterator[Path]:
    """A local file or folder with the files of `path`: local already, a URL that fsspec knows, or `hub`.

    `hub` is the dataset itself, through huggingface_hub and its cache; `splits`, if any, limits what is
    fetched from there. Raises BadInput if it can't be had.
    """
    if path == "hub":
        yield _from_hub(splits)
    elif "://" in path:
        with TemporaryDirectory(prefix="memoserve-") as folder:
            _copy(path, Path(folder))
            yield Path(folder)
    else:
        yield Path(path)


def _from_hub(splits: list[str]) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise BadInput("reading from the hub needs huggingface_hub: pip install huggingface_hub") from None
    patterns = [f"data/{split}-*.parquet" for split in splits] or ["data/*.parquet"]
    try:
        folder = snapshot_download(DATASET, repo_type="dataset", allow_patterns=patterns)
    # Errors of the hub, of its transport and of the operating system, of three libraries.
    except Exception as error:
        raise BadInput(
            f"{DATASET} could not be fetched ({type(error).__name__}: {str(error).splitlines()[0][:200]}): "
            "try again, or download its data folder and give its path"
        ) from None
    return Path(folder) / "data"


def _copy(url: str, folder: Path) -> None:
    import fsspec

    try:
        remote, inner = fsspec.core.url_to_fs(url)
        found = [inner] if inner.endswith(".parquet") else remote.ls(inner, detail=False)
        for file in found:
            if str(file).endswith(".parquet"):
                remote.get_file(str(file), str(folder / str(file).rsplit("/", 1)[-1]))
    # Each file system has exceptions of its own.
    except Exception as error:
        raise BadInput(f"{url} can't be read: {type(error).__name__}: {error}") from None


def published_splits(path: Path, wanted: list[str]) -> list[Split]:
    """The splits whose files are at `path`: a folder, one with a `data` folder, or a single file.

    `wanted` limits them, if given; a single file of any other name is what the only wanted one says it is.
    Raises BadInput for an unknown or missing split, and for one that lacks a file: what is not listed would
    count as not memorized.
    """
    for name in wanted:
        if not _SPLIT.fullmatch(name):
            raise BadInput(
                f"{name!r} is not a split: they are named duped.12b, deduped.1.4b, duped.12b.23000"
            )
    if path.is_file():
        if len(wanted) == 1 and not _FILE.fullmatch(path.name):
            return [_split(wanted[0], (path,))]
        files = [path]
    elif path.is_dir():
        folder = path / "data" if (path / "data").is_dir() else path
        files = sorted(folder.glob("*.parquet"))
    else:
        raise BadInput(f"{path} does not exist: give the dataset's data folder, one of its files, or hub")
    shards: dict[str, dict[int, tuple[int, Path]]] = {}
    for file in files:
        if match := _FILE.fullmatch(file.name):
            known = shards.setdefault(match["split"], {})
            shard = int(match["shard"])
            if shard in known:
                raise BadInput(
                    f"{known[shard][1].name} and {file.name} are the same part of {match['split']}: keep "
                    "those of one version of the dataset"
                )
            known[shard] = (int(match["of"]), file)
    if not shards:
        raise BadInput(
            f"{path} holds no file of the dataset, such as duped.12b-00000-of-00003-0123456789abcdef.parquet"
            "; for one file of another name, say --split"
        )
    missing = [name for name in wanted if name not in shards]
    if missing:
        raise BadInput(f"{path} has no split {', '.join(missing)}; it has {', '.join(sorted(shards))}")
    splits = []
    for name in sorted(wanted or shards):
        numbers = {of for of, _ in shards[name].values()}
        lacking = sorted(set(range(max(numbers))) - set(shards[name]))
        if len(numbers) > 1 or lacking:
            raise BadInput(
                f"{path}: split {name} is in {max(numbers)} files, and "
                + (f"number {lacking[0]:05d} is missing" if lacking else "they disagree on that")
                + ": without it, what it lists would count as not memorized"
            )
        splits.append(_split(name, tuple(file for _, (_, file) in sorted(shards[name].items()))))
    return splits


def _split(name: str, files: tuple[Path, ...]) -> Split:
    match = _SPLIT.fullmatch(name)
    assert match is not None
    step = None if match["step"] is None else int(match["step"])
    return Split(name, match["kind"] == "deduped", match["model"], step, files)


def import_split(store: Store, suite: Suite, split: Split) -> SplitImport:
    """Write the split's checkpoint into the store, every sequence that it had seen.

    Raises BadInput, naming file and row, for what is not a file of the dataset or lists a sequence twice with
    unlike tokens or beyond the suite's training; StoreConflict if the store holds something else.
    """
    checkpoint = split.checkpoint(suite)
    seen = checkpoint.sequences_seen
    if not seen:
        raise BadInput(
            f"split {split.name}: {checkpoint} has seen no sequence, so there is nothing to import"
        )
    fingerprint = imported_fingerprint(suite, ENGINE, MODE)
    store.refuse_unlike(suite.name, fingerprint)
    listed, tokens = _memorized(split, suite.sequences.trained)
    memorized = listed[listed < seen]
    windows = len(np.unique(tokens[listed < seen]))
    store.claim(suite, fingerprint)

    def rows(first: int, stop: int) -> ImportedScores:
        missing = np.ones(stop - first, dtype=np.bool_)
        start, end = np.searchsorted(memorized, [first, stop])
        missing[memorized[start:end] - first] = False
        full = np.full(stop - first, 32, dtype=np.uint8)
        return ImportedScores(np.arange(first, stop, dtype=np.int64), np.ma.MaskedArray(full, mask=missing))  # type: ignore[no-untyped-call]

    digest = hashlib.sha256(memorized.astype("<i8").tobytes()).hexdigest()
    written = write_imported(store, checkpoint, (0, seen), rows, f"{ENGINE} {split.name} sha256:{digest}")
    return SplitImport(checkpoint, seen, len(memorized), windows, len(listed) - len(memorized), written)


def _memorized(
    split: Split, trained: int
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.uint64]]]:
    """The listed sequence ids, int64[n], ascending, each once, and a hash of each one's tokens, uint64[n]."""
    import duckdb

    with duckdb.connect() as db:
        for file in split.files:
            _check_columns(db, file)
        try:
            db.execute(
                """
                CREATE TABLE listed AS
                SELECT "index" AS id, hash(tokens) AS tokens, len(tokens) AS length, filename AS file,
                       file_row_number AS row
                FROM read_parquet(?, filename = true, file_row_number = true)
                """,
                [[str(file) for file in split.files]],
            )
        except duckdb.Error as error:
            raise BadInput(
                f"split {split.name} can't be read: {str(error).splitlines()[0]}; download it again"
            ) from None
        wrong = db.execute(
            "SELECT file, row, id, length FROM listed WHERE id IS NULL OR id < 0 OR id >= ? "
            "OR length IS DISTINCT FROM ? LIMIT 1",
            [trained, WINDOW],
        ).fetchone()
        if wrong is not None:
            file, row, id_, length = wrong
            what = (
                f"has {length or 'no'} tokens, not {WINDOW}"
                if id_ is not None and 0 <= id_ < trained
                else f"has index {id_}, outside the {trained:,} training sequences"
            )
            raise BadInput(f"{file}, row {row}: {what}; this is not a file of {DATASET}")
        unlike = db.execute(
            "SELECT id FROM listed GROUP BY id HAVING min(tokens) <> max(tokens) LIMIT 1"
        ).fetchone()
        if unlike is not None:
            raise BadInput(
                f"split {split.name} lists sequence {unlike[0]} more than once with unlike tokens: "
                "its files are of different versions of the dataset"
            )
        found = db.execute(
            "SELECT id, any_value(tokens) AS tokens FROM listed GROUP BY id ORDER BY id"
        ).fetchnumpy()
    return np.asarray(found["id"], dtype=np.int64), np.asarray(found["tokens"], dtype=np.uint64)


def _check_columns(db: duckdb.DuckDBPyConnection, file: Path) -> None:
    import duckdb

    try:
        found = {
            name: str(kind)
            for name, kind, *_ in db.execute("DESCRIBE FROM read_parquet(?)", [str(file)]).fetchall()
        }
    except duckdb.Error as error:
        raise BadInput(f"{file} can't be read as Parquet: {str(error).splitlines()[0]}") from None
    for name, kinds in (("index", ("BIGINT", "INTEGER")), ("tokens", ("BIGINT[]", "INTEGER[]"))):
        if found.get(name) not in kinds:
            raise BadInput(
                f"{file} has no column {name} of type {kinds[0]} (it has "
                + ", ".join(f"{n} {k}" for n, k in found.items())
                + f"): this is not a file of {DATASET}"
            )
