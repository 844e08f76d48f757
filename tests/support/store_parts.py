"""Scores to put into a store, and parts of one to change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from memoserve.store import checksum
from memoserve.store.checksum import KEY

FINGERPRINT = {"suite": "toy", "mode": "score", "dtype": "float32", "eos_token_id": None}


def matches(n: int, *, seed: int = 0, mask: bool = True, likelihood: bool = False) -> SimpleNamespace:
    rng = np.random.default_rng(seed)
    masks = rng.integers(0, 2**32, n, dtype=np.uint32)
    masks[rng.random(n) < 0.3] = 0xFFFFFFFF
    prefix = np.array([next((i for i in range(32) if not int(m) >> i & 1), 32) for m in masks], np.uint8)
    return SimpleNamespace(
        matched_prefix=prefix,
        match_mask=masks if mask else None,
        continuation_ll=-rng.random(n).astype(np.float32) if likelihood else None,
    )


def parts_in(store: Path) -> dict[str, bytes]:
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("part-*.parquet")}


def rewrite(
    file: Path,
    *,
    table: Callable[[pa.Table], pa.Table] = lambda table: table,
    said: Callable[[dict[str, Any]], dict[str, Any]] = lambda said: said,
) -> None:
    """Write a Parquet file of a store anew, with a right checksum: as another version would have."""
    metadata = pq.read_metadata(file).metadata or {}
    sink = pa.BufferOutputStream()
    changed = table(pq.ParquetFile(file).read())
    with pq.ParquetWriter(sink, changed.schema, store_schema=False) as writer:
        writer.write_table(changed)
        if b"memoserve" in metadata:
            writer.add_key_value_metadata({"memoserve": json.dumps(said(json.loads(metadata[b"memoserve"])))})
        writer.add_key_value_metadata({KEY: checksum.PLACEHOLDER})
    file.write_bytes(checksum.seal(sink.getvalue().to_pybytes()))
