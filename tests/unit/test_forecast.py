"""Forecasts of single sequences: figures and rows against plain loops, known chances, no leak, compute."""

from __future__ import annotations

import itertools
import json
import math
import random
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from forecast_stores import MODELS, Known, add_features, known_world
from random_stores import World, random_world

import memoserve
from memoserve.catalog import Catalog, StoredCheckpoint
from memoserve.cli import main
from memoserve.errors import BadInput
from memoserve.forecast import (
    BASES,
    Role,
    SequenceForecast,
    make_forecast,
    plans,
    sentences,
    table,
    write_forecast,
)
from memoserve.forecast.base_rate import forecast_base_rate
from memoserve.forecast.judge import (
    Method,
    average_precision,
    calibration_slope,
    judge,
    reliability,
    threshold_for,
)
from memoserve.forecast.model import Taught, fit
from memoserve.forecast.roles import Plan, choose, cost
from memoserve.forecast.rules import best_line
from memoserve.forecast.table import Rows, Table, folds
from memoserve.recommend.backtest_data import read_runs
from memoserve.recommend.rules import Share
from memoserve.recommend.target import find_target

TARGET = "xl@6"


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Known:
    return known_world(tmp_path_factory.mktemp("known"), 5)


@pytest.fixture(scope="module")
def made(known: Known) -> SequenceForecast:
    with Catalog.open(known.path) as catalog:
        add_features(catalog, known)
        return make_forecast(catalog, target=TARGET)


def checkpoint(model: str, order: int, parameters: int, *, seen: int = 0) -> StoredCheckpoint:
    """A model's step 1, of which only size and what it has seen matter."""
    return StoredCheckpoint(
        suite="x", model=model, step=1, order=order, parameters=parameters,
        parameters_without_embeddings=parameters, training_flops=1.0, sequences_seen=seen, trained=seen,
        evaluated=seen, same_weights_as=None,
    )  # fmt: skip


def interval(share: Share) -> tuple[float, float, float]:
    """(value, low, high) of a share that is known."""
    assert share.value is not None
    assert share.low is not None
    assert share.high is not None
    return share.value, share.low, share.high


def width(share: Share) -> float:
    """Of the interval of a share that is known."""
    _, low, high = interval(share)
    return high - low


def contains(share: Share, truth: float) -> bool:
    """Whether the interval of a share that is known has a number in it."""
    _, low, high = interval(share)
    return low <= truth <= high


def probabilities(known: Known, folder: Path, **options: object) -> dict[str, dict[int, float]]:
    """What is written of each sequence, by basis."""
    found: dict[str, dict[int, float]] = {}
    with Catalog.open(known.path) as catalog:
        add_features(catalog, known)
        forecast = make_forecast(catalog, target=TARGET, **options)  # type: ignore[arg-type]
        for one in forecast.bases:
            write_forecast(catalog, forecast, one, folder / "forecast.parquet")
            written = pq.read_table(folder / "forecast.parquet").to_pydict()
            found[one.basis] = dict(zip(written["sequence_id"], written["probability"], strict=True))
    return found


# Metrics, against loops that share nothing with them


def examples() -> list[tuple[list[float], list[bool], list[float], list[int]]]:
    """Probabilities with ties, labels, weights, clusters."""
    found = []
    for seed in range(25):
        rng = random.Random(seed)
        n = rng.randint(2, 40)
        p = [rng.choice([0.0, 0.1, 0.25, 0.5, 0.9, rng.random()]) for _ in range(n)]
        y = [rng.random() < q for q in p]
        y[0], y[1] = True, False
        w = [rng.choice([1.0, 1.0, 2.5]) for _ in range(n)]
        found.append((p, y, w, [rng.randrange(max(1, n // 2)) for _ in range(n)]))
    return found


def plain_average_precision(p: list[float], y: list[bool], w: list[float]) -> float:
    total, before = sum(b for a, b in zip(y, w, strict=True) if a), 0.0
    found = 0.0
    for value in sorted(set(p), reverse=True):
        inside = [i for i in range(len(p)) if p[i] >= value]
        hits = sum(w[i] for i in inside if y[i])
        found += (hits - before) / total * hits / sum(w[i] for i in inside)
        before = hits
    return found


@pytest.mark.parametrize("example", examples())
def test_figures_are_what_loops_count(
    example: tuple[list[float], list[bool], list[float], list[int]],
) -> None:
    p, y, w, cluster = example
    score, label, weight = np.array(p), np.array(y), np.array(w)
    flagged = score >= 0.4
    judged, _ = judge({"one": Method(flagged, score, score)}, label, weight, np.array(cluster), replicates=20)
    one = judged["one"]
    assert one.average_precision.value == pytest.approx(plain_average_precision(p, y, w))
    assert average_precision(score, label, weight) == pytest.approx(plain_average_precision(p, y, w))
    brier = sum(b * (q - a) ** 2 for q, a, b in zip(p, y, w, strict=True)) / sum(w)
    assert one.brier.value == pytest.approx(brier)
    picked = [i for i in range(len(p)) if p[i] >= 0.4]
    hits = sum(w[i] for i in picked if y[i])
    assert one.hits == pytest.approx(hits)
    if picked:
        assert one.precision.value == pytest.approx(hits / sum(w[i] for i in picked))
    else:
        assert one.precision.value is None
    assert one.recall.value == pytest.approx(hits / sum(b for a, b in zip(y, w, strict=True) if a))
    assert one.expected == pytest.approx(sum(q * b for q, b in zip(p, w, strict=True)))
    gaps: dict[int, float] = {}
    counted = [i for i in range(len(p)) if p[i] >= 0.05]
    for i in counted:
        index = min(int(p[i] * 10), 9)
        gaps[index] = gaps.get(index, 0.0) + w[i] * (y[i] - p[i])
    error = sum(map(abs, gaps.values())) / sum(w[i] for i in counted)
    assert one.calibration_error == pytest.approx(error)


@pytest.mark.parametrize("promised", [0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("example", examples())
def test_the_threshold_is_the_lowest_that_keeps_its_promise(
    example: tuple[list[float], list[bool], list[float], list[int]], promised: float
) -> None:
    p, _, w, _ = example
    keeping = []
    for value in set(p):
        inside = [i for i in range(len(p)) if p[i] >= value]
        if sum(p[i] * w[i] for i in inside) / sum(w[i] for i in inside) >= promised - 1e-12:
            keeping.append(value)
    assert threshold_for(np.array(p), np.array(w), promised) == (min(keeping) if keeping else None)


def test_the_slope_is_that_of_maximum_likelihood() -> None:
    from scipy.optimize import minimize

    rng = np.random.default_rng(3)
    p = rng.random(400)
    y = rng.random(400) < p**2
    w = rng.choice([1.0, 3.0], 400)
    x = np.log(p / (1 - p))

    def loss(beta: np.ndarray) -> float:
        z = beta[0] + beta[1] * x
        return float(np.sum(w * (np.logaddexp(0, z) - y * z)))

    assert calibration_slope(p, y, w) == pytest.approx(minimize(loss, [0.0, 1.0]).x[1], abs=1e-4)


def test_a_slope_that_has_no_maximum_is_unknown() -> None:
    assert math.isnan(calibration_slope(np.array([0.1, 0.9]), np.array([True, True]), np.ones(2)))
    judged, _ = judge(
        {"": Method(np.ones(2, bool), np.array([0.1, 0.9]), np.array([0.1, 0.9]))},
        np.array([False, True]), np.ones(2), np.arange(2),
    )  # fmt: skip
    assert judged[""].calibration_slope.value is None


def test_rows_of_one_cluster_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(60)
    y = rng.random(60) < p
    once, _ = judge({"": Method(p > 0.5, p, p)}, y, np.ones(60), np.arange(60))
    twice = np.concatenate([p, p])
    again, _ = judge(
        {"": Method(twice > 0.5, twice, twice)},
        np.concatenate([y, y]),
        np.full(120, 0.5),
        np.tile(np.arange(60), 2),
    )
    for name in ("precision", "recall", "average_precision", "brier", "calibration_slope"):
        one, other = getattr(once[""], name), getattr(again[""], name)
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))
    apart, _ = judge(
        {"": Method(twice > 0.5, twice, twice)}, np.concatenate([y, y]), np.full(120, 0.5), np.arange(120)
    )
    assert width(apart[""].recall) < width(once[""].recall)


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(300)
    y = rng.random(300) < p
    methods = {"a": Method(p > 0.5, p, p), "same": Method(p > 0.5, p, p), "b": Method(p > 0.8, p, p / 2)}
    judged, differences = judge(methods, y, np.ones(300), np.arange(300))
    same = differences["a", "same"]
    assert (same.recall.value, same.recall.low, same.recall.high) == (0, 0, 0)
    assert (same.brier_skill.value, same.brier_skill.low, same.brier_skill.high) == (0, 0, 0)
    gap = differences["a", "b"]
    recall = {one: interval(judged[one].recall)[0] for one in ("a", "b")}
    brier = {one: interval(judged[one].brier)[0] for one in ("a", "b")}
    assert gap.recall.value == pytest.approx(recall["a"] - recall["b"])
    assert gap.brier_skill.value == pytest.approx(1 - brier["a"] / brier["b"])
    assert width(gap.recall) < math.hypot(*(width(judged[one].recall) for one in ("a", "b")))


def test_intervals_contain_the_truth_about_as_often_as_they_say() -> None:
    inside = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        cluster = np.repeat(np.arange(80), 3)
        p = np.repeat(rng.random(80), 3)
        y = np.repeat(rng.random(80) < p[::3], 3)
        flagged = p > 0.5
        judged, _ = judge({"": Method(flagged, p, p)}, y, np.ones(240), cluster, seed=seed, replicates=300)
        inside += contains(judged[""].precision, 0.75)
    assert 0.88 * 200 <= inside <= 0.99 * 200


def test_no_certainty_from_few() -> None:
    label = np.array([True, True, False, False])
    judged, _ = judge({"": Method(label, label.astype(float))}, label, np.ones(4), np.arange(4))
    value, low, _ = interval(judged[""].precision)
    assert value == 1
    assert low < 0.5


def test_reliability_counts_each_bin() -> None:
    p = np.array([0.05, 0.051, 0.55, 0.59, 1.0])
    y = np.array([False, True, True, True, False])
    bins = reliability(p, y, np.array([1.0, 1, 1, 3, 1]), np.arange(5))
    assert [(one.low, one.items, one.observed.value) for one in bins] == [
        (0.0, 2, 0.5),
        (0.5, 4, 1.0),
        (0.9, 1, 0.0),
    ]
    assert bins[1].promised == pytest.approx((0.55 + 3 * 0.59) / 4)


# Rows, against plain loops over random stores


@pytest.mark.parametrize(
    ("seed", "mode"), [(s, m) for s in range(8) for m in ("score", "extract", "imported")]
)
def test_rows_say_what_is_known(seed: int, mode: str, tmp_path: Path) -> None:
    world = random_world(tmp_path, seed, mode, loglik=True)
    with Catalog.open(world.path) as catalog:
        runs = read_runs(catalog, "toy")
        evaluated = [run for name, run in runs.items() if name in world.scores]
        read = Table(catalog, "toy")
        names = [column.name for column in read.columns]
        pairs = [(t, p) for t, p in itertools.product(evaluated, evaluated) if p.order < t.order]
        for target, predictor in random.Random(seed).sample(pairs, min(3, len(pairs))):
            role, names_of = Role(target, predictor), (target.name, predictor.name)
            rows = read.labelled(role, cap=1000)
            check_rows(world, rows, names, *names_of, labelled=True)
            whole = next(iter(read.unlabelled(role)), rows.take(np.zeros(0, int)))
            check_rows(world, whole, names, *names_of, labelled=False)


def check_rows(
    world: World, rows: Rows, names: list[str], target: str, predictor: str, *, labelled: bool
) -> None:
    of_target = world.checkpoints[target]
    seen = min(of_target.sequences_seen, world.trained)
    window = {i: world.windows.get(i, ("single", i)) for i in range(world.trained)}
    groups: dict[object, list[int]] = {}
    for i in sorted(world.windows or range(world.trained)):
        if i < seen:
            groups.setdefault(window[i], []).append(i)
    of_predictor = {
        i: world.scores[predictor][i]
        for i in world.scores[predictor]
        if i < min(world.seen(predictor), world.trained)
    }
    if labelled:
        asked = [i for i in sorted(world.scores[target]) if i < seen]
        wanted = list({window[i]: i for i in reversed(asked)}.values())
    else:
        wanted = [i for i in range(seen) if i in world.windows or i in of_predictor]
    assert sorted(rows.sequence_id.tolist()) == sorted(wanted)
    for at, i in enumerate(rows.sequence_id.tolist()):
        mine = groups.get(window[i], [i])
        if labelled:
            assert rows.memorized is not None
            assert rows.memorized[at] == (i in world.memorized(target))
        values = dict(zip(names, rows.values[at].tolist(), strict=True))
        assert values["occurrences"] == len(mine) == rows.sequences[at]
        batch = max(of_target.sequences_seen // max(of_target.step, 1), 1)
        assert values["steps_since_last"] == (seen - 1 - max(mine)) // batch
        known = [j for j in mine if j in of_predictor]
        if not known:
            assert math.isnan(values["matched_prefix"])
            assert math.isnan(values["matches"])
            continue
        matches, prefix = of_predictor[min(known)]
        for name, value in (("matched_prefix", prefix), ("matches", matches)):
            assert values[name] == value or (value is None and math.isnan(values[name]))
        assert values["continuation_ll"] == pytest.approx(world.log_likelihoods[predictor][min(known)])


def test_columns_are_the_numbers_of_features_where_the_suite_has_any(known: Known) -> None:
    signals = ["matched_prefix", "matches", "continuation_ll"]
    signals += [f"earlier_{name}" for name in signals]
    with Catalog.open(known.path) as catalog:
        # The view is there, without a row.
        assert catalog.rows("SELECT count(*) FROM features") == [(0,)]
        names = [column.name for column in Table(catalog, "toy").columns]
        assert names == ["occurrences", "steps_since_last", *signals]
        add_features(catalog, known)
        names = [column.name for column in Table(catalog, "toy").columns]
        assert names == ["occurrences", "steps_since_last", "length", "noise", *signals]


def test_windows_beyond_the_cap_are_a_weighted_sample(known: Known) -> None:
    with Catalog.open(known.path) as catalog:
        runs = read_runs(catalog, "toy")
        read = Table(catalog, "toy")
        whole = read.labelled(Role(runs["l@6"]), cap=10**6)
        some = read.labelled(Role(runs["l@6"]), cap=80)
        other = read.labelled(Role(runs["xl@6"]), cap=80)
    assert whole.memorized is not None
    assert some.memorized is not None
    assert len(some) < len(whole)
    assert set(some.window) <= set(whole.window)
    for hit in (True, False):
        total = np.count_nonzero(whole.memorized == hit)
        kept = np.count_nonzero(some.memorized == hit)
        assert abs(kept - 80) < 4 * math.sqrt(80)
        assert some.weight[some.memorized == hit].tolist() == pytest.approx([total / 80] * kept)
    # The same windows in both, as far as they are kept at all: no fold is mixed.
    assert len(set(some.window) & set(other.window)) > 0.4 * min(len(some), len(other))


def test_a_cluster_is_in_one_fold() -> None:
    cluster = np.random.default_rng(0).integers(0, 500, 5000)
    fold = folds(cluster, 5)
    for one in np.unique(cluster):
        assert len(set(fold[cluster == one])) == 1
    assert np.bincount(fold, minlength=5).min() > 500


# What is paid


def by_hand(plan: Plan) -> float:
    """6 x parameters x tokens of the latest checkpoint of each model that predicts or teaches."""
    latest: dict[str, tuple[int, int]] = {}
    used = [run for role in plan.teachers for run in (role.target, role.predictor, role.earlier) if run]
    used += [run for run in (plan.role.predictor, plan.role.earlier) if run]
    for run in used:
        latest[run.model] = max(latest.get(run.model, (0, 0)), (run.step, run.parameters))
    return sum(6.0 * parameters * step for step, parameters in latest.values())


def test_compute_is_that_of_every_run_used(known: Known) -> None:
    tokens = known.suite.batch_size * known.suite.sequence_length
    with Catalog.open(known.path) as catalog:
        target = find_target(catalog, None, TARGET)
        runs = list(read_runs(catalog, "toy").values())
    flops = {f"{m}@{s}": 6 * 10 ** (n + 1) * s * tokens for n, m in enumerate(MODELS) for s in (3, 6)}
    assert cost([r for r in runs if r.name in ("s@3", "s@6", "m@3")]) == flops["s@6"] + flops["m@3"]
    for basis in BASES:
        found = plans(target, runs, basis)
        assert {plan.training_flops for plan in found} == {by_hand(plan) * tokens for plan in found}
        used = {frozenset(run.model for run in plan.paid) for plan in found}
        pairs = {frozenset("sm"), frozenset("sl"), frozenset("ml")} if basis == "features" else set()
        assert used == pairs | {frozenset("sml")}
        for plan in found:
            assert all(run.order < target.order for run in plan.paid)
            assert all(
                role.predictor is None or role.predictor.order < role.target.order for role in plan.teachers
            )
    cheapest = plans(target, runs, "features")[0]
    assert cheapest.training_flops == flops["s@6"] + flops["m@6"]
    assert choose(plans(target, runs, "features"), cheapest.training_flops) == cheapest
    assert choose(plans(target, runs, "features"), cheapest.training_flops * 0.999) is None


def test_the_budget_bounds_what_is_used(known: Known) -> None:
    with Catalog.open(known.path) as catalog:
        forecast = make_forecast(catalog, target=TARGET, budget="5%")
    assert [one.basis for one in forecast.bases] == ["features"]
    assert {run.model for run in forecast.bases[0].plan.paid} == {"s", "m"}
    assert set(forecast.refused) == {"signals", "both"}
    assert "at least 11.1%" in forecast.refused["both"]
    assert "above the budget of 5.0%" in forecast.refused["both"]


# What it says


def test_probabilities_are_as_calibrated_as_the_world_is(known: Known, made: SequenceForecast) -> None:
    one = made.of("features")
    assert one.judged is not None
    assert contains(one.judged.precision, 0.8)
    assert contains(one.judged.calibration_slope, 1)
    there = known.count > 0
    assert one.base_rate.low <= known.chance[TARGET][there].mean() <= one.base_rate.high
    with Catalog.open(known.path) as catalog:
        add_features(catalog, known)
        read = Table(catalog, "toy", made.columns)
        rows = next(iter(read.unlabelled(one.plan.role)))
    said = one.fitted.model.probability(rows, one.plan.role)
    true = known.chance[TARGET][known.window[rows.sequence_id]]
    # The world is logistic in what is known; occurrences are the counts that it was made from.
    assert np.abs(said - true).mean() < 0.04
    assert np.corrcoef(said, true)[0, 1] > 0.98


@pytest.mark.thorough
def test_signals_and_features_beat_either_where_both_say_something(tmp_path: Path) -> None:
    known = known_world(tmp_path, 4, hidden=1.5)
    with Catalog.open(known.path) as catalog:
        add_features(catalog, known)
        made = make_forecast(catalog, target=TARGET)
    quality = {one.basis: interval(one.judged.average_precision)[0] for one in made.bases if one.judged}
    assert quality["both"] > quality["features"] > 0.3
    assert quality["both"] > quality["signals"] > 0.3
    skill = made.differences["both", "best free feature"].brier_skill
    assert interval(skill)[1] > 0


@pytest.mark.thorough
@pytest.mark.parametrize(("seed", "learner"), [(0, "logistic"), (1, "logistic"), (2, "boosting")])
def test_no_label_of_the_target_changes_a_probability(seed: int, learner: str, tmp_path: Path) -> None:
    size = 400
    worlds = {
        "as it is": known_world(tmp_path / "a", seed, windows=size),
        "turned round": known_world(tmp_path / "b", seed, windows=size, flip=lambda c: c == TARGET),
        "the whole model": known_world(
            tmp_path / "c", seed, windows=size, flip=lambda c: c.startswith("xl@")
        ),
        "never evaluated": known_world(tmp_path / "d", seed, windows=size, evaluated=lambda c: c[:2] != "xl"),
        # What does teach, changes them.
        "another": known_world(tmp_path / "e", seed, windows=size, flip=lambda c: c == "l@6"),
    }
    found = {name: probabilities(world, tmp_path, learner=learner) for name, world in worlds.items()}
    assert set(found["as it is"]) == set(BASES)
    assert {len(said) for said in found["as it is"].values()} == {len(worlds["as it is"].window)}
    different = found.pop("another")
    for name, said in found.items():
        assert said == found["as it is"], name
    assert different["both"] != found["as it is"]["both"]


def test_equal_windows_have_equal_probabilities(known: Known, tmp_path: Path) -> None:
    for window, said in itertools.groupby(
        sorted((known.window[i], p) for i, p in probabilities(known, tmp_path)["both"].items()),
        lambda pair: pair[0],
    ):
        assert len({p for _, p in said}) == 1, window


def test_held_out_probabilities_come_from_what_has_not_seen_the_window(known: Known) -> None:
    with Catalog.open(known.path) as catalog:
        runs = read_runs(catalog, "toy")
        read = Table(catalog, "toy")
        taught = [Taught(Role(runs[n]), read.labelled(Role(runs[n]), cap=10**6)) for n in ("s@6", "m@6")]
        fitted = fit(taught, read.columns, read.of("features"))
        # Turning round the labels of one fold leaves what is said of that fold, before calibration.
        fold = [folds(one.rows.cluster, 5) == 2 for one in taught]
        turned = [
            Taught(one.role, Rows(**{**vars(one.rows), "memorized": one.rows.memorized ^ mine}))
            for one, mine in zip(taught, fold, strict=True)
        ]
        again = fit(turned, read.columns, read.of("features"))
    for one, mine in zip(taught, fold, strict=True):
        rows = one.rows.take(mine)
        same = fitted.parts[2].logit(rows, one.role), again.parts[2].logit(rows, one.role)
        assert same[0].tolist() == same[1].tolist()
    assert fitted.model.weights.tolist() != again.model.weights.tolist()


def test_the_base_rate_continues_a_line(known: Known) -> None:
    def taught(model: str, order: int, share: float) -> Taught:
        n = 10_000
        label = np.arange(n) < share * n
        ids = np.arange(n)
        rows = Rows(ids, ids, ids, np.ones(n, np.int64), np.zeros((n, 1), np.float32), np.ones(n), label)
        return Taught(Role(checkpoint(model, order, 10**order, seen=n)), rows)

    target = checkpoint("t", 4, 10**4)
    rate = forecast_base_rate(
        target, [taught("a", 1, 0.5), taught("b", 2, 0.01), taught("c", 3, 0.04)], "windows"
    )
    assert rate is not None
    low, high = 0.01 ** (2 / 3), 0.04 ** (2 / 3)
    assert rate.share == pytest.approx((2 * high - low) ** 1.5)
    assert rate.low < rate.share < rate.high
    assert rate.extrapolated == 10
    falling = forecast_base_rate(target, [taught("b", 2, 0.04), taught("c", 3, 0.01)], "windows")
    assert falling is not None
    assert falling.share == pytest.approx(0.01)
    assert forecast_base_rate(target, [taught("b", 2, 0.04)], "windows") is None


# Parameters of Pythia, and the paper's precision and recall of predicting 12B.
PAPER = {
    70_426_624: (0.956, 0.197), 162_322_944: (0.948, 0.289), 405_334_016: (0.940, 0.401),
    1_011_781_632: (0.931, 0.512), 1_414_647_808: (0.926, 0.554), 2_775_208_960: (0.909, 0.658),
    6_857_302_016: (0.884, 0.795),
}  # fmt: skip


@pytest.mark.parametrize("pair", list(itertools.pairwise(PAPER)), ids=str)
def test_the_law_continues_the_papers_table_to_12b(pair: tuple[int, int]) -> None:
    """A model memorizes recall / precision of what 12B does, and that 1.62% of the data."""
    whole, n = 0.0162, 1_000_000
    taught = []
    for order, parameters in enumerate(pair):
        precision, recall = PAPER[parameters]
        ids, label = np.arange(n), np.arange(n) < round(whole * recall / precision * n)
        rows = Rows(ids, ids, ids, np.ones(n, np.int64), np.zeros((n, 1), np.float32), np.ones(n), label)
        taught.append(Taught(Role(checkpoint(f"{order}", order, parameters, seen=n)), rows))
    rate = forecast_base_rate(checkpoint("12b", 9, 11_846_072_320), taught, "windows")
    assert rate is not None
    assert rate.share == pytest.approx(whole, rel=0.08)


def test_a_line_is_chosen_on_the_nearest_role(known: Known) -> None:
    with Catalog.open(known.path) as catalog:
        add_features(catalog, known)
        runs = read_runs(catalog, "toy")
        read = Table(catalog, "toy")
        roles = [Role(runs["m@6"], runs["s@6"]), Role(runs["l@6"], runs["m@6"])]
        taught = [Taught(role, read.labelled(role, cap=10**6)) for role in roles]
    indices = read.of("both")
    line = best_line("line", taught, read.columns, indices, 0.5, "windows")
    rows = taught[-1].rows
    assert line is not None
    assert rows.memorized is not None
    best = 0.0
    for index in indices:
        for sign in (1, -1):
            values = sign * rows.values[:, index]
            for tau in np.unique(values[~np.isnan(values)]):
                flagged = values >= tau
                hits = np.count_nonzero(flagged & rows.memorized)
                if hits >= 0.5 * np.count_nonzero(flagged):
                    best = max(best, hits / np.count_nonzero(rows.memorized))
    assert line.recall == pytest.approx(best)
    method = line.method(rows, roles[-1])
    assert np.count_nonzero(method.flagged & rows.memorized) / np.count_nonzero(
        rows.memorized
    ) == pytest.approx(best)


# Another store's runs


def test_fitting_on_another_store_costs_only_what_predicts(tmp_path: Path) -> None:
    paid = known_world(tmp_path / "paid", 1, name="paid")
    new = known_world(tmp_path / "new", 2, evaluated=lambda c: c[:2] in ("s@", "m@"))
    with Catalog.open(new.path) as catalog, Catalog.open(paid.path) as other:
        forecast = make_forecast(catalog, target=TARGET, budget="2%", fit_on=other)
        target = forecast.target
    by_basis = {one.basis: one for one in forecast.bases}
    assert by_basis["features"].plan.training_flops == 0
    assert by_basis["both"].plan.training_flops == target.training_flops / 100
    assert [run.model for run in by_basis["both"].plan.predictors] == ["m", "m"]
    assert forecast.fit_on == "paid"
    assert any("suite paid in another store" in sentence for sentence in sentences(forecast))
    assert {role.target.suite for role in by_basis["both"].plan.teachers} == {"paid"}


def test_the_suite_of_the_target_teaches_only_as_smaller_roles(known: Known) -> None:
    with (
        Catalog.open(known.path) as catalog,
        Catalog.open(known.path) as other,
        pytest.raises(BadInput, match="its labels would teach"),
    ):
        make_forecast(catalog, target=TARGET, fit_on=other)


# Refusals, in words


def test_too_few_roles_are_refused(tmp_path: Path) -> None:
    few = known_world(tmp_path, 1, windows=200, evaluated=lambda c: c[:2] in ("s@", "xl"))
    with Catalog.open(few.path) as catalog, pytest.raises(BadInput) as refused:
        make_forecast(catalog, target=TARGET)
    assert "needs 2 evaluated models that are smaller than xl" in str(refused.value)
    assert "evaluated are s@6" in str(refused.value)
    two = known_world(tmp_path / "two", 1, evaluated=lambda c: c[:2] in ("s@", "m@"))
    with Catalog.open(two.path) as catalog:
        forecast = make_forecast(catalog, target=TARGET)
    assert [one.basis for one in forecast.bases] == ["features"]
    assert "needs 3 evaluated models" in forecast.refused["both"]
    assert all(one.judged is None for one in forecast.bases)
    with pytest.raises(BadInput, match="needs 3"):
        forecast.of("both")


def test_nothing_memorized_is_refused(tmp_path: Path) -> None:
    nothing = known_world(tmp_path, 1, windows=200, none=True)
    with (
        Catalog.open(nothing.path) as catalog,
        pytest.raises(BadInput, match="nothing to learn from") as refused,
    ):
        make_forecast(catalog, target=TARGET)
    assert "memorized none" in str(refused.value)


def test_without_scikit_learn_it_says_what_to_install(known: Known, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with Catalog.open(known.path) as catalog, pytest.raises(BadInput, match=r"memoserve\[forecast\]"):
        make_forecast(catalog, target=TARGET)


@pytest.mark.parametrize("promised", [0.0, 1.0, -1.0, 2.0, math.nan])
def test_a_precision_is_a_share(known: Known, promised: float) -> None:
    with Catalog.open(known.path) as catalog, pytest.raises(BadInput, match="above 0 and below 1"):
        make_forecast(catalog, target=TARGET, promised=promised)


@pytest.mark.parametrize("seed", range(15))
def test_random_stores_get_a_forecast_or_a_reason(seed: int, tmp_path: Path) -> None:
    mode = ("score", "extract", "imported")[seed % 3]
    world = random_world(tmp_path, 100 + seed, mode, loglik=seed % 2 == 0)
    with Catalog.open(world.path) as catalog:
        try:
            forecast = make_forecast(catalog, unit="sequences" if seed % 5 == 0 else "windows")
        except BadInput:
            return
        for part in ("forecasts", "differences", "reliability", "weights"):
            columns, rows = table(forecast, part)
            assert all(len(row) == len(columns) for row in rows)
        for one in forecast.bases:
            written = write_forecast(catalog, forecast, one, tmp_path / "f.parquet")
            assert written == pq.read_metadata(tmp_path / "f.parquet").num_rows
            said = pq.read_table(tmp_path / "f.parquet")["probability"].to_numpy()
            assert np.isfinite(said).all()
            assert (said >= 0).all()
            assert (said <= 1).all()


# The file, Python and the command line


def test_from_python(known: Known, tmp_path: Path) -> None:
    file = tmp_path / "f.parquet"
    with memoserve.open(known.path) as store:
        forecast = store.forecast(TARGET, "50%", output=file, basis="features")
        with pytest.raises(BadInput, match="budget"):
            store.forecast(TARGET, "much")
    assert [one.basis for one in forecast.bases] == list(BASES)
    assert pq.read_metadata(file).num_rows == len(known.window)


def test_the_file_says_why(known: Known, made: SequenceForecast, tmp_path: Path) -> None:
    file = tmp_path / "forecast.parquet"
    one = made.of(None)
    assert one.basis == "both"
    with Catalog.open(known.path) as catalog:
        add_features(catalog, known)
        write_forecast(catalog, made, one, file)
        rows = next(iter(Table(catalog, "toy", made.columns).unlabelled(one.plan.role)))
    written = pq.read_table(file)
    assert written["sequence_id"].to_pylist() == list(range(len(known.window)))
    given = one.fitted.model.contributions_of(one.fitted.model.inputs.standardized(rows, one.plan.role))
    names = one.fitted.model.inputs.names
    for i in (0, 17, 400):
        ranked = sorted(
            ((abs(v), name, v) for name, v in zip(names, given[i].tolist(), strict=True)
             if name not in ("target_size", "compute_gap")), reverse=True,
        )  # fmt: skip
        for number, (_, name, value) in enumerate(ranked[:3], start=1):
            assert written[f"reason_{number}"][i].as_py() == name
            assert written[f"contribution_{number}"][i].as_py() == pytest.approx(value, abs=1e-5)
    # All contributions and the intercept are the logit.
    logit = given.sum(axis=1) + one.fitted.model.intercept
    assert logit == pytest.approx(one.fitted.model.logit(rows, one.plan.role), abs=1e-3)
    about = json.loads(pq.read_schema(file).metadata[b"memoserve"])
    assert about["target"] == TARGET
    assert about["training_flops"] == one.plan.training_flops
    assert about["threshold"] == one.threshold
    assert about["learned_from"] == ["s@6 -> m@6", "s@6 -> l@6", "m@6 -> l@6"]


@pytest.mark.thorough
def test_the_command_line(known: Known, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                          monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["memoserve", "forecast", str(known.path), *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    file = tmp_path / "f.parquet"
    code, out, _ = call("--target", TARGET, "--budget", "50%", "-o", str(file))
    assert code == 0
    assert "is expected to memorize" in out
    assert f"{file}: the probabilities of {len(known.window):,} sequences, from both." in out
    code, out, _ = call("--target", TARGET, "-f", "json", "--part", "reliability")
    assert code == 0
    assert {row["basis"] for row in json.loads(out)} == set(BASES)
    for arguments in (
        ("--target", TARGET, "--budget", "0.1%"), ("--target", "s@6"), ("--target", "nobody@1"),
        ("--target", TARGET, "-o", str(tmp_path / "f.csv")), ("--budget", "much"),
        ("--target", TARGET, "--precision", "2"),
    ):  # fmt: skip
        code, out, error = call(*arguments)
        assert code == 3, arguments
        assert error.startswith("error: ")
        assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == [file]
