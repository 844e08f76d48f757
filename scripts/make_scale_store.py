#!/usr/bin/env python3
"""A synthetic store of any size, to try storage and queries at the size of a real study.

    python scripts/make_scale_store.py DIR --sequences 9152000 --models 8

Nothing in it comes from a model. The parts are written by memoserve's own store, in its schema and part
size, and their statistics are like those of a real run, so that compression and queries meet what they
would meet: most scores low and a spike at 1, memorized shares and their overlap between models near the
paper's table (Biderman et al. 2023), models that agree on what is easy, checkpoints of one model that
agree more, and windows that occur up to thousands of times. It says "synthetic" in the suite's and the
models' names (so in every answer of a query), in the fingerprint, in each part's weights, and in a README
in the store.

`entropy` gives the entropy of what was written, by the closed form of what it was drawn from.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memoserve.domain import Checkpoint
from memoserve.store import Store, missing_ranges
from memoserve.suites import Suite, load_suite

Mode = Literal["extract", "score"]

# As `memoserve run` cuts a full pass.
PART = 1 << 20
CONTROL = 1_000
STEPS = (143_000,)

# The share that the largest model memorizes at its last step, and those of the smaller ones by the paper's
# table: |P| / |T| = recall / precision.
LARGEST_SHARE = 0.0162
RELATIVE_SHARE = {
    "14m": 0.08, "31m": 0.13, "70m": 0.206, "160m": 0.305, "410m": 0.427, "1b": 0.550, "1.4b": 0.598,
    "2.8b": 0.724, "6.9b": 0.899, "12b": 1.0,
}  # fmt: skip

# What kind of window it is to a model, from the hardest on. A kind has the chance that the next token
# matches while all have so far, and the chance of a match after the first miss (a power of 1/2, or one less
# it, so that random words can be combined bit by bit to give it exactly). Memorized windows match in all
# 32.
KINDS = ("ordinary", "partly predictable", "formulaic", "nearly memorized", "memorized")
PREFIX_CHANCE = (None, 0.7, 0.9, 15 / 16)
TAIL_CHANCE = (1 / 16, 1 / 8, 1 / 4, 15 / 16)

# One model's score of a window: what all models share, what its checkpoints share, and the checkpoint's own.
COMMON, OF_MODEL, OF_STEP = 0.98, 0.012, 0.008
REPEATED = 0.02
"""The share of sequences whose window comes from the pool of repeated ones."""
REPEATED_SHIFT = 0.8
"""By how much those are easier, in standard deviations."""


@dataclass(frozen=True)
class World:
    """What a store is drawn from: everything follows from these."""

    sequences: int
    models: int
    steps: tuple[int, ...]
    mode: Mode
    seed: int

    @property
    def pool(self) -> int:
        """How many windows are repeated."""
        return max(1, self.sequences // 200)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parse(arguments)
    world = World(
        options.sequences, options.models, tuple(sorted(set(options.steps))), options.mode, options.seed
    )
    began = time.monotonic()
    rows = make_store(options.directory, world, options.processes)
    seconds = time.monotonic() - began
    print(
        f"{options.directory}: synthetic, {rows:,} rows in {seconds:.1f} s "
        f"({rows / seconds / 1e6:.1f} M rows/s)"
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line. Exits with 2 and what is wrong for values that don't go together."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="the store, new or empty")
    parser.add_argument("--sequences", type=int, default=9_152_000, help="how many (Pythia: 146432000)")
    parser.add_argument("--models", type=int, default=8, help="how many, the largest of Pythia's ten sizes")
    parser.add_argument(
        "--steps", type=lambda text: [int(step) for step in text.split(",")], default=list(STEPS),
        help="the checkpoints, such as 23000,143000; the last one has seen all sequences",
    )  # fmt: skip
    parser.add_argument("--mode", choices=("extract", "score"), default="extract")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many at a time")
    options = parser.parse_args(arguments)
    if not 1 <= options.models <= len(RELATIVE_SHARE):
        parser.error(f"--models is 1 to {len(RELATIVE_SHARE)}")
    if min(options.steps) < 1 or options.sequences < 1 or options.sequences % max(options.steps):
        parser.error(
            f"--sequences must be a multiple of the last step ({max(options.steps)}): steps are equally long"
        )
    return options


def make_store(directory: Path, world: World, processes: int | None = None) -> int:
    """Write the store and return how many rows of scores it has. The same world gives the same rows."""
    store = Store.create(directory)
    suite = _suite(directory, world)
    (directory / "README.md").write_text(_readme(world), encoding="utf-8")
    store.claim(suite, _fingerprint(suite, world))
    cells = missing_ranges([(0, world.sequences + CONTROL)], [], PART)
    tasks = [(directory, world, first, stop) for first, stop in cells]
    # spawn: DuckDB and Arrow have threads that a fork loses.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        rows = sum(pool.imap_unordered(_write_cell, tasks))
        checkpoints = [(directory, checkpoint) for checkpoint in suite.all_checkpoints()]
        for _ in pool.imap_unordered(_list_memorized, checkpoints):
            pass
    store.index_repeats(suite.name)
    return rows


# What it is called


def _suite(directory: Path, world: World) -> Suite:
    pythia = load_suite("pythia")
    models = [model for model in pythia.models if model.name in RELATIVE_SHARE][-world.models :]
    text = f"""# SYNTHETIC: made by scripts/make_scale_store.py. There are no such models and sequences.
name = "synthetic"
description = "SYNTHETIC scores in the shape of a Pythia study, drawn at random: no model was run"
batch_size = {world.sequences // world.steps[-1]}
sequence_length = {pythia.sequence_length}
eos = "ban"
eos_token_id = 0
steps = {list(world.steps)}
[sequences]
trained = {world.sequences}
control = [{world.sequences}, {world.sequences + CONTROL}]
"""
    for model in models:
        text += f"""
[[models]]
name = "synthetic-{model.name}"
parameters = {model.parameters}
parameters_without_embeddings = {model.parameters_without_embeddings}
folder = "synthetic-no-weights/{{step}}"
"""
    file = directory / "synthetic-suite.toml"
    file.write_text(text, encoding="utf-8")
    return load_suite(file)


def _fingerprint(suite: Suite, world: World) -> dict[str, str | int | None]:
    return {
        "synthetic": "drawn at random by scripts/make_scale_store.py: no model was run, no sequence was read",
        "synthetic_seed": world.seed,
        "suite": suite.name,
        "context": 32,
        "continuation": 32,
        "mode": f"{world.mode} (synthetic)",
        "engine": "synthetic",
        "engine_version": "none",
        "dtype": "none",
    }


def _readme(world: World) -> str:
    return f"""# SYNTHETIC scores

No model was run and no training sequence was read: `scripts/make_scale_store.py` drew everything in this
store at random, to try storage and queries at size. Its figures say nothing about any language model.

sequences {world.sequences}, models {world.models}, steps {", ".join(map(str, world.steps))}, mode
{world.mode}, seed {world.seed}
"""


# What is drawn


@dataclass(frozen=True)
class Law:
    """How one checkpoint's scores are distributed.

    `limits` float64[4] between the five kinds, ascending, in standard deviations of its score; `prefix`
    float64[4], the chance of the next token's match by kind.
    """

    limits: NDArray[np.float64]
    prefix: NDArray[np.float64]


def law_of(checkpoint: Checkpoint, world: World) -> Law:
    """The distribution behind a checkpoint's scores."""
    from scipy.stats import norm

    name = checkpoint.model.name.removeprefix("synthetic-")
    # A checkpoint that is half trained memorizes a bit less of what it has seen.
    trained = (checkpoint.step / world.steps[-1]) ** 0.25
    memorized = LARGEST_SHARE * RELATIVE_SHARE[name] * trained
    shares = np.array([0.05, 3 * memorized, 1.5 * memorized, memorized])
    above = np.cumsum(shares[::-1])[::-1]
    size = list(RELATIVE_SHARE).index(name) / (len(RELATIVE_SHARE) - 1)
    return Law(norm.isf(above), np.array([0.28 + 0.14 * size, *PREFIX_CHANCE[1:]], dtype=np.float64))


def _prefix_shares(chance: float) -> NDArray[np.float64]:
    """float64[32]: the chance of each matched prefix 0..31 of a window that is not memorized."""
    shares = chance ** np.arange(32)
    return np.asarray(shares / shares.sum())


@functools.lru_cache(maxsize=256)
def _prefix_table(chances: tuple[float, ...]) -> NDArray[np.uint8]:
    """uint8[5 * 65536]: the matched prefix for a kind and 16 random bits."""
    table = np.full((len(KINDS), 65536), 32, dtype=np.uint8)
    middle = (np.arange(65536) + 0.5) / 65536
    for kind, chance in enumerate(chances):
        table[kind] = np.minimum(np.searchsorted(np.cumsum(_prefix_shares(chance)), middle), 31)
    return table.ravel()


# By matched prefix: the bits of the prefix, and those after the first miss.
_PREFIX_BITS = np.array([(1 << p) - 1 for p in range(33)], dtype=np.uint32)
_TAIL_BITS = np.array([(~((2 << p) - 1)) & 0xFFFFFFFF for p in range(33)], dtype=np.uint32)


def _draw(
    rng: np.random.Generator, score: NDArray[np.float32], law: Law, mode: Mode
) -> tuple[NDArray[np.uint8], NDArray[np.uint32] | None]:
    """(matched prefix uint8[n], match mask uint32[n] or None) of windows with these scores."""
    n = len(score)
    kind = np.zeros(n, dtype=np.uint32)
    for limit in law.limits:
        kind += score > np.float32(limit)
    bits = rng.integers(0, 1 << 16, n, dtype=np.uint16)
    prefix = _prefix_table(tuple(law.prefix))[(kind << 16) + bits]
    if mode == "extract":
        return prefix, None
    quarter = _words(rng, n) & _words(rng, n)
    eighth = quarter & _words(rng, n)
    sixteenth = eighth & _words(rng, n)
    tail = np.where(kind == 0, sixteenth, np.where(kind == 1, eighth, quarter))
    np.copyto(tail, ~sixteenth, where=kind == 3)
    return prefix, _PREFIX_BITS[prefix] | (tail & _TAIL_BITS[prefix])


def _words(rng: np.random.Generator, n: int) -> NDArray[np.uint32]:
    return np.frombuffer(rng.bytes(4 * n), dtype=np.uint32)


def _rng(world: World, *key: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64([world.seed, *key]))


def _normal(rng: np.random.Generator, n: int) -> NDArray[np.float32]:
    return rng.standard_normal(n, dtype=np.float32)


_CELL, _POOL = 1, 2


class _Draws:
    """The scores of a block of windows, checkpoint by checkpoint; `kind` and `number` name the block."""

    def __init__(self, world: World, kind: int, number: int, n: int, shift: float) -> None:
        self._world, self._key, self._n = world, (kind, number), n
        self._common = np.float32(COMMON**0.5) * (_normal(_rng(world, *self._key), n) + np.float32(shift))

    def of(self, checkpoint: Checkpoint) -> tuple[NDArray[np.uint8], NDArray[np.uint32] | None]:
        order, step = checkpoint.model.order, checkpoint.step
        score = self._common + np.float32(OF_MODEL**0.5) * self._noise(1, order)
        rng = _rng(self._world, *self._key, 2, order, step)
        score += np.float32(OF_STEP**0.5) * _normal(rng, self._n)
        return _draw(rng, score, law_of(checkpoint, self._world), self._world.mode)

    def _noise(self, *key: int) -> NDArray[np.float32]:
        return _normal(_rng(self._world, *self._key, *key), self._n)


@functools.lru_cache(maxsize=1)
def _pool(world: World) -> _Draws:
    return _Draws(world, _POOL, 0, world.pool, REPEATED_SHIFT)


@functools.lru_cache(maxsize=32)
def _pool_of(world: World, checkpoint: Checkpoint) -> tuple[NDArray[np.uint8], NDArray[np.uint32] | None]:
    return _pool(world).of(checkpoint)


def window_of(world: World, first: int, stop: int) -> NDArray[np.int64]:
    """int64[stop - first]: the repeated window that each sequence is, or -1."""
    rng = _rng(world, 3, first // PART)
    n = stop - first
    # The square favours low numbers: some windows occur thousands of times, most a few.
    which = (world.pool * rng.random(n) ** 2).astype(np.int64)
    return np.where((rng.random(n) < REPEATED) & (np.arange(first, stop) < world.sequences), which, -1)


def _write_cell(task: tuple[Path, World, int, int]) -> int:
    """Write the parts of all checkpoints in one cell of the grid, and its window numbers."""
    directory, world, first, stop = task
    store, suite = Store(directory), load_suite(directory / "synthetic-suite.toml")
    ids = np.arange(first, stop, dtype=np.int64)
    which = window_of(world, first, stop)
    repeated = which >= 0
    store.write_sequences(
        suite.name, first, stop, ids, _hashed(np.where(repeated, which + (1 << 40), ids), world.seed)
    )
    indices, windows = np.flatnonzero(repeated), which[repeated]
    draws = _Draws(world, _CELL, first // PART, stop - first, 0.0)
    rows = 0
    for checkpoint in suite.all_checkpoints():
        prefix, mask = draws.of(checkpoint)
        prefix[indices] = _pool_of(world, checkpoint)[0][windows]
        # No model saw the held-out ones: none is memorized.
        held_out = (ids >= world.sequences) & (prefix == 32)
        prefix[held_out] = 0
        if mask is not None:
            pool = _pool_of(world, checkpoint)[1]
            assert pool is not None
            mask[indices] = pool[windows]
            mask[held_out] = 0
        seen = [(0, checkpoint.sequences_seen), (world.sequences, world.sequences + CONTROL)]
        for start, end in missing_ranges([(max(a, first), min(b, stop)) for a, b in seen], [], PART):
            at = slice(start - first, end - first)
            found = SimpleNamespace(
                matched_prefix=prefix[at], match_mask=None if mask is None else mask[at], continuation_ll=None
            )
            store.write_scores(checkpoint, start, end, ids[at], found, "synthetic: no weights")
            rows += end - start
    return rows


def _list_memorized(task: tuple[Path, Checkpoint]) -> None:
    directory, checkpoint = task
    Store(directory).list_memorized(checkpoint.suite, checkpoint.model.name, checkpoint.step)


def _hashed(numbers: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """int64[n]: numbers that look like hashes, different ones for different numbers (splitmix64)."""
    x = numbers.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15) % (1 << 64))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).view(np.int64)


# How much there is to know


def entropy(checkpoint: Checkpoint, world: World, samples: int = 1 << 20) -> dict[str, float]:
    """Bits a sequence of a checkpoint's matched prefixes and, in score mode, of its match masks and matches.

    Prefixes exactly; masks and matches as the mean of -log2 p over `samples` draws, p in closed form. Rows
    are taken as independent (the few repeats make it a bit less).
    """
    from scipy.stats import binom, norm

    law = law_of(checkpoint, world)
    edges = np.concatenate([[-np.inf], law.limits, [np.inf]])
    shift = REPEATED_SHIFT * COMMON**0.5
    kinds = (1 - REPEATED) * np.diff(norm.cdf(edges)) + REPEATED * np.diff(norm.cdf(edges - shift))
    shares = np.array([_prefix_shares(chance) for chance in law.prefix])
    prefix = np.append(kinds[:4] @ shares, kinds[4])
    found = {"matched_prefix": _bits(prefix)}
    if world.mode == "extract":
        return found
    # matches = prefix + binomial(31 - prefix, tail chance).
    matches = np.zeros(33)
    matches[32] = kinds[4]
    for kind, chance in enumerate(TAIL_CHANCE):
        for p in range(32):
            matches[p:32] += kinds[kind] * shares[kind, p] * binom.pmf(np.arange(32 - p), 31 - p, chance)
    rng = _rng(world, 4)
    easier = (rng.random(samples) < REPEATED) * shift
    drawn, mask = _draw(rng, _normal(rng, samples) + easier.astype(np.float32), law, "score")
    assert mask is not None
    tail = np.bitwise_count(mask & _TAIL_BITS[drawn]).astype(np.int64)
    chances = np.where(drawn == 32, kinds[4], 0.0)
    rest, below = np.minimum(drawn, 31), 31 - np.minimum(drawn, 31).astype(np.int64)
    for kind, chance in enumerate(TAIL_CHANCE):
        chances += np.where(
            drawn == 32, 0.0, kinds[kind] * shares[kind, rest] * chance**tail * (1 - chance) ** (below - tail)
        )
    return found | {"matches": _bits(matches), "match_mask": float(-np.log2(chances).mean())}


def _bits(shares: NDArray[Any]) -> float:
    known = shares[shares > 0]
    return float(-(known * np.log2(known)).sum())


if __name__ == "__main__":
    main()
