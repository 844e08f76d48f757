"""Tables on a terminal: whole names and numbers at any width, and what is left out is said."""

from __future__ import annotations

import re

import pytest
from random_stores import World, random_world

from memoserve.catalog import Catalog
from memoserve.checks import Check
from memoserve.queries import Answer, Query, list_queries
from memoserve.queries.numbers import cells_of, human
from memoserve.queries.output import fetch
from memoserve.queries.table import print_table
from memoserve.store import Store

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = random_world(tmp_path_factory.mktemp("tables"), 4, "score", loglik=True)
    checks = [
        Check("data", "tokens.npy", "passed", "every one of 1,000 windows is as the suite says", 1.0),
        Check("weights", "xl@11", "failed", "config.json says vocabulary 50304, the tensors 50432: " * 3),
    ]
    Store.open(world.path).write_checks("toy", checks)
    return world


def printed(answer: Answer, width: int, capsys: pytest.CaptureFixture[str], patch: pytest.MonkeyPatch) -> str:
    patch.setenv("COLUMNS", str(width))
    capsys.readouterr()
    print_table(answer, None)
    return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)


@pytest.mark.parametrize("width", [40, 80, 200])
@pytest.mark.parametrize("query", list_queries(), ids=lambda query: query.name)
def test_no_name_and_no_number_is_broken(
    world: World,
    query: Query,
    width: int,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Catalog.open(world.path) as catalog:
        answer = fetch(catalog.query(query))
    said = printed(answer, width, capsys, monkeypatch)
    if not answer.rows:
        assert said == "no rows\n"
        return
    if width >= 80:
        assert max(map(len, said.splitlines())) <= width, said
    missing = re.search(r"not shown here: (.*?) \(", " ".join(said.split()))
    left_out = set() if missing is None else set(re.split(r",\s+", missing[1]))
    words = set(said.split())
    for column, values in zip(answer.columns, zip(*cells_of(answer), strict=True), strict=True):
        plain = f"{column.replace('_', ' ').replace('parameters', 'params')}"
        ends = re.sub(r"_(low|high)$", "", column)
        if column in left_out or (ends != column and ends in answer.columns):
            continue
        if column in ("step", "training_flops") and len(answer.columns) > 8:
            continue  # as the checkpoint's name and the share of FLOPs say
        if f"{plain}: here the same as" in " ".join(said.split()):
            continue
        for value in values:
            assert set(value.split()) <= words, (column, value, said)


def test_whole_numbers_have_no_decimals(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Answer(("tau", "share", "n"), [(1.0, 1.0, 1_234_567), (32.0, 0.25, 2), (None, 0.0, 3)])
    assert cells_of(answer) == [["1", "1.000", "1,234,567"], ["32", "0.250", "2"], ["-", "0", "3"]]
    assert "32.0" not in printed(answer, 80, capsys, monkeypatch)
    assert human("share", 1.0) == "1.000"


def test_longest_names_stand_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a-model-with-a-very-long-name-of-over-eighty-characters-" * 2 + "@143000"
    answer = Answer(("checkpoint", "n", "share"), [(name, 5, 0.5)])
    said = printed(answer, 80, capsys, monkeypatch)
    assert name in said
    assert re.search(r"share +0.500", said)


def test_columns_that_do_not_fit_are_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = ("checkpoint", *(f"count_number_{i}" for i in range(7)))
    answer = Answer(columns, [("a@1", *range(10**9, 10**9 + 7)), ("b@1", *range(7))])
    said = " ".join(printed(answer, 80, capsys, monkeypatch).split())
    assert "1,000,000,000" in said
    assert "1,000,000,006" not in said
    assert re.search(r"not shown here: .*count_number_6 \(--format json has them\)", said)
    assert "count_number_6" not in printed(answer, 200, capsys, monkeypatch)
