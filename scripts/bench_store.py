#!/usr/bin/env python3
"""A store at the size of a real study: bytes a row, time and memory of queries, the usual way beside it.

    python scripts/bench_store.py layouts FOLDER                  # what encodings and levels cost and save
    python scripts/bench_store.py queries FOLDER --sequences 9152000,36608000,146432000 -o bench.json

Everything is measured on synthetic stores (scripts/make_scale_store.py), made in FOLDER and removed
again. Each query runs in a process of its own, with a cold DuckDB and whatever the operating system has
cached; memory is that process's peak, all of Python included. Seconds of the clock mean little on a
machine that others use: CPU seconds stand beside them. The usual way is pandas and scikit-learn's
confusion matrix (pip install '.[bench]'), of the largest model and each smaller one, on stores of up to
--usual sequences; its ratio to the query `confusion`, which answers the same, stands behind it. A table
in Markdown comes last; -o writes JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

STEP = 143_000
LAYOUTS = (
    ("zstd", 1, 20_000), ("zstd", 1, 1 << 17), ("zstd", 3, 1 << 17), ("zstd", 16, 20_000),
    ("zstd", 16, 1 << 17), ("zstd", 19, 1 << 17), ("gzip", 9, 1 << 17),
    ("brotli", 5, 1 << 17), ("brotli", 10, 1 << 17), ("brotli", 11, 1 << 17),
)  # fmt: skip
# What needs only what is memorized, and is asked most.
COMMON = ("predictors", "counts", "confusion")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    layouts = commands.add_parser("layouts", help="encodings, levels and page sizes, column by column")
    layouts.add_argument("folder", type=Path)
    layouts.add_argument("-o", "--output", type=Path)
    queries = commands.add_parser("queries", help="queries at several sizes, and the usual way")
    queries.add_argument("folder", type=Path)
    queries.add_argument(
        "--sequences", type=lambda text: [int(n) for n in text.split(",")], default=[9_152_000]
    )
    queries.add_argument("--models", type=int, default=8)
    queries.add_argument("--mode", choices=("extract", "score"), default="extract")
    queries.add_argument("--queries", type=lambda text: text.split(","), help="which (default: all)")
    # So that the process stays below 4 GiB.
    queries.add_argument("--memory", default="3500MB", help="what DuckDB may use")
    queries.add_argument("--timeout", type=float, default=600, help="seconds a query")
    queries.add_argument("--usual", type=int, default=36_608_000, help="the most for the usual way")
    queries.add_argument("--keep", action="store_true", help="leave the stores; use those that are there")
    queries.add_argument("-o", "--output", type=Path)
    one = commands.add_parser("one", help="one measurement, in this process (the others call it)")
    one.add_argument("what", choices=("query", "memorized", "narrow", "usual"))
    one.add_argument("store", type=Path)
    one.add_argument("name")
    one.add_argument("memory")
    options = parser.parse_args()
    if options.command == "one":
        print(json.dumps(_one(options.what, options.store, options.name, options.memory)))
        return
    found = measure_layouts(options.folder) if options.command == "layouts" else measure_queries(options)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


# Layouts


def measure_layouts(folder: Path) -> list[dict[str, Any]]:
    """Bytes and nanoseconds a row of one part's columns in several layouts."""
    import duckdb
    import pyarrow.parquet as pq
    from make_scale_store import World, entropy, make_store

    from memoserve.suites import load_suite

    store = folder / "layouts"
    world = World(143_000 * 8, 1, (STEP,), "score", 0)
    make_store(store, world)
    part = max(store.glob("scores/*/*/*/part-*.parquet"), key=lambda path: path.stat().st_size)
    table = pq.read_table(part, partitioning=None)
    suite = load_suite(store / "synthetic-suite.toml")
    bits = entropy(suite.all_checkpoints()[0], world)
    connection = duckdb.connect(config={"threads": 1})
    file = folder / "layout.parquet"
    found = []
    print(
        f"{'column':28}{'encoding':20}{'level':>10}{'page':>8}{'bytes':>8}{'entropy':>9}{'write':>7}{'filter':>8}"
    )
    whole = ("dictionary", "PLAIN", "BYTE_STREAM_SPLIT")
    variants = [
        ("sequence_id", table.select(["sequence_id"]), ("DELTA_BINARY_PACKED",)),
        ("matched_prefix", table.select(["matched_prefix"]), whole),
        ("matches", table.select(["matches"]), whole),
        ("match_mask", table.select(["match_mask"]), whole),
        *_other_masks(table),
    ]
    for column, selected, encodings in variants:
        for encoding in encodings:
            for compression, level, rows in LAYOUTS:
                began = time.perf_counter()
                pq.write_table(
                    selected, file, version="2.6", data_page_version="2.0", store_schema=False,
                    compression=compression, compression_level=level, row_group_size=1 << 20,
                    data_page_size=4 << 17, max_rows_per_page=rows,
                    use_dictionary=selected.column_names if encoding == "dictionary" else [],
                    column_encoding=None
                    if encoding == "dictionary"
                    else dict.fromkeys(selected.column_names, encoding),
                )  # fmt: skip
                wrote = time.perf_counter() - began
                ask = f"SELECT count(*) FROM read_parquet({[str(file)] * 8}) WHERE {column} = 32"
                times: list[float] = []
                for _ in range(3 if column in table.column_names else 0):
                    began = time.perf_counter()
                    connection.execute(ask).fetchall()
                    times.append(time.perf_counter() - began)
                filtered = min(times, default=float("nan"))
                row = {
                    "column": column, "encoding": encoding,
                    "compression": compression, "level": level, "page_rows": rows,
                    "bytes": file.stat().st_size / len(table),
                    "entropy": bits.get("match_mask" if "mask" in column else column, 0) / 8,
                    "write_ns": wrote / len(table) * 1e9, "filter_ns": filtered / len(table) / 8 * 1e9,
                }  # fmt: skip
                found.append(row)
                print(
                    f"{column:28}{encoding:20}{compression:>7}{level:3}{rows:8}{row['bytes']:8.3f}{row['entropy']:9.3f}"
                    f"{row['write_ns']:7.0f}{row['filter_ns']:8.1f}",
                    flush=True,
                )
    shutil.rmtree(store)
    file.unlink()
    return found


def _other_masks(table: pa.Table) -> list[tuple[str, pa.Table, tuple[str, ...]]]:
    """The masks of a part kept in other ways."""
    import numpy as np
    import pyarrow as pa

    mask = table.column("match_mask").to_numpy()
    prefix = table.column("matched_prefix").to_numpy().astype(np.uint64)
    # Bits after the first miss, from bit 0 on: the rest follows from the matched prefix.
    tail = (mask.astype(np.uint64) >> np.minimum(prefix + 1, 32)).astype(np.uint32)
    halves, quarters = mask.view(np.uint16).reshape(-1, 2), mask.view(np.uint8).reshape(-1, 4)
    fixed = pa.Array.from_buffers(pa.binary(4), len(mask), [None, pa.py_buffer(mask.tobytes())])
    return [
        ("mask as two uint16", pa.table({f"h{i}": halves[:, i].copy() for i in range(2)}), ("dictionary",)),
        ("mask as four uint8", pa.table({f"q{i}": quarters[:, i].copy() for i in range(4)}), ("dictionary",)),
        ("mask as fixed bytes", pa.table({"mask": fixed}), ("PLAIN", "BYTE_STREAM_SPLIT")),
        ("mask + 2^52 as double", pa.table({"mask": mask + 2.0**52}), ("BYTE_STREAM_SPLIT",)),
        ("mask's tail after prefix", pa.table({"tail": tail}), ("PLAIN", "BYTE_STREAM_SPLIT")),
    ]


# Queries


def measure_queries(options: argparse.Namespace) -> dict[str, Any]:
    """Every query at every size, each in a process of its own; prints as it goes."""
    from make_scale_store import World, make_store

    from memoserve.queries import list_queries

    names = options.queries or [query.name for query in list_queries()]
    # The common ones first: if time is cut short, they are there.
    names = sorted(names, key=lambda name: (name not in COMMON, name))
    found: dict[str, Any] = {"machine": {"cores": os.cpu_count()}, "stores": [], "queries": []}
    for sequences in options.sequences:
        store = options.folder / f"{options.mode}-{sequences}"
        began = time.monotonic()
        if not (options.keep and store.exists()):
            shutil.rmtree(store, ignore_errors=True)
            make_store(store, World(sequences, options.models, (STEP,), options.mode, 0))
        made = time.monotonic() - began
        size = {top: _bytes(store / top) for top in ("scores", "sequences")}
        rows = (sequences + 1_000) * options.models
        described = {
            "sequences": sequences, "rows": rows, "seconds_to_make": round(made, 1), "bytes": size,
            "bytes_a_row": size["scores"] / rows, "bytes_a_sequence": size["sequences"] / sequences,
        }  # fmt: skip
        found["stores"].append(described)
        print(json.dumps(described), flush=True)
        for what, name in [("memorized", "-"), ("narrow", "-"), *(("query", name) for name in names)]:
            row = {"sequences": sequences, "what": what, "query": name} | _run(
                what, store, name, options.memory, options.timeout
            )
            found["queries"].append(row)
            _print(row)
        if sequences <= options.usual:
            row = {"sequences": sequences, "what": "usual", "query": "confusion"} | _run(
                "usual", store, "-", options.memory, options.timeout
            )
            found["queries"].append(row)
            _print(row)
            ours = [
                one for one in found["queries"] if one["sequences"] == sequences and _is(one, "confusion")
            ]
            if ours and "failed" not in {**row, **ours[0]}:
                row["ratio"] = {key: row[key] / ours[0][key] for key in ("seconds", "cpu", "peak")}
                print("usual way / memoserve:", row["ratio"], flush=True)
        if not options.keep:
            shutil.rmtree(store)
    _table(found["queries"])
    return found


def _is(row: dict[str, Any], query: str) -> bool:
    return bool(row["what"] == "query" and row["query"] == query)


def _table(rows: list[dict[str, Any]]) -> None:
    """A line a query: seconds, CPU seconds, peak GB and GB spilled at each size."""
    sizes = sorted({row["sequences"] for row in rows})
    print("\n| |" + "".join(f" {size:,} |" for size in sizes) + "\n|---|" + "---|" * len(sizes))
    for what, query in dict.fromkeys((row["what"], row["query"]) for row in rows):
        cells = []
        for size in sizes:
            chosen = [r for r in rows if (r["what"], r["query"], r["sequences"]) == (what, query, size)]
            cells.append(_cell(chosen[0]) if chosen else "")
        print(f"| `{query}` |" if what == "query" else f"| {what} |", " | ".join(cells), "|")


def _cell(row: dict[str, Any]) -> str:
    if "failed" in row:
        return "failed"
    spilled = f", {row['written'] / 1e9:.1f} GB spilled" if row["written"] > 1e8 else ""
    return f"{row['seconds']:.1f} s, {row['cpu']:.1f} CPU s, {row['peak'] / 1e9:.2f} GB{spilled}"


def _run(what: str, store: Path, name: str, memory: str, limit: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "one", what, str(store), name, memory]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"failed": f"more than {limit:.0f} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or ["killed"])[-1][:200]}
    return dict(json.loads(done.stdout))


def _print(row: dict[str, Any]) -> None:
    if "failed" in row:
        print(
            f"{row['sequences']:>12,} {row['what']:10}{row['query']:24} FAILED: {row['failed']}", flush=True
        )
        return
    print(
        f"{row['sequences']:>12,} {row['what']:10}{row['query']:24}{row['seconds']:9.2f} s"
        f"{row['cpu']:9.2f} CPU s{row['peak'] / 1e9:7.2f} GB"
        f"{row['read'] / 1e6:10,.0f} MB read{row['written'] / 1e6:10,.0f} MB written{row['rows']:8,} rows",
        flush=True,
    )


def _one(what: str, store: Path, name: str, memory: str) -> dict[str, Any]:
    import resource

    began = time.perf_counter()
    if what == "query":
        rows, seconds = _query(store, name, memory), None
    elif what == "usual":
        rows, seconds = _usual(store), None
    else:
        rows, seconds = _memorized(store, memory, narrow=what == "narrow")
    seconds = time.perf_counter() - began if seconds is None else seconds
    io_counts = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {
        "seconds": seconds, "cpu": sum(resource.getrusage(resource.RUSAGE_SELF)[:2]), "rows": rows, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,  # noqa: E501
        "read": int(io_counts["rchar"]), "written": int(io_counts["wchar"]),
    }  # fmt: skip


def _query(store: Path, name: str, memory: str) -> int:
    from memoserve.catalog import connect, run_query
    from memoserve.queries import find_query

    with connect(store, memory_limit=memory) as connection:
        return len(run_query(connection, find_query(name), {}, store).fetchall())


def _memorized(store: Path, memory: str, *, narrow: bool) -> tuple[int, float]:
    """Count what each checkpoint memorized from the parts, or from a table of just the memorized ids."""
    from memoserve.catalog import connect

    ask = "SELECT count(*), sum(sequence_id) FROM {} GROUP BY model ORDER BY model"
    with (
        connect(store, memory_limit=memory, sandbox=False) as connection,
        tempfile.TemporaryDirectory() as folder,
    ):
        source = "memorized"
        if narrow:
            source = f"read_parquet('{folder}/ids.parquet')"
            connection.execute(
                f"COPY (FROM memorized ORDER BY model, sequence_id) TO '{folder}/ids.parquet' "
                "(COMPRESSION zstd, PARQUET_VERSION v2)"
            )
        began = time.perf_counter()
        rows = len(connection.execute(ask.format(source)).fetchall())
        return rows, time.perf_counter() - began


def _usual(store: Path) -> int:
    """As notebooks do it: two checkpoints' scores in data frames, joined, a confusion matrix; seven times."""
    import pandas as pd
    from sklearn.metrics import confusion_matrix, precision_score, recall_score

    from memoserve.suites import load_suite

    suite = load_suite(store / "synthetic-suite.toml")

    def scores(model: str) -> pd.DataFrame:
        parts = sorted(store.glob(f"scores/*/model={model}/step={STEP}/part-*.parquet"))
        columns = ["sequence_id", "matched_prefix"]
        whole = pd.concat([pd.read_parquet(part, columns=columns, partitioning=None) for part in parts])
        return whole[whole["sequence_id"] < suite.sequences.trained]

    *smaller, largest = (model.name for model in suite.models)
    target = scores(largest)
    for model in smaller:
        joined = scores(model).merge(target, on="sequence_id", suffixes=("_p", "_t"))
        predicted, truth = joined["matched_prefix_p"] == 32, joined["matched_prefix_t"] == 32
        confusion_matrix(truth, predicted)
        precision_score(truth, predicted)
        recall_score(truth, predicted)
    return len(smaller)


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
