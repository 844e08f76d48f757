"""Opening sequences of any kind by path."""

from __future__ import annotations

import os
import re

from memoserve.errors import BadInput
from memoserve.files.place import Place, locate
from memoserve.sequences.foreign import foreign_folder, foreign_kind
from memoserve.sequences.jsonl import JsonlSequences
from memoserve.sequences.megatron import open_megatron
from memoserve.sequences.npy import NpySequences
from memoserve.sequences.numbered import check_alone, whole_set
from memoserve.sequences.pack import BEGUN, MANIFEST, PackSequences, is_pack
from memoserve.sequences.parquet import ParquetSequences
from memoserve.sequences.source import SequenceSource

KINDS = (
    "a Megatron .idx or .bin (or their prefix, or a shard), a .npy, a .parquet (or a folder or pattern of "
    "them), a .jsonl, or the folder of a pack"
)


def open_sequences(
    path: str | os.PathLike[str],
    tokenizer: str | os.PathLike[str] | None = None,
    column: str | None = None,
) -> SequenceSource:
    """Open the sequences at `path`, a local path or any URL that fsspec knows (`s3://`, `https://`, `hf://`).

    By the name: Megatron `.idx`/`.bin` (either, the prefix, or one of unmerged shards), `.npy`
    [sequences, tokens], `.parquet` with a list column `tokens` or `input_ids` (a file, a folder, a glob
    pattern: all files of a numbered set), or `.jsonl` of {"tokens": [...]}, {"input_ids": [...]} or
    {"text": ...}; only the last needs `tokenizer`, a tokenizer.json. `column` names another column of token
    ids (Parquet), or another key (JSONL). A folder may also hold just one Megatron .idx, or be a pack
    (memoserve.sequences.pack; on a web server also named by its manifest.json). Raises BadInput for what
    can't be read as such, or is a part of something larger.
    """
    path = os.fspath(path)
    tokenizer = None if tokenizer is None else os.fspath(tokenizer)
    place = locate(path)
    source = _open(place, tokenizer, column)
    if column is not None and not isinstance(source, ParquetSequences | JsonlSequences):
        raise BadInput(f"{place} has no columns ({source.kind}): leave out the column {column!r}")
    return source


def _open(place: Place, tokenizer: str | None, column: str | None) -> SequenceSource:
    lowered = re.sub(r"[?#].*", "", place.path).lower() if place.web else place.path.lower()
    if place.is_folder():
        return _open_folder(place, column)
    if not place.web and re.search(r"[*?[]", place.path) and not place.exists():
        return _open_pattern(place, column)
    if lowered.endswith(f"/{MANIFEST}"):
        return PackSequences(place.sibling(place.path[: -len(MANIFEST) - 1]))
    if lowered.endswith((".idx", ".bin")):
        return open_megatron(place)
    if lowered.endswith((".npy", ".parquet", ".jsonl")):
        source: SequenceSource
        if lowered.endswith(".npy"):
            source = NpySequences(place)
        elif lowered.endswith(".parquet"):
            source = ParquetSequences([place], column=column)
        else:
            source = JsonlSequences(place, tokenizer, column)
        check_alone(place)
        return source
    if place.sibling(place.path + ".idx").exists():
        return open_megatron(place)
    if place.web and place.sibling(f"{place.path.rstrip('/')}/{MANIFEST}").exists():
        return PackSequences(place)
    if not place.exists():
        raise BadInput(f"{place} does not exist (nor {place}.idx)")
    foreign = foreign_kind(lowered.rpartition("/")[2])
    if foreign is not None:
        raise BadInput(f"{place} {foreign}")
    raise BadInput(f"{place}: what kind of sequences this is can't be told from its name: give {KINDS}")


def _open_folder(place: Place, column: str | None) -> SequenceSource:
    names = [name for name in place.names() if not name.startswith((".", "_"))]
    if is_pack(names):
        return PackSequences(place)
    if BEGUN in names:
        raise BadInput(f"{place} is a pack that is not finished: run memoserve sequences pack again")
    folder = place.path.rstrip("/")
    tables = [place.sibling(f"{folder}/{name}") for name in names if name.lower().endswith(".parquet")]
    indexes = [name for name in names if name.endswith(".idx")]
    if tables and not indexes:
        return ParquetSequences(*whole_set(tables, str(place)), column=column)
    if len(indexes) == 1 and not tables:
        return open_megatron(place.sibling(f"{folder}/{indexes[0]}"))
    foreign = foreign_folder(names) if not tables and not indexes else None
    if foreign is not None:
        raise BadInput(f"{place} {foreign}")
    found = f"{len(tables)} .parquet and {len(indexes)} .idx files"
    raise BadInput(f"the folder {place} holds {found}: give {KINDS}")


def _open_pattern(place: Place, column: str | None) -> SequenceSource:
    matches = [path for path in place.glob(place.path) if path.lower().endswith(".parquet")]
    if not matches:
        raise BadInput(f"no .parquet file matches {place}")
    return ParquetSequences(
        *whole_set([place.sibling(match) for match in matches], str(place)), column=column
    )
