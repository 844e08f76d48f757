"""Scores of one checkpoint into a store, in parts; an interrupted import goes on where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from memoserve.domain import Checkpoint
from memoserve.errors import StoreConflict
from memoserve.store import Store
from memoserve.suites import Suite

# 8M rows: 18 parts for a whole Pythia checkpoint, about 200 MB of memory for one.
PART_SIZE = 1 << 23

Range = tuple[int, int]


@dataclass(frozen=True)
class ImportedScores:
    """Rows of a part: ids int64[n], matches uint8[n] (masked: evaluated, the count unknown)."""

    ids: NDArray[np.int64]
    matches: NDArray[np.uint8] | np.ma.MaskedArray[tuple[int], np.dtype[np.uint8]]


def imported_fingerprint(suite: Suite, engine: str, mode: str) -> dict[str, str | int | None]:
    """The fingerprint of imported scores.

    It names no sequence source: neither kind of file says what its sequences were read from, so a store of
    imported scores never mixes with one that was measured. dtype and end of text are those of the authors'
    script (fp16, `min_length`).
    """
    return {
        "suite": suite.name,
        "eos": suite.eos,
        "eos_token_id": suite.banned_token_id,
        "sample": None,
        "context": 32,
        "continuation": 32,
        "mode": mode,
        "engine": f"imported {engine}",
        "dtype": "float16",
    }


def refuse_other_origin(store: Store, checkpoint: Checkpoint, origin: str) -> None:
    """Raise StoreConflict if the checkpoint has scores here that come from other files."""
    stored = store.weights_of(checkpoint)
    if stored is not None and stored != origin:
        raise StoreConflict(
            f"{store.path} already has scores of {checkpoint} from other files ({stored}, now {origin}): "
            "import all files of a checkpoint in one go, into another directory, or delete "
            f"{store.scores_dir(checkpoint.suite, checkpoint.model.name, checkpoint.step)} first"
        )


def write_imported(
    store: Store, checkpoint: Checkpoint, span: Range, rows: Callable[[int, int], ImportedScores], origin: str
) -> int:
    """Write the rows of [first, stop) in parts and return how many were written.

    `rows(first, stop)` gives those of a part. `origin` identifies the imported content and stands in each
    part where a run names its weights: parts of the same content are kept as they are, any others are
    refused. Raises StoreConflict and StorageFailed like the store.
    """
    refuse_other_origin(store, checkpoint, origin)
    written = 0
    for first, stop in store.missing(
        checkpoint.suite, checkpoint.model.name, checkpoint.step, [span], PART_SIZE
    ):
        part = rows(first, stop)
        if len(part.ids):
            store.write_scores(checkpoint, first, stop, part.ids, part, origin)
            written += len(part.ids)
    store.list_memorized(checkpoint.suite, checkpoint.model.name, checkpoint.step)
    return written
