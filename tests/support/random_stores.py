"""Small random stores, and what was put into them, to count by hand what queries should say."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from memoserve.catalog import Catalog
from memoserve.domain import Checkpoint
from memoserve.store import Store
from memoserve.suites import Suite, load_suite

SUITE = """
name = "{suite}"
batch_size = {batch}
sequence_length = 64
eos = "allow"
eos_token_id = 0
steps = {steps}
[sequences]
trained = {trained}
control = [{trained}, {stop}]
"""

MODEL = """
[[models]]
name = "{name}"
parameters = {parameters}
parameters_without_embeddings = {parameters}
folder = "weights/step{{step}}"
"""


@dataclass
class World:
    """What is in a store. `scores`: model@step -> id -> (matches, matched_prefix), either may be None."""

    path: Path
    suite: Suite
    checkpoints: dict[str, Checkpoint] = field(default_factory=dict)
    scores: dict[str, dict[int, tuple[int | None, int | None]]] = field(default_factory=dict)
    windows: dict[int, int] = field(default_factory=dict)
    log_likelihoods: dict[str, dict[int, float]] = field(default_factory=dict)

    def seen(self, name: str) -> int:
        return self.checkpoints[name].sequences_seen

    @cached_property
    def catalog(self) -> Catalog:
        """That of the store, opened once."""
        return Catalog.open(self.path)

    @property
    def trained(self) -> int:
        return self.suite.sequences.trained

    def memorized(self, name: str) -> set[int]:
        """Ids with a full score, seen or not."""
        return {
            i
            for i, (matches, prefix) in self.scores[name].items()
            if (prefix if prefix is not None else matches) == 32
        }

    @property
    def largest(self) -> str:
        return max(self.scores, key=lambda n: (self.checkpoints[n].model.order, self.checkpoints[n].step))


def toy_suite(
    folder: Path,
    *,
    models: tuple[str, ...] = ("s", "m", "l"),
    steps: tuple[int, ...] = (0, 3, 7),
    batch: int = 50,
    trained: int = 350,
    control: int = 20,
    name: str = "toy",
) -> Suite:
    """A suite file in `folder`, loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "suite.toml"
    text = SUITE.format(suite=name, batch=batch, steps=list(steps), trained=trained, stop=trained + control)
    text += "".join(
        MODEL.format(name=model, parameters=10 ** (place + 1)) for place, model in enumerate(models)
    )
    file.write_text(text)
    return load_suite(file)


def random_world(folder: Path, seed: int, mode: str, *, loglik: bool = False) -> World:
    """A store in `folder`/store. `mode`: score, extract, or imported (matches only, no window numbers)."""
    rng = random.Random(seed)
    models = ("s", "12", "l-x", "xl")[: rng.randint(2, 4)]
    steps = tuple(sorted(rng.sample(range(0, 12), rng.randint(2, 4))))
    batch = rng.choice([7, 31, 64])
    trained = max(2, steps[-1] * batch - rng.choice([0, 0, 5]))
    control = rng.randint(1, 12)
    suite = toy_suite(folder, models=models, steps=steps, batch=batch, trained=trained, control=control)
    world = World(folder / "store", suite)
    store = Store.create(world.path)
    store.claim(suite, {"suite": "toy", "mode": mode, "seed": seed})

    total = trained + control
    kinds = max(1, int(total * rng.choice([0.2, 0.7, 3])))
    window_of = [rng.randrange(kinds) - kinds // 2 for _ in range(total)]
    sample = (
        sorted(rng.sample(range(total), rng.randint(1, total))) if rng.random() < 0.4 else list(range(total))
    )
    if mode != "imported":
        world.windows = {i: window_of[i] for i in sample}
        _write_in_parts(rng, sample, total, lambda a, b, ids: store.write_sequences(
            "toy", a, b, ids, np.array([window_of[i] for i in ids], np.int64)))  # fmt: skip

    hardness = {w: rng.random() for w in set(window_of)}
    for checkpoint in suite.all_checkpoints():
        if rng.random() < 0.15:
            continue
        nothing = rng.random() < 0.15
        strength = 0.15 + 0.25 * checkpoint.model.order
        scores: dict[int, tuple[int, int]] = {}
        for window in set(window_of):
            full = not nothing and hardness[window] < strength * rng.choice([0.5, 1, 1.3])
            mask = 0xFFFFFFFF if full else rng.getrandbits(32) & ~(1 << rng.choice([0, 1, 3, 9]))
            prefix = next((i for i in range(32) if not mask >> i & 1), 32)
            scores[window] = (mask, prefix)
        ids = [i for i in sample if i < checkpoint.sequences_seen or i >= trained or rng.random() < 0.3]
        if rng.random() < 0.3:
            ids = [i for i in ids if rng.random() < 0.7]
        if not ids:
            continue
        name = str(checkpoint)
        world.checkpoints[name] = checkpoint
        given = {}
        for i in ids:
            mask, prefix = scores[window_of[i]]
            matches = mask.bit_count()
            given[i] = (None if mode == "extract" else matches, None if mode == "imported" else prefix)
        world.scores[name] = given
        # Its own generator, so that the rest of the store is the same without; few values, so that some tie.
        draw = random.Random(f"{seed} {name}")
        chances = {w: np.float32(-draw.choice([0.2, 3, 30]) * draw.randint(0, 20) / 10) for w in scores}
        if loglik:
            world.log_likelihoods[name] = {i: float(chances[window_of[i]]) for i in ids}

        def write(
            a: int,
            b: int,
            part: NDArray[np.int64],
            checkpoint: Checkpoint = checkpoint,
            scores: dict[int, tuple[int, int]] = scores,
            chances: dict[int, np.float32] = chances,
        ) -> None:
            masks = np.array([scores[window_of[i]][0] for i in part], np.uint32)
            prefixes = np.array([scores[window_of[i]][1] for i in part], np.uint8)
            matches = SimpleNamespace(
                matched_prefix=None if mode == "imported" else prefixes,
                match_mask=masks if mode == "score" else None,
                matches=np.bitwise_count(masks).astype(np.uint8) if mode == "imported" else None,
                continuation_ll=np.array([chances[window_of[i]] for i in part]) if loglik else None,
            )
            store.write_scores(checkpoint, a, b, part, matches, "weights")

        _write_in_parts(rng, ids, total, write)
    return world


def _write_in_parts(
    rng: random.Random, ids: list[int], total: int, write: Callable[[int, int, NDArray[np.int64]], object]
) -> None:
    cuts = sorted({0, total, *(rng.randrange(1, total) for _ in range(rng.randint(0, 3)) if total > 1)})
    for first, stop in pairwise(cuts):
        write(first, stop, np.array([i for i in ids if first <= i < stop], np.int64))
