"""Several threads on one reader, as the workers of a run are: everyone gets the file's tokens, always."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFile
from megatron_files import shard, write_dataset
from numpy.typing import NDArray
from web_server import serving

from memoserve.sequences import SequenceSource, open_sequences, write_pack

ROWS, TOKENS = 303, 70
WORDS = 500


@pytest.fixture(scope="module")
def tokens() -> NDArray[np.uint32]:
    return np.random.default_rng(0).integers(0, WORDS, (ROWS, TOKENS), dtype=np.uint32)


@pytest.fixture(scope="module")
def folder(tokens: NDArray[np.uint32], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same sequences as every kind of file."""
    here = tmp_path_factory.mktemp("kinds")
    write_dataset(here / "merged", tokens.tolist())
    write_dataset(here / "unmerged", tokens.tolist())
    shard(here / "unmerged", [1001, 20_002], last_is_count=False)
    np.save(here / "a.npy", tokens)
    pq.write_table(pa.table({"tokens": list(tokens)}), here / "a.parquet", row_group_size=100)
    (here / "tables").mkdir()
    for i, (first, stop) in enumerate([(0, 50), (50, 210), (210, ROWS)]):
        table = pa.table({"input_ids": list(tokens[first:stop])})
        pq.write_table(table, here / "tables" / f"{i}.parquet", row_group_size=40)
    lines = [json.dumps({"tokens": row}) for row in tokens.tolist()]
    (here / "a.jsonl").write_text("\n".join(lines))
    texts = [json.dumps({"text": " ".join(f"w{i}" for i in row)}) for row in tokens.tolist()]
    (here / "text.jsonl").write_text("\n".join(texts))
    model = {"type": "WordLevel", "vocab": {f"w{i}": i for i in range(WORDS)}, "unk_token": "w0"}
    tokenizer = {"version": "1.0", "model": model, "pre_tokenizer": {"type": "WhitespaceSplit"}}
    (here / "tokenizer.json").write_text(json.dumps(tokenizer))
    write_pack(lambda: open_sequences(here / "a.npy"), here / "pack", TOKENS, rows_a_part=97)
    return here


@pytest.fixture(autouse=True)
def impatient() -> Iterator[None]:
    """Threads take turns a thousand times as often as usual: what they share comes apart soon."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(usual)


def read_together(source: SequenceSource, tokens: NDArray[np.uint32], reads: int, threads: int = 6) -> None:
    """Each thread reads ranges, single sequences and lengths of its own; none may see another's."""
    begin = threading.Barrier(threads)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        begin.wait()
        at = 0
        for _ in range(reads):
            length = int(rng.integers(1, TOKENS + 1))
            on = rng.random() < 0.5 and at < ROWS  # read on, as a run does
            first = at if on else int(rng.integers(0, ROWS))
            stop = at = int(rng.integers(first, ROWS)) + 1
            assert (source.read(first, stop, length) == tokens[first:stop, :length]).all()
            ids = np.unique(rng.integers(0, ROWS, 7))
            assert (source.take(ids, length) == tokens[ids, :length]).all()
            assert (source.lengths(ids) == TOKENS).all()

    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, seed) for seed in range(threads)]:
            done.result()


KINDS = ["merged.idx", "unmerged", "a.npy", "a.parquet", "tables", "a.jsonl", "text.jsonl", "pack"]


@pytest.mark.parametrize("name", KINDS)
def test_threads_share_nothing(folder: Path, tokens: NDArray[np.uint32], name: str) -> None:
    source = open_sequences(folder / name, folder / "tokenizer.json")
    read_together(source, tokens, 3 if name == "text.jsonl" else 12)


@pytest.mark.parametrize(
    "name", ["merged.idx", "unmerged", "a.npy", "a.parquet", "tables", "a.jsonl", "pack"]
)
def test_threads_share_nothing_on_a_file_system_that_has_one_object_for_all(
    folder: Path, tokens: NDArray[np.uint32], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seek = MemoryFile.seek

    def slowly(self: MemoryFile, *where: int) -> int:
        position = int(seek(self, *where))
        time.sleep(1e-4)
        return position

    monkeypatch.setattr(MemoryFile, "seek", slowly)
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/kinds", recursive=True)
    try:
        read_together(open_sequences(f"memory://kinds/{name}"), tokens, 3)
    finally:
        memory.rm("/kinds", recursive=True)


@pytest.mark.parametrize("name", ["merged.idx", "a.npy", "a.parquet", "pack"])
def test_threads_share_nothing_on_a_web_server(folder: Path, tokens: NDArray[np.uint32], name: str) -> None:
    with serving(folder) as server:
        read_together(open_sequences(f"{server.address}/{name}"), tokens, 1, threads=4)


def test_a_read_that_fails_leaves_the_others_alone(tmp_path: Path) -> None:
    rows: list[list[int]] = [[7, i] for i in range(300)]
    rows[150] = [7]
    pq.write_table(pa.table({"tokens": rows}), tmp_path / "a.parquet", row_group_size=100)
    source = open_sequences(tmp_path / "a.parquet")

    def fail() -> None:
        with pytest.raises(Exception, match="sequence 150 has 1 tokens"):
            source.read(100, 200, 2)

    def succeed() -> None:
        assert source.read(0, 150, 2).tolist() == rows[:150]
        assert source.read(151, 300, 2).tolist() == rows[151:]

    work: list[Callable[[], None]] = [fail, succeed] * 20
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(one) for one in work]:
            done.result()
