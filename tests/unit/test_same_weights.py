"""Checkpoints that turned out to have another's weights, in no answer unless they are named."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from random_stores import World, random_world

from memoserve.catalog import Catalog
from memoserve.queries import list_queries
from memoserve.report.coverage import store_status
from memoserve.store import Store

pytestmark = pytest.mark.thorough

NAMED = {"checkpoint", "target", "predictor", "predictors", "other", "first", "second", "earlier", "later"}
NAMED |= {"first_memorized", "best_checkpoint"}
LISTED = {"counts", "checks"}
"""Queries that tell of every checkpoint: counts marks them."""


@dataclass
class Twins:
    """A store in which `names` turned out to have another's weights; the same without their scores."""

    world: World
    names: set[str]
    noted: Catalog
    without: Catalog


@pytest.fixture(scope="module", params=[0, 5])
def twins(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Twins]:
    """The last checkpoint of all, and the first that had seen something."""
    world = random_world(tmp_path_factory.mktemp("twins"), request.param, "score", loglik=True)
    own = [name for name in world.scores if world.checkpoints[name].step]
    names = {world.largest, own[0]}
    note(world, world.path, names, own[-2])
    without = world.path.parent / "without"
    shutil.copytree(world.path, without)
    for name in names:
        one = world.checkpoints[name]
        shutil.rmtree(without / "scores" / "suite=toy" / f"model={one.model.name}" / f"step={one.step}")
    with Catalog.open(world.path) as noted, Catalog.open(without) as other:
        yield Twins(world, names, noted, other)


def note(world: World, path: Path, names: set[str], holder: str) -> None:
    keys = [(world.checkpoints[name].model.name, world.checkpoints[name].step) for name in names]
    Store.open(path).note_weights("toy", dict.fromkeys(keys, ("sha", holder)))


def answer(catalog: Catalog, query: str, **values: object) -> list[dict[str, Any]]:
    result = catalog.query(query, **values)
    names = [column[0] for column in result.description]
    return [dict(zip(names, row, strict=True)) for row in result.fetchall()]


@pytest.mark.parametrize("query", [one.name for one in list_queries() if one.name not in LISTED])
def test_an_answer_is_as_if_they_had_no_scores(twins: Twins, query: str) -> None:
    """They are in no row; nor is a set that all have in common, a first or a last one theirs."""
    rows = answer(twins.noted, query)
    for row in rows:
        for column in NAMED & set(row):
            if isinstance(row[column], str):
                assert not twins.names & set(row[column].split(" + ")), (column, row)
    assert rows == answer(twins.without, query)


def test_counts_and_status_mark_them(twins: Twins) -> None:
    world, names = twins.world, twins.names
    rows = answer(twins.noted, "counts")
    assert {row["checkpoint"] for row in rows if row["same_weights_as"] is not None} == names
    assert {row["checkpoint"] for row in rows} == set(world.scores)
    (suite,) = store_status(str(world.path))["suites"]
    marked = {one["checkpoint"] for one in suite["checkpoints"] if one.get("same_weights_as")}
    assert marked == names


def test_named_ones_are_answered(twins: Twins) -> None:
    world, names = twins.world, twins.names
    for name in names:
        assert {row["checkpoint"] for row in answer(twins.noted, "distribution", checkpoints=[name])} == {
            name
        }
        assert {row["checkpoint"] for row in answer(twins.noted, "training", checkpoints=[name])} <= {name}
        assert {row["target"] for row in answer(twins.noted, "confusion", target=name)} <= {name}
        assert {row["checkpoint"] for row in answer(twins.noted, "position", checkpoint=name)} == {name}
    target = max(set(world.scores) - names, key=lambda one: world.checkpoints[one].training_flops)
    rows = answer(twins.noted, "confusion", target=target, predictors=sorted(names))
    assert {row["predictor"] for row in rows} == names


def test_emergent_by_hand(twins: Twins) -> None:
    """A brute-force count: memorized by the last own checkpoint, below 16 in every own smaller one."""
    world, names = twins.world, twins.names
    own = {name: one for name, one in world.checkpoints.items() if name not in names}
    target = max(own, key=lambda name: (own[name].model.order, own[name].step))
    others: dict[int, str] = {}
    for name, one in own.items():
        if one.model.order < own[target].model.order and one.step <= own[target].step:
            others[one.model.order] = max(name, others.get(one.model.order, name), key=lambda n: own[n].step)
    seen = {i for i in world.memorized(target) if i < world.seen(target)}
    first: dict[int, int] = {}
    for i in sorted(i for i in world.windows if i < world.trained):
        first.setdefault(world.windows[i], i)
    found = set()
    for window in {world.windows[i] for i in seen}:
        scores = [
            matches
            for name in others.values()
            for i, (matches, _) in world.scores[name].items()
            if matches is not None and world.windows[i] == window and i < min(world.seen(name), world.trained)
        ]
        if scores and max(scores) < 16:
            found.add(first[window])
    rows = answer(twins.noted, "emergent", rows=10_000)
    assert {row["sequence_id"] for row in rows} == found
