"""Stores whose models memorize windows with known probabilities, to hold forecasts against."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray
from random_stores import toy_suite

from memoserve.catalog import Catalog
from memoserve.store import Store
from memoserve.suites import Suite

MODELS = ("s", "m", "l", "xl")
STEPS = (3, 6)


@dataclass(frozen=True)
class Known:
    """window: int64[sequences]; count, length: of each window; chance, memorized: model@step -> [windows]."""

    path: Path
    suite: Suite
    window: NDArray[np.int64]
    count: NDArray[np.int64]
    length: NDArray[np.float64]
    chance: Mapping[str, NDArray[np.float64]]
    memorized: Mapping[str, NDArray[np.bool_]]
    prefix: Mapping[str, NDArray[np.uint8]]
    log_likelihood: Mapping[str, NDArray[np.float32]]


def known_world(
    folder: Path,
    seed: int,
    *,
    windows: int = 2000,
    models: tuple[str, ...] = MODELS,
    evaluated: Callable[[str], bool] = lambda checkpoint: True,
    flip: Callable[[str], bool] = lambda checkpoint: False,
    none: bool = False,
    hidden: float = 0.0,
    name: str = "toy",
) -> Known:
    """A store in folder/store. A model memorizes a window by chance alone, given its count and its length.

    The mean chance to the power of 2/3 is a straight line in the logarithm of the size, as forecasts assume;
    the logit is linear in log count and length. Scores of a checkpoint that `flip` names are turned round:
    what was memorized isn't, and the other way; with `none` nothing is memorized at all. `hidden`: how much
    what no feature says adds to the logit, the same for all models.
    """
    rng = np.random.default_rng(seed)
    count = np.minimum(rng.zipf(1.8, windows), 200)
    window = rng.permutation(np.repeat(np.arange(windows), count))
    trained = len(window) // STEPS[-1] * STEPS[-1]
    window = window[:trained]
    # Numbered by their first sequence, as nothing says that numbers mean anything.
    count = np.bincount(window, minlength=windows)
    length = rng.normal(size=windows)
    unsaid = hidden * rng.normal(size=windows)
    suite = toy_suite(
        folder, models=models, steps=STEPS, batch=trained // STEPS[-1], trained=trained, control=1, name=name
    )
    store = Store.create(folder / "store")
    store.claim(suite, {"suite": name, "mode": "extract", "seed": seed})
    ids = np.arange(trained)
    store.write_sequences(name, 0, trained, ids, window * 7919 - 13)
    known = Known(folder / "store", suite, window, count, length, {}, {}, {}, {})
    there = count > 0
    for checkpoint in suite.all_checkpoints():
        order = checkpoint.model.order
        share = (0.06 + 0.065 * order) ** 1.5 * checkpoint.step / STEPS[-1]
        chance = with_mean(1.3 * np.log(np.maximum(count, 1)) + 0.8 * length + unsaid, share, there)
        memorized = (rng.random(windows) < chance) & (not none)
        # A window that is likely to be memorized is matched further, whether it is or not.
        prefix = np.minimum(rng.poisson(12 * np.sqrt(chance)), 31)
        prefix = np.where(memorized, 32, prefix).astype(np.uint8)
        ll = np.where(memorized, -rng.exponential(2, windows), -20 - 60 * (1 - chance)).astype(np.float32)
        if flip(str(checkpoint)):
            prefix, ll = np.where(memorized, 3, 32).astype(np.uint8), -80 - ll
        known.chance[str(checkpoint)] = chance  # type: ignore[index]
        known.memorized[str(checkpoint)] = prefix == 32  # type: ignore[index]
        known.prefix[str(checkpoint)] = prefix  # type: ignore[index]
        known.log_likelihood[str(checkpoint)] = ll  # type: ignore[index]
        if evaluated(str(checkpoint)):
            seen = ids[: checkpoint.sequences_seen]
            matches = SimpleNamespace(
                matched_prefix=prefix[window[seen]], match_mask=None, matches=None,
                continuation_ll=ll[window[seen]],
            )  # fmt: skip
            store.write_scores(checkpoint, 0, len(seen), seen, matches, "weights")
    return known


def with_mean(z: NDArray[np.float64], mean: float, there: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Chances sigmoid(z + a) with a such that those `there` have a mean."""
    low, high = -50.0, 50.0
    for _ in range(80):
        a = (low + high) / 2
        if (1 / (1 + np.exp(-(z + a))))[there].mean() < mean:
            low = a
        else:
            high = a
    return np.asarray(1 / (1 + np.exp(-(z + low))))


def add_features(catalog: Catalog, known: Known) -> None:
    """The relation `features`: the length of each window, a number that says nothing, and what is none."""
    import pyarrow as pa

    ids = np.arange(len(known.window))
    noise = np.random.default_rng(1).integers(0, 1000, len(known.count))
    catalog.connection.register("features_arrow", pa.table({
        "suite": [known.suite.name] * len(ids),
        "sequence_id": ids,
        "length": known.length[known.window],
        "noise": noise[known.window],
        "kind": ["code"] * len(ids),
    }))  # fmt: skip
    catalog.connection.execute("CREATE TEMP TABLE features AS FROM features_arrow")
