"""What queries should say, counted by plain sets in Python."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from random_stores import World


def ask(world: World, name: str, **values: str) -> list[dict[str, Any]]:
    result = world.catalog.query(name, **values)
    columns = [column[0] for column in result.description]
    return [dict(zip(columns, row, strict=True)) for row in result.fetchall()]


def ratio(part: float, whole: int) -> float | None:
    return part / whole if whole else None


def wilson(share: float | None, n: float) -> tuple[float | None, float | None]:
    """The roots of (share - p)^2 = z^2 p (1 - p) / n in p."""
    if share is None or not n:
        return None, None
    z2 = 1.959963984540054**2
    a, b, c = 1 + z2 / n, -(2 * share + z2 / n), share * share
    root = math.sqrt(max(0.0, b * b - 4 * a * c))
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        if isinstance(value, float):
            assert found[name] == pytest.approx(value, abs=1e-9), (name, found, expected)
        else:
            assert found[name] == value, (name, found, expected)


def units(world: World) -> list[str]:
    return ["sequences", "windows"] if world.windows else ["sequences"]


def place(world: World, name: str) -> tuple[int, int]:
    return world.checkpoints[name].model.order, world.checkpoints[name].step


def flops(world: World, name: str) -> float:
    return float(world.checkpoints[name].training_flops)


def pearson(pairs: Sequence[tuple[int | None, int | None]]) -> float | None:
    known = [(a, b) for a, b in pairs if a is not None and b is not None]
    xs, ys = zip(*known, strict=True) if known else ((), ())
    if len(set(xs)) < 2 or len(set(ys)) < 2:
        return None
    return float(np.corrcoef(xs, ys)[0, 1])


class Read:
    """What a store says of its sequences and windows, by plain sets."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.order = sorted(world.scores, key=lambda n: place(world, n))
        self.memorized = {n: world.memorized(n) for n in self.order}
        self.first: dict[int, int] = {}
        self.occurrences: dict[int, list[int]] = defaultdict(list)
        for i in sorted(i for i in world.windows if i < world.trained):
            self.first.setdefault(world.windows[i], i)
            self.occurrences[self.first[world.windows[i]]].append(i)

    def seen(self, name: str) -> int:
        return min(self.world.seen(name), self.world.trained)

    def number(self, i: int) -> int:
        """The window of a sequence: its first occurrence."""
        return self.first[self.world.windows[i]] if self.world.windows else i

    def evaluated(self, name: str, unit: str, below: int | None = None) -> dict[int, bool]:
        """Key (sequence, or first occurrence of the window) -> memorized, of what was seen."""
        found: dict[int, bool] = {}
        bound = self.seen(name) if below is None else min(below, self.seen(name))
        for i in self.world.scores[name]:
            if i < bound:
                key = i if unit == "sequences" else self.number(i)
                found[key] = found.get(key, False) or i in self.memorized[name]
        return found

    def cluster(self, key: int) -> int:
        return self.number(key)

    def trials(self, keys: Any) -> float:
        """The effective number of trials: equal windows are one cluster."""
        sizes = Counter(map(self.cluster, keys)).values()
        return sum(sizes) ** 2 / sum(n * n for n in sizes) if sizes else 0.0

    def share(self, column: str, part: Any, whole: Any) -> dict[str, Any]:
        """A share and its interval, of two collections of keys."""
        part, whole = set(part), set(whole)
        assert part <= whole
        value = ratio(len(part), len(whole))
        low, high = wilson(value, self.trials(whole))
        return {column: value, f"{column}_low": low, f"{column}_high": high}

    def smaller(self, target: str) -> list[str]:
        """Every smaller model at its last step not after the target's."""
        order, step = place(self.world, target)
        last = {}
        for name in self.order:
            if place(self.world, name)[0] < order and place(self.world, name)[1] <= step:
                last[place(self.world, name)[0]] = name
        return [last[o] for o in sorted(last)]

    def earlier(self, target: str) -> list[str]:
        order, step = place(self.world, target)
        return [n for n in self.order if place(self.world, n)[0] == order and place(self.world, n)[1] < step]

    def targets(self) -> list[str]:
        """The default, and some others."""
        return [self.world.largest, *[n for n in self.order[1::2] if n != self.world.largest][:2]]

    def score(self, name: str, i: int) -> int:
        matches, prefix = self.world.scores[name][i]
        return matches if matches is not None else prefix  # type: ignore[return-value]

    def own(self, model: str | None = None) -> list[str]:
        """The evaluated checkpoints of the largest model, or of one."""
        model = model or self.world.checkpoints[self.world.largest].model.name
        return [n for n in self.order if self.world.checkpoints[n].model.name == model]
