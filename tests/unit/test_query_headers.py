"""What the headers of the query files say, against what the files and the catalog's macros do."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from random_stores import World, random_world

from memoserve.catalog import Catalog
from memoserve.catalog.connection import SQL
from memoserve.queries import Parameter, Query, find_query, list_queries, typed_values

QUERIES = list_queries()
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Matches, prefixes and log-likelihoods of several models, each at several steps."""
    return random_world(tmp_path_factory.mktemp("headers"), 4, "score", loglik=True)


@pytest.fixture(scope="module")
def catalog(world: World) -> Iterator[Catalog]:
    with Catalog.open(world.path) as catalog:
        yield catalog


def macros() -> dict[str, str]:
    """The bodies of the catalog's macros by name."""
    text = "".join(file.read_text() for file in sorted(SQL.glob("*.sql")))
    text = re.sub(r"--.*", "", text)
    return {match[1]: match[2] for match in re.finditer(r"CREATE MACRO (\w+)\(([^;]*);", text)}


def variables_in(sql: str) -> set[str]:
    """The variables that SQL reads, itself or by a macro."""
    found, known = set(re.findall(r"getvariable\('(\w+)'\)", sql)), macros()
    for name in set(re.findall(r"(\w+)\(", re.sub(r"--.*", "", sql))) & set(known):
        found |= variables_in(known[name])
    return found


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)
class TestEachQuery:
    def test_its_columns_and_parameters_are_the_files(self, catalog: Catalog, query: Query) -> None:
        columns = [column[0] for column in catalog.query(query).description]
        documented = [column.name for column in query.columns]
        shown = [name for name in columns if not re.fullmatch(rf"({'|'.join(documented)})_(low|high)", name)]
        assert documented == shown
        assert {parameter.name for parameter in query.parameters} == variables_in(query.sql)

    def test_its_header_is_whole(self, query: Query) -> None:
        assert query.question.endswith("?")
        assert len(query.description) > 80
        lines = [line for line in query.sql.splitlines() if line.startswith(("-- parameter", "-- column"))]
        assert len(lines) == len(query.columns) + len(query.parameters)
        assert query.group != "Your own"

    def test_its_example_can_be_asked(self, query: Query) -> None:
        command, ask, name, *options = shlex.split(query.example)
        assert (command, ask, name) == ("memoserve", "query", query.name)
        pairs = dict(zip(options[::2], options[1::2], strict=True))
        pairs.pop("-o", None)
        typed_values(query, {option.removeprefix("--"): value for option, value in pairs.items()})

    def test_without_a_parameter_its_default_holds(
        self, world: World, catalog: Catalog, query: Query
    ) -> None:
        usual = catalog.query(query).fetchall()
        for parameter in query.parameters:
            default = default_of(parameter, query, world)
            if default is not None:
                # Floating-point sums in another plan may differ in their last digit; here none does.
                assert catalog.query(query, **{parameter.name: default}).fetchall() == usual, parameter


def default_of(parameter: Parameter, query: Query, world: World) -> object:
    """What a default's words mean in this store; None where it can't be said as a value."""
    target = world.largest
    order = {name: (one.model.order, one.step) for name, one in world.checkpoints.items()}
    models = sorted({name.split("@")[0] for name in order}, key=lambda model: order_of(model, world))

    def last(model: str, step: int = 10**9) -> list[str]:
        own = [name for name in order if name.startswith(f"{model}@") and order[name][1] <= step]
        return sorted(own, key=order.__getitem__)[-1:]

    smaller = [name for model in models[:-1] for name in last(model, order[target][1])]
    words = {
        "the first evaluated one": "toy",
        "every one": None,
        "none": None,
        "pythia if evaluated, else pythia-deduped": None,
        "the last evaluated step of 12b": None,
        "the last evaluated step of the largest evaluated model": target,
        "the largest evaluated one": models[-1],
        "every evaluated one": sorted(order, key=order.__getitem__),
        "every evaluated one of the model": [name for name in order if name.startswith(f"{models[-1]}@")],
        "the last evaluated step of every model": [name for model in models for name in last(model)],
        "every smaller model at its last evaluated step": smaller,
        "every smaller model at its last evaluated step not after the target's": smaller,
        "the largest smaller model at its last evaluated step not after the target's": smaller[-1],
        "the largest smaller model at its last evaluated step": smaller[-1],
        "the next smaller model at its last evaluated step": smaller[-2] if len(smaller) > 1 else None,
        "every earlier checkpoint of the target's model": [
            name for name in order if order[name][0] == order[target][0] and order[name][1] < order[target][1]
        ],
        "every evaluated one that costs less than the target": [
            name
            for name, one in world.checkpoints.items()
            if one.training_flops < world.checkpoints[target].training_flops
        ],
        "the first of these that the predictor has": "continuation_ll",
        "the last one": max(step for _, step in order.values()),
    }
    if parameter.default in words:
        return words[parameter.default] or None
    return parameter.default.partition(";")[0]


def order_of(model: str, world: World) -> int:
    return next(one.model.order for one in world.checkpoints.values() if one.model.name == model)


def test_no_line_of_sql_is_longer_than_a_line_of_python() -> None:
    files = [*(ROOT / "memoserve").rglob("*.sql"), *(query.path for query in QUERIES)]
    assert len(files) > 40
    long = [
        f"{file.name}:{number}"
        for file in files
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if len(line) > 110
    ]
    assert long == []


def test_what_is_asked_about_is_said_once() -> None:
    """The suite and the intervals, which each query had in words of its own."""
    for query in QUERIES:
        if query.name not in ("checks", "predictors_vs_paper"):  # of every suite; of Pythia's
            assert "getvariable('suite')" not in query.sql, query.name
            assert "getvariable('target')" not in query.sql, query.name
        assert "nullif" not in "".join(re.findall(r"wilson_\w+\([^)]*", query.sql)), query.name


def test_a_file_of_ones_own(tmp_path: Path, catalog: Catalog) -> None:
    file = tmp_path / "mine.sql"
    file.write_text(
        "-- How many of each model?\n--\n-- parameter: least (whole number, 1): at least so\n--   many\n"
        "-- parameter: only (model, every one): which\n"
        "SELECT model, count(*) AS n FROM the_checkpoints(NULL)\n"
        "WHERE model = coalesce(getvariable('only')::VARCHAR, model)\n"
        "GROUP BY model HAVING n >= coalesce(getvariable('least')::BIGINT, 1) ORDER BY 1\n"
    )
    query = find_query(str(file))
    assert [(one.name, one.meaning) for one in query.parameters] == [
        ("least", "at least so many"),
        ("only", "which"),
    ]
    every = catalog.query(query).fetchall()
    assert every
    assert catalog.query(query, least=1).fetchall() == every
    assert catalog.query(query, only=every[0][0], least="1").fetchall() == every[:1]
