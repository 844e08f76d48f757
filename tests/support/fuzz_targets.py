"""Small valid files of every kind that a stranger may send, and what memoserve does with such a file."""

from __future__ import annotations

import io
import json
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from memoserve.errors import MemoserveError
from memoserve.sequences import load_tokenizer, open_sequences, write_pack
from memoserve.suites import load_suite, select, shipped_suites


def _idx() -> bytes:
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, 8, 4, 2)
    return (
        header
        + struct.pack("<4i", *[70] * 4)
        + struct.pack("<4q", 0, 140, 280, 420)
        + struct.pack("<2q", 0, 4)
    )


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.arange(4 * 70, dtype=np.uint16).reshape(4, 70))
    return stream.getvalue()


def _parquet() -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    stream = io.BytesIO()
    parquet.write_table(pa.table({"tokens": [list(range(i, i + 70)) for i in range(4)]}), stream)
    return stream.getvalue()


def _manifest() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.npy").write_bytes(_npy())
        write_pack(lambda: open_sequences(Path(folder) / "a.npy"), Path(folder) / "pack", 64)
        return (Path(folder) / "pack" / "manifest.json").read_bytes()


def _tokenizer() -> bytes:
    words = {f"w{i}": i for i in range(100)}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w0"}
    return json.dumps({"version": "1.0", "pre_tokenizer": {"type": "Whitespace"}, "model": model}).encode()


SEEDS: dict[str, Callable[[], bytes]] = {
    "idx": _idx,
    "npy": _npy,
    "parquet": _parquet,
    "jsonl": lambda: (b'{"tokens": [' + b", ".join(b"%d" % i for i in range(70)) + b"]}\n") * 3,
    "text": lambda: b'{"text": "' + b"w1 w2 " * 40 + b'"}\n',
    "tokenizer": _tokenizer,
    "suite": lambda: shipped_suites()["mini"].read_bytes(),
    "manifest": _manifest,
    "checksums": lambda: _npy()[:200],
}


def read(kind: str, content: bytes) -> bool:
    """Use a file as a user would; whether it was read. Raises whatever is no MemoserveError."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            if kind == "suite":
                (folder / "suite.toml").write_bytes(content)
                suite = load_suite(folder / "suite.toml")
                select(suite, "all")
                return True
            if kind == "tokenizer":
                (folder / "tokenizer.json").write_bytes(content)
                (folder / "d.jsonl").write_text('{"text": "w1 w2 and something else"}\n')
                decoder = load_tokenizer(folder / "tokenizer.json")
                decoder.decode([0, 5, 2**32 - 1], skip_special_tokens=False)
                open_sequences(folder / "d.jsonl", folder / "tokenizer.json").read(0, 1, 2)
                return True
            tokenizer = None
            path = folder / f"d.{'jsonl' if kind == 'text' else kind}"
            if kind in ("manifest", "checksums"):
                path = folder / "pack"
                path.mkdir()
                (path / "manifest.json").write_bytes(content if kind == "manifest" else _manifest())
                (path / "checksums.npy").write_bytes(content if kind == "checksums" else bytes(160))
                (path / "tokens-00000.npy").write_bytes(_npy())
            else:
                path.write_bytes(content)
            if kind == "idx":
                (folder / "d.bin").write_bytes(np.arange(280, dtype=np.uint16).tobytes())
            if kind == "text":
                (folder / "tokenizer.json").write_bytes(_tokenizer())
                tokenizer = folder / "tokenizer.json"
            source = open_sequences(path, tokenizer)
            source.identity()
            some = min(source.count, 4)
            source.lengths(np.arange(some))
            source.read(0, some, 64)
            if source.count:
                source.take(np.array([source.count - 1]), 64)
        except MemoserveError as error:
            return not str(error)
    return True
