#!/usr/bin/env python3
"""Measure what features cost: tokens a second and core of the pass over the training data, memory a window,
the rest a window, bytes a row. Synthetic data: token ids by a power law, with copied runs (--copied: the
share of places where a run of 8 of an evaluated window is put).

    python scripts/bench_features.py --windows 100000 --copied 0.2
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memoserve.features.job import FeaturesJob
from memoserve.features.near_duplicates import clusters
from memoserve.features.options import Options
from memoserve.features.runs import RunIndex
from memoserve.features.windows import WindowIndex

WIDTH, WINDOW, VOCABULARY = 2049, 64, 50_000


def synthetic(rng: np.random.Generator, n: int, width: int) -> NDArray[np.uint16]:
    """Token ids u16[n, width] by a power law: 1 in 15 is the most frequent."""
    return ((VOCABULARY ** rng.random((n, width), np.float32)) - 1).astype(np.uint16)


def with_copies(
    rng: np.random.Generator, corpus: NDArray[np.uint16], windows: NDArray[np.uint16], share: float
) -> None:
    """Put copies of contexts into the corpus until `share` of its places begin a known run of 8."""
    for _ in range(int(share * corpus.size / 25)):
        row, column = rng.integers(0, len(corpus)), rng.integers(0, WIDTH - 32)
        corpus[row, column : column + 32] = windows[rng.integers(0, len(windows)), :32]


def resident() -> float:
    """MB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def measure_pass(windows: int, copied: float, tokens: int) -> None:
    """The pass over the training data, on one core, without reading it."""
    rng = np.random.default_rng(1)
    evaluated = np.unique(synthetic(rng, windows, WINDOW), axis=0)
    corpus = synthetic(rng, tokens // WIDTH, WIDTH)
    with_copies(rng, corpus, evaluated, copied)
    corpus[: len(corpus) // 10, :WINDOW] = evaluated[rng.integers(0, len(evaluated), len(corpus) // 10)]
    before, begin = resident(), time.process_time()
    index, firsts = RunIndex(evaluated, 32), WindowIndex(evaluated)
    tallies = index.tallies()
    built = time.process_time() - begin
    held = resident() - before
    begin, found = time.process_time(), 0
    for at in range(0, len(corpus), 512):
        block = corpus[at : at + 512].astype(np.uint32)
        runs = index.find(block)
        tallies.add(runs)
        np.bincount(block.ravel())
        firsts.find(block)
        found += len(runs[0])
    rate = corpus.size / (time.process_time() - begin)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"{len(evaluated):>9,} windows, {found / corpus.size:.0%} of places known: "
        f"{rate / 1e6:5.1f} million tokens a second and core; index {built:.1f} s, "
        f"{held * 1e6 / len(evaluated):,.0f} bytes a window held, {peak:,.0f} MB at most in all"
    )


def measure_rest(windows: int) -> None:
    """Near-duplicates, and a whole job of features without a tokenizer, a window a sequence."""
    rng = np.random.default_rng(2)
    data = synthetic(rng, windows, 128)
    begin = time.process_time()
    clusters(np.unique(data[:, :WINDOW], axis=0))
    print(f"near-duplicates: {(time.process_time() - begin) / windows * 1e6:.1f} microseconds a window")
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/data.npy", data)
        Path(folder, "suite.toml").write_text(
            f'name = "synthetic"\nbatch_size = 32\nsequence_length = 127\neos = "ban"\neos_token_id = 0\n'
            f"steps = [1]\n[sequences]\npath = 'data.npy'\ntrained = {windows}\n[[models]]\nname = 'm'\n"
            "parameters = 9\nparameters_without_embeddings = 9\nfolder = 'w/{step}'\n"
        )
        job = FeaturesJob(Options(suite=f"{folder}/suite.toml", out=f"{folder}/store"))
        begin, marks = time.process_time(), {}

        def progress(stage: str, done: int, total: int) -> None:
            marks[stage] = time.process_time() - begin

        job.run(progress)
        size = sum(path.stat().st_size for path in Path(folder, "store").rglob("part-*"))
        print(f"bytes a row: {size / windows:.0f} (all windows distinct, no text)")
        last = 0.0
        for stage, at in marks.items():
            print(f"  {stage}: {(at - last) / windows * 1e6:.1f} microseconds a window")
            last = at


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--windows", type=int, default=100_000)
    parser.add_argument("--copied", type=float, default=0.2)
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--rest", action="store_true", help="measure what is not the pass instead")
    arguments = parser.parse_args()
    if arguments.rest:
        measure_rest(arguments.windows)
    else:
        measure_pass(arguments.windows, arguments.copied, arguments.tokens)


if __name__ == "__main__":
    main()
