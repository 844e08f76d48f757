"""Recommendations and the scaling law: counts against plain sets, choices, forecasts, the command line."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from brute_force import Read, ask, flops, same, units
from command_line import Cli
from random_stores import World, random_world, toy_suite

from memoserve.catalog import Catalog
from memoserve.cli import main
from memoserve.errors import BadInput
from memoserve.recommend import Advisor, Bounds, find_target, fit, hold_out, rehearse_largest
from memoserve.recommend.law import Observation
from memoserve.recommend.rules import Rule, choose, judge, read_rules
from memoserve.store import Store

STORES = [(33, "extract", True), (12, "score", True), (27, "imported", True)]
BLOCKS = 9


@pytest.fixture(scope="module", params=STORES, ids=lambda p: f"{p[1]}-{p[0]}")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    seed, mode, loglik = request.param
    return random_world(tmp_path_factory.mktemp("world"), seed, mode, loglik=loglik)


# Counting


def signal_of(read: Read, name: str, signal: str, i: int) -> float | None:
    matches, prefix = read.world.scores[name][i]
    if signal == "memorized":
        return 32 if i in read.memorized[name] else None
    if signal == "continuation_ll":
        chance = read.world.log_likelihoods.get(name, {}).get(i)
        return None if chance is None or chance < -32 else math.floor(2 * chance) / 2
    value = matches if signal == "matches" else prefix
    return value if value else None


def halves(read: Read, target: str, said: set[int], true: set[int]) -> dict[str, Any]:
    def block(key: int) -> int:
        return read.number(key) * BLOCKS // read.seen(target)

    found: dict[str, Any] = {}
    for half, odd in (("choosing", 0), ("judging", 1)):
        p, t = ({k for k in keys if block(k) % 2 == odd} for keys in (said, true))
        found |= {
            f"{half}_flagged": len(p),
            f"{half}_target_memorized": len(t),
            f"{half}_hits": len(p & t),
        }
    there = sorted({block(k) for k in said | true if block(k) % 2})
    for name, keys in (("flagged", said), ("target_memorized", true), ("hits", said & true)):
        found[f"block_{name}"] = [sum(block(k) == b for k in keys) for b in there]
    return found


def test_candidates(world: World) -> None:
    read = Read(world)
    for target in read.targets()[:2]:
        names = [n for n in read.order if flops(world, n) < flops(world, target)]
        expected: dict[tuple[Any, ...], dict[str, Any]] = {}
        for unit in units(world):
            truth = read.evaluated(target, unit)
            true = {k for k in truth if truth[k]}
            known = {n: read.evaluated(n, unit) for n in names}
            for name in names:
                corpus = {k for k in true if k in known[name] or k >= read.seen(name)}
                for signal in ("memorized", "matches", "matched_prefix", "continuation_ll"):
                    values: dict[int, float] = {}
                    for i in world.scores[name]:
                        value = signal_of(read, name, signal, i) if i < read.seen(name) else None
                        key = i if unit == "sequences" or i >= world.trained else read.number(i)
                        if value is not None and key in truth:
                            values[key] = max(value, values.get(key, value))
                    for tau in {32} if signal == "memorized" else set(values.values()):
                        said = {k for k, v in values.items() if v >= tau}
                        row = halves(read, target, said, corpus) | {"training_flops": flops(world, name)}
                        odd = {k for k in said if read.number(k) * BLOCKS // read.seen(target) % 2}
                        row["flagged_effective"] = read.trials(odd) or None
                        even = {k for k in corpus if read.number(k) * BLOCKS // read.seen(target) % 2 == 0}
                        row["choosing_target_memorized_effective"] = read.trials(even) or None
                        expected[unit, name, signal, None if signal == "memorized" else tau] = row
            for a, b in itertools.combinations(names, 2):
                lacking = {k for k in truth for n in (a, b) if k < read.seen(n) and k not in known[n]}
                domain = truth.keys() - lacking
                said = {k for k in domain if known[a].get(k) or known[b].get(k)}
                cost = [flops(world, n) for n in (a, b)]
                one = world.checkpoints[a].model == world.checkpoints[b].model
                expected[unit, f"{a} + {b}", "memorized", None] = halves(
                    read, target, said, true & domain
                ) | {"training_flops": max(cost) if one else sum(cost), "flagged_effective": None}
        found = {
            (row["unit"], row["predictors"], row["signal"], row["tau"]): row
            for row in ask(world, "recommend_candidates", target=target, blocks=str(BLOCKS))
        }
        unions = {k for k in expected if " + " in k[1]}
        # A pair of which nothing was memorized by anyone may be missing.
        assert expected.keys() - unions <= found.keys() <= expected.keys()
        for where, row in expected.items():
            if where in found:
                same(found[where], row)
            else:
                assert not row["choosing_flagged"] + row["judging_flagged"]


def test_flagged(world: World) -> None:
    """Every line and every pair, counted without any target."""
    read = Read(world)
    for names in (read.order, read.order[::2]):
        expected: dict[tuple[Any, ...], int] = {}
        for unit in units(world):
            for name in names:
                for signal in ("memorized", "matches", "matched_prefix", "continuation_ll"):
                    values: dict[int, float] = {}
                    for i in world.scores[name]:
                        value = signal_of(read, name, signal, i) if i < read.seen(name) else None
                        if value is not None:
                            key = i if unit == "sequences" else read.number(i)
                            values[key] = max(value, values.get(key, value))
                    for tau in {32} if signal == "memorized" else set(values.values()):
                        line = None if signal == "memorized" else tau
                        expected[unit, name, signal, line] = sum(v >= tau for v in values.values())
            for a, b in itertools.combinations(names, 2):
                said = {k for n in (a, b) for k, m in read.evaluated(n, unit).items() if m}
                expected[unit, f"{a} + {b}", "memorized", None] = len(said)
        asked = {} if names == read.order else {"checkpoints": ",".join(names)}
        rows = ask(world, "flagged", **asked)
        found = {(r["unit"], r["predictors"], r["signal"], r["tau"]): r["flagged"] for r in rows}
        assert len(found) == len(rows)
        assert found == expected


def test_scaling_counts(world: World) -> None:
    read = Read(world)
    found = ask(world, "scaling")
    last = {world.checkpoints[n].model.order: n for n in read.order}
    pairs = [
        (t, p)
        for t in last.values()
        for p in read.order
        if world.checkpoints[p].model.order <= world.checkpoints[t].model.order
        and flops(world, p) < flops(world, t)
    ]
    rows = {(r["unit"], r["target"], r["predictor"]): r for r in found}
    assert len(rows) == len(found) == len(pairs) * len(units(world))
    for unit, (target, name) in itertools.product(units(world), pairs):
        t, p = read.evaluated(target, unit), read.evaluated(name, unit)
        said = {k for k in p if p[k] and k in t}
        true = {k for k in t if t[k] and (k in p or k >= read.seen(name))}
        same(
            rows[unit, target, name],
            {
                "predictor_memorized": len(said),
                "target_memorized": len(true),
                "both_memorized": len(said & true),
                "target_effective": read.trials(true) or None,
                "predictor_effective": read.trials(said) or None,
                "compute_ratio": flops(world, name) / flops(world, target),
            },
        )


# Choosing


def synthetic_store(folder: Path, *, labels: int = 0, evaluate_last: bool = True) -> Path:
    """SYNTHETIC: each window is memorized once a checkpoint's strength passes its hardness, with some noise.

    `labels` draws the largest model's scores in odd blocks of the training order anew.
    """
    suite = toy_suite(
        folder, models=("xs", "s", "m", "l"), steps=(2, 4, 6, 8), batch=150, trained=1200, control=20
    )
    store = Store.create(folder / "store")
    store.claim(suite, {"suite": "toy"})
    rng = np.random.default_rng(1)
    ids = np.arange(1220)
    window = np.where(ids < 900, ids, ids % 900)
    hardness = rng.random(1220)[window]
    odd = window * 1000 // 1200 % 2 == 1
    store.write_sequences("toy", 0, 1220, ids, window)
    for checkpoint in suite.all_checkpoints():
        largest = checkpoint.model.name == "l"
        if largest and not evaluate_last:
            continue
        strength = 0.06 * (checkpoint.model.order + 1) * checkpoint.step / 8 + 0.08
        gap = 60 * (strength - hardness + rng.normal(0, 0.02, 1220)[window]) + 32
        if largest and labels:
            other = np.random.default_rng(labels).choice([0, 32], 1220)[window]
            gap = np.where(odd, other, gap)
        prefix = np.clip(gap, 0, 32).astype(np.uint8)
        seen = (ids < checkpoint.sequences_seen) | (ids >= 1200)
        score = SimpleNamespace(matched_prefix=prefix[seen], match_mask=None, continuation_ll=None)
        store.write_scores(checkpoint, 0, 1220, ids[seen], score, "weights")
    return folder / "store"


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic_store(tmp_path_factory.mktemp("synthetic"))


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with nothing of the largest model evaluated."""
    return synthetic_store(tmp_path_factory.mktemp("untrained"), evaluate_last=False)


def advisor(store: Path, bounds: Bounds, **options: Any) -> Advisor:
    with Catalog.open(store) as catalog:
        return Advisor(catalog, find_target(catalog, None, options.pop("target", None)), bounds, **options)


@pytest.fixture(scope="module")
def synthetic_rules(synthetic: Path) -> tuple[list[Rule], float]:
    """The rules for the largest model, and its compute."""
    with Catalog.open(synthetic) as catalog:
        target = find_target(catalog, None, None)
        return read_rules(catalog, "toy", "l@8", "sequences"), target.training_flops


@pytest.mark.parametrize("bounds", [Bounds(0.9), Bounds(0.5), Bounds(None, 60), Bounds(0.8, 40)])
def test_no_choice_breaks_the_budget_or_the_bounds(
    synthetic_rules: tuple[list[Rule], float], bounds: Bounds
) -> None:
    rules, whole = synthetic_rules
    checked = 0
    for share in (0.05, 0.2, 0.5, 1.0):
        best = choose(rules, share * whole, bounds)
        if best is None:
            continue
        checked += 1
        assert best.training_flops <= share * whole
        if bounds.min_precision is not None:
            assert best.choosing.hits >= bounds.min_precision * best.choosing.flagged
        if bounds.max_flagged is not None:
            assert best.choosing.flagged + best.judging.flagged <= bounds.max_flagged
        better = [
            r for r in rules
            if r.is_paper_rule and r.training_flops <= share * whole
            and (r.choosing.recall or 0) > (best.choosing.recall or 0)
        ]  # fmt: skip
        # Of the paper's rules none that was allowed would have found more.
        for rule in better:
            assert (rule.choosing.precision or 0) < (bounds.min_precision or 0) or (
                bounds.max_flagged is not None and rule.flagged > bounds.max_flagged
            )
        precision, recall = judge(best, 0)
        assert (precision.value, recall.value) == (best.judging.precision, best.judging.recall)
        for one in (precision, recall):
            if one.value is not None and one.low is not None and one.high is not None:
                assert 0 <= one.low <= one.value <= one.high <= 1
        assert judge(best, 0) == (precision, recall)
    assert checked >= 2


def test_the_judging_labels_choose_nothing(synthetic: Path, tmp_path: Path) -> None:
    found = {}
    for labels in (0, 5, 6):
        store = synthetic if labels == 0 else synthetic_store(tmp_path / str(labels), labels=labels)
        one = advisor(store, Bounds(0.8))
        # The target's own earlier checkpoints have other scores too: they are predictors, not labels.
        rules = [rule for rule in one._rules if "l@" not in rule.predictors]
        best = [choose(rules, share * one.target.training_flops, one.bounds) for share in (0.01, 0.2, 1.0)]
        found[labels] = [rule for rule in best if rule is not None]
        assert len(found[labels]) == 3
    assert any(rule.tau is not None for rule in found[0])
    for labels in (5, 6):
        assert [(r.predictors, r.tau) for r in found[labels]] == [(r.predictors, r.tau) for r in found[0]]
        assert [r.choosing for r in found[labels]] == [r.choosing for r in found[0]]
        assert all(a.judging.hits != b.judging.hits for a, b in zip(found[labels], found[0], strict=True))


# The law


def synthetic_observations(
    truth: tuple[float, ...], sizes: int, noise: float, seed: int
) -> list[Observation]:
    """SYNTHETIC: measured shares that follow a law with the coefficients `truth`, in the order of TERMS."""
    rng = np.random.default_rng(seed)
    found = []
    for t, p in itertools.product(range(sizes), range(sizes)):
        shift = rng.normal(0, noise)
        for step in (0.2, 0.4, 0.6, 0.8, 1.0):
            size = 3.0 ** (p - t)
            if p > t or size * step >= 1:
                continue
            terms = (1, math.log10(size * step), math.log10(3.0 ** (2 * (t - sizes + 1))), math.log10(size))
            share = 1 / (1 + math.exp(-(np.dot(truth, terms) + shift + rng.normal(0, noise / 2))))
            found.append(Observation(
                f"{t}@1", str(t), t, 1e20 * 9.0 ** (t - sizes + 1), f"{p}@{step}", str(p), size * step, size,
                share, 1e5, min(1.0, share + 0.1), 1e5,
            ))  # fmt: skip
    return found


def test_a_known_law_is_recovered() -> None:
    truth = (2.0, 3.0, 0.4, -0.5)
    inside = []
    for seed in range(12):
        law = fit(synthetic_observations(truth, 6, 0.1, seed), "recall_corpus")
        assert law.coefficients == pytest.approx(truth, abs=0.6)
        inside += [
            low <= true <= high for true, (low, high) in zip(truth, map(law.interval, range(4)), strict=True)
        ]
    assert np.mean(inside) > 0.8
    exact = fit(synthetic_observations(truth, 5, 0.0, 0), "recall_corpus")
    assert exact.coefficients == pytest.approx(truth, abs=1e-3)


def test_held_out_sizes_are_forecast_without_them() -> None:
    truth = (2.0, 3.0, 0.4, -0.5)
    rows = synthetic_observations(truth, 5, 0.0, 0)
    held = hold_out(rows, "recall_corpus")
    assert [h.target for h in held] == ["4@1", "3@1"]
    assert all(h.mean_absolute_error < 1e-3 and h.covered == 1 for h in held)
    assert held[0].fitted_to == ("0", "1", "2", "3")
    # A largest model that doesn't follow the law is what a law can't foresee: the error says so.
    odd = [
        o if o.target_order < 4 else Observation(**{**vars(o), "recall_corpus": (o.recall_corpus or 0) / 4})
        for o in rows
    ]
    assert hold_out(odd, "recall_corpus")[0].bias > 0.2


def test_no_forecast_without_support() -> None:
    rows = synthetic_observations((2.0, 3.0, 0.4, -0.5), 4, 0.05, 3)
    law = fit(rows, "recall_corpus")
    low, high = law.compute_range
    largest = law.largest_target_flops
    assert law.refusal(low / 9, 1, 9 * largest) is None
    assert "compute ratio" in (law.refusal(low / 11, 1, largest) or "")
    assert "size ratio" in (law.refusal(high, law.size_range[0] / 11, largest) or "")
    assert "FLOPs" in (law.refusal(high, 1, 11 * largest) or "")
    with pytest.raises(BadInput, match="2 sizes"):
        fit([o for o in rows if o.target_order < 2], "recall_corpus")


# Forecasts of thresholds and unions


@pytest.fixture(scope="module")
def rehearsed(synthetic: Path) -> Any:
    """The largest model forecast from the smaller ones, and what its rules then did."""
    with Catalog.open(synthetic) as catalog:
        found = rehearse_largest(catalog, "toy", "sequences")
    assert found is not None
    return found


def test_forecasts_of_every_kind_of_line_are_checked_against_what_they_did(rehearsed: Any) -> None:
    lines = {str(error.line): error for error in rehearsed.errors()}
    assert {"memorized", "memorized by either", "matched_prefix >= 8", "matched_prefix >= 28"} <= lines.keys()
    # The store follows one strength of a checkpoint and one hardness of a window, so that a law exists; the
    # errors are those of a logit line through it. A forecast that ignored the line would be off by the
    # difference between lines, which is three times as much (next test).
    assert all(error.precision < 0.1 and error.recall < 0.2 for error in lines.values())
    for rule in rehearsed.rules:
        # No score of the target's own model enters, so no union with its earlier checkpoints either.
        assert rule.line.operation == "alone" or "l@" not in rule.predictors
        assert 0 <= rule.recall.low <= rule.recall.value <= rule.recall.high <= 1
        assert 0 <= rule.precision.low <= rule.precision_lower_bound <= rule.precision.value <= 1


def test_a_lower_line_is_forecast_to_find_more_of_what_is_there(rehearsed: Any) -> None:
    by_line = {(r.predictors, str(r.line)): r for r in rehearsed.rules}
    for predictors in ("xs@8", "s@8", "m@8"):
        paper, low = by_line[predictors, "memorized"], by_line[predictors, "matched_prefix >= 8"]
        assert low.recall.value > paper.recall.value + 0.2
        assert low.precision.value < paper.precision.value - 0.2
        assert (low.flagged or 0) > (paper.flagged or 0)
    union, alone = by_line["xs@8 + m@8", "memorized by either"], by_line["m@8", "memorized"]
    assert union.training_flops > alone.training_flops
    assert union.recall.value > alone.recall.value
    assert union.flagged >= alone.flagged


def test_a_rehearsal_is_the_forecast_of_the_same_target(
    rehearsed: Any, untrained: Path, synthetic: Path
) -> None:
    """Hiding scores, and not having them, come to the same."""
    for store in (untrained, synthetic):
        one = advisor(store, Bounds(0.5), target="l@8", forecast=True)
        known = {f.key: (f.recall.value, f.precision.value) for f in one._forecasts}
        for rule in rehearsed.rules:
            assert known[rule.key] == pytest.approx((rule.recall.value, rule.precision.value), rel=1e-9)
    test = rehearsed.choose(0.3, Bounds(0.5))
    assert test.chosen is not None
    assert test.found == rehearsed.found[test.chosen.key].counts
    assert test.chosen.line.tau is not None
    assert (test.found.recall or 0) <= test.best
    # Nothing flags so few.
    assert rehearsed.choose(0.3, Bounds(None, 1)).chosen is None


def test_bounds_hold_for_forecasts(untrained: Path) -> None:
    kept = 0
    for bounds in (Bounds(0.5), Bounds(0.9), Bounds(None, 500), Bounds(0.8, 320)):
        one = advisor(untrained, bounds, target="l@8")
        for share in (0.001, 0.05, 0.2, 1.0):
            best = one.best(share * one.target.training_flops)
            if best is None:
                continue
            kept += 1
            assert best.basis == "forecast"
            assert best.training_flops <= share * one.target.training_flops
            if bounds.min_precision is not None:
                assert (best.precision.value or 0) >= bounds.min_precision
            if bounds.max_flagged is not None:
                assert best.flagged is not None
                assert best.flagged <= bounds.max_flagged
    assert kept > 8


# The command line


def test_recommend_for_a_target_with_scores(cli: Cli, synthetic: Path, tmp_path: Path) -> None:
    result = cli(
        "recommend", synthetic, "--target", "l@8", "--budget", "20%", "--recall", "0.5", "-f", "json"
    )
    rows = json.loads(result.stdout)
    assert rows[0]["answer"] == "recommended"
    assert {"runner-up", "paper's rule", "cheapest for recall 0.5"} <= {row["answer"] for row in rows}
    assert {row["basis"] for row in rows} == {"measured"}
    assert rows[0]["flops_share"] <= 0.2
    assert rows[0]["predictors"] != rows[1]["predictors"]
    for ending in ("csv", "json", "md"):
        cli("recommend", synthetic, "--budget", "20%", "-o", f"answer.{ending}")
    written = {ending: (tmp_path / f"answer.{ending}").read_text() for ending in ("csv", "json", "md")}
    assert next(csv.DictReader(io.StringIO(written["csv"])))["answer"] == "recommended"
    assert json.loads(written["json"])[0]["answer"] == "recommended"
    assert written["md"].startswith("| target |")
    for name in ("answer.parquet", "answer.txt"):
        assert ".csv" in cli("recommend", synthetic, "--budget", "20%", "-o", name, code=3).stderr
        assert not (tmp_path / name).exists()
    said = cli("recommend", synthetic, "--budget", "20%", "--grid").stdout
    for words in ("Run ", "Doubling the budget", "at least 0.8", "The best predictor by budget"):
        assert words in said
    assert (
        "at most 60 flagged" in cli("recommend", synthetic, "--budget", "50%", "--max-flagged", "60").stdout
    )


def test_recommend_for_a_target_without_scores(cli: Cli, untrained: Path, synthetic: Path) -> None:
    arguments = ("--target", "l@8", "--budget", "60%", "--min-precision", "0.5")
    rows = json.loads(cli("recommend", untrained, *arguments, "-f", "json").stdout)
    assert {row["basis"] for row in rows} == {"forecast"}
    said = cli("recommend", untrained, *arguments).stdout
    for words in ("This is a forecast", "How well this procedure chooses is unknown", "are linked"):
        assert words in said
    assert {row["answer"] for row in rows} >= {"recommended", "runner-up", "paper's rule"}
    assert any(">=" in row["rule"] for row in rows)
    # Scores of the target's model change no forecast.
    again = json.loads(cli("recommend", synthetic, *arguments, "--forecast", "-f", "json").stdout)
    assert again == rows


def test_scaling(cli: Cli, synthetic: Path) -> None:
    result = cli("scaling", synthetic)
    for words in (
        "log10 compute ratio", "held out l@8", "held out l@8: matched_prefix >= 8", "mean absolute error",
        "Tested on l@8 with its scores hidden", "Extrapolation limits",
    ):  # fmt: skip
        assert words in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--budget", "1"], "below the cheapest candidate, xs@2"),
        (["--budget", "10%", "--target", "xl@8"], "no such checkpoint"),
        (["--budget", "10%", "--suite", "pythia"], "it holds toy"),
        (["--budget", "lots"], "takes FLOPs"),
        (["--budget", "-3"], "takes FLOPs"),
        (["--budget", "nan"], "takes FLOPs"),
        ([], "specify --budget"),
        (["--budget", "50%", "--max-flagged", "1"], "keeps to at most 1 flagged"),
        (["--budget", "10%", "--target", "xs@2"], "costs less"),
        (["--budget", "10%", "--target", "s@8", "--forecast"], "1 sizes"),
    ],
)
def test_what_cannot_be_recommended(
    synthetic: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
) -> None:
    monkeypatch.setattr("sys.argv", ["memoserve", "recommend", str(synthetic), *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 3
    assert says in capsys.readouterr().err


def test_a_target_that_cant_be_read_is_not_left_out(synthetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forecast from fewer targets than there are would be another forecast."""

    def damaged(*_: object, **__: object) -> list[Rule]:
        raise BadInput("part-0-9.parquet is damaged")

    monkeypatch.setattr("memoserve.recommend.backtest_data.read_rules", damaged)
    with Catalog.open(synthetic) as catalog, pytest.raises(BadInput, match="damaged"):
        rehearse_largest(catalog, "toy", "sequences")


def test_without_scipy_it_says_what_to_install(synthetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    with pytest.raises(BadInput, match=r"pip install 'memoserve\[forecast\]'"):
        advisor(synthetic, Bounds(), forecast=True)
