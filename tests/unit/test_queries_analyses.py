"""The further analyses against plain counting over random small stores, and against scipy."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from brute_force import Read, ask, flops, pearson, place, ratio, same, units, wilson
from command_line import Cli
from random_stores import World, random_world, toy_suite
from scipy import stats

from memoserve.catalog import connect, run_query
from memoserve.errors import BadInput
from memoserve.queries import find_query
from memoserve.store import Store

pytestmark = pytest.mark.thorough

# (seed, mode, with log-likelihoods)
STORES = [
    (9, "extract", True), (12, "score", True), (27, "imported", True), (33, "extract", False),
    (34, "score", False), (38, "score", True),
]  # fmt: skip
Z = 1.959963984540054
ANALYSES = (
    "checkpoint_correlation", "confusion", "difference", "emergent", "emergent_counts", "ensembles",
    "extractable", "continuation_lengths", "first_memorized", "first_memorized_counts", "forgetting",
    "position", "position_qq", "position_test", "rates", "threshold_bands", "thresholds",
    "top_correlation", "training",
)  # fmt: skip


@pytest.fixture(scope="module", params=STORES, ids=lambda p: f"{p[1]}-{p[0]}")
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    seed, mode, loglik = request.param
    return random_world(tmp_path_factory.mktemp("world"), seed, mode, loglik=loglik)


@pytest.fixture(scope="module")
def read(world: World) -> Read:
    return Read(world)


def given(world: World, target: str) -> dict[str, str]:
    return {} if target == world.largest else {"target": target}


def test_confusion(world: World, read: Read) -> None:
    for target in read.targets():
        others = [n for n in read.order if n != target]
        for predictors in (None, others):
            values = given(world, target) | ({"predictors": ",".join(predictors)} if predictors else {})
            found = ask(world, "confusion", **values)
            names = predictors or read.smaller(target)
            assert [(r["unit"], r["predictor"]) for r in found] == [
                (u, n) for u in units(world) for n in names
            ]
            for row in found:
                bound = read.seen(row["predictor"])
                p = read.evaluated(row["predictor"], row["unit"])
                t = read.evaluated(target, row["unit"])
                kinds = Counter((p[k], t[k]) for k in p.keys() & t.keys())
                same(
                    row,
                    {
                        "evaluated_both": len(p.keys() & t.keys()),
                        "tp": kinds[True, True], "fp": kinds[True, False],
                        "fn": kinds[False, True], "tn": kinds[False, False],
                        "target_memorized_unseen": sum(t[k] and k >= bound for k in t),
                    },
                )  # fmt: skip


def test_rates(world: World, read: Read) -> None:
    for target in read.targets():
        earlier = read.earlier(target)
        others = [n for n in read.order if n != target][::2]
        for predictors in (None, others):
            values = given(world, target) | ({"predictors": ",".join(predictors)} if predictors else {})
            found = ask(world, "rates", **values)
            names = earlier if predictors is None else predictors
            assert [(r["unit"], r["predictor"]) for r in found] == [
                (u, n) for u in units(world) for n in names
            ]
            for row in found:
                p = read.evaluated(row["predictor"], row["unit"])
                t = read.evaluated(target, row["unit"])
                positive = {k for k in p.keys() & t.keys() if t[k]}
                negative = {k for k in p.keys() & t.keys() if not t[k]}
                said = {k for k in p if p[k]}
                same(row, {"positives": len(positive), "negatives": len(negative)})
                same(row, read.share("tpr", positive & said, positive))
                same(row, read.share("fnr", positive - said, positive))
                same(row, read.share("fpr", negative & said, negative))
                same(row, read.share("tnr", negative - said, negative))


def test_forgetting(world: World, read: Read) -> None:
    for model in {m.name for m in world.suite.models}:
        names = read.own(model)
        found = ask(world, "forgetting", model=model)
        assert [(r["unit"], r["earlier"], r["later"]) for r in found] == [
            (u, a, b) for u in (units(world) if names else []) for a, b in itertools.pairwise(names)
        ]
        for row in found:
            a, b = (read.evaluated(row[n], row["unit"]) for n in ("earlier", "later"))
            common = a.keys() & b.keys()
            before, after = {k for k in common if a[k]}, {k for k in common if b[k]}
            same(
                row,
                {
                    "newly_memorized": len(after - before),
                    "kept": len(before & after),
                    "forgotten": len(before - after),
                },
            )
            same(row, read.share("forgotten_share", before - after, before))
            same(row, read.share("new_share", after - before, after))
    assert ask(world, "forgetting") == ask(
        world, "forgetting", model=world.checkpoints[world.largest].model.name
    )


def test_first_memorized(world: World, read: Read) -> None:
    names = read.own()
    for unit in units(world):
        tables = {n: read.evaluated(n, unit) for n in names}
        first: dict[int, str] = {}
        for name in names:
            for key, memorized in tables[name].items():
                if memorized:
                    first.setdefault(key, name)
        counts = [r for r in ask(world, "first_memorized_counts") if r["unit"] == unit]
        assert [r["checkpoint"] for r in counts] == names
        total = 0
        for row in counts:
            new = {k for k, n in first.items() if n == row["checkpoint"]}
            earlier = names[: names.index(row["checkpoint"])]
            last = new & tables[names[-1]].keys()
            total += len(new)
            same(
                row,
                {
                    "first_memorized": len(new),
                    "at_once": sum(all(k not in tables[n] for n in earlier) for k in new),
                    "evaluated_last": len(last),
                    "memorized_last": sum(tables[names[-1]][k] for k in last),
                    "cumulative_share": ratio(total, len(first)),
                },
            )
            same(row, read.share("kept_share", {k for k in last if tables[names[-1]][k]}, last))
        if unit != units(world)[-1]:
            continue
        expected: list[dict[str, Any]] = []
        for key, name in first.items():
            where = names.index(name)
            expected.append(
                {
                    "sequence_id": key,
                    "window_id": world.windows[key] if world.windows else None,
                    "first_memorized": name,
                    "step": place(world, name)[1],
                    "occurrences": sum(i < read.seen(name) for i in read.occurrences[key])
                    if world.windows
                    else None,
                    "evaluated_before": sum(key in tables[n] for n in names[:where]),
                    "memorized_later": sum(tables[n].get(key, False) for n in names[where + 1 :]),
                    "not_memorized_later": sum(not tables[n].get(key, True) for n in names[where + 1 :]),
                }
            )
        expected.sort(key=lambda row: (-row["step"], row["sequence_id"]))
        assert ask(world, "first_memorized", rows="100000") == expected
        assert ask(world, "first_memorized", rows="3") == expected[:3]


def position_items(world: World, read: Read, name: str) -> dict[str, dict[int, bool]]:
    items = {unit: read.evaluated(name, unit) for unit in units(world)}
    if world.windows:
        items["unrepeated"] = {k: m for k, m in items["windows"].items() if len(read.occurrences[k]) == 1}
    return {unit: kept for unit, kept in sorted(items.items()) if kept}


def test_position(world: World, read: Read) -> None:
    for name, buckets in ((world.largest, 7), (read.order[len(read.order) // 2], 500)):
        seen = read.seen(name)
        found = ask(world, "position", checkpoint=name, buckets=str(buckets))
        buckets = min(buckets, seen)
        items = position_items(world, read, name)
        assert [(r["unit"], r["bucket"]) for r in found] == [
            (u, b + 1) for u in items for b in range(buckets)
        ]
        for row in found:
            keys = items[row["unit"]]
            inside = {k for k in keys if k * buckets // seen == row["bucket"] - 1}
            ids = [i for i in range(seen) if i * buckets // seen == row["bucket"] - 1]
            memorized = {k for k in inside if keys[k]}
            same(
                row,
                {
                    "checkpoint": name, "first": ids[0], "last": ids[-1], "evaluated": len(inside),
                    "memorized": len(memorized), "expected": len(inside) * (sum(keys.values()) / len(keys)),
                },
            )  # fmt: skip
            same(row, read.share("share", memorized, inside))


def test_position_test(world: World, read: Read) -> None:
    for name, asked in ((world.largest, 6), (read.order[len(read.order) // 2], 3)):
        seen = read.seen(name)
        buckets = min(asked, seen)
        items = position_items(world, read, name)
        found = ask(world, "position_test", checkpoint=name, buckets=str(asked))
        assert [r["unit"] for r in found] == list(items)
        for row in found:
            keys = items[row["unit"]]
            y = np.array([keys[k] for k in keys], float)
            x = np.array([(k + 0.5) / seen for k in keys])
            bucket = np.array([k * buckets // seen for k in keys])
            used = np.unique(bucket)
            table = np.array([[y[bucket == b].sum(), (1 - y[bucket == b]).sum()] for b in used])
            same(row, {"evaluated": len(y), "memorized": int(y.sum()), "degrees": len(used) - 1})
            same(row, {"smallest_expected": float(table.sum(1).min() * y.mean())})
            clusters: dict[int, list[int]] = defaultdict(list)
            for n, k in enumerate(keys):
                clusters[read.cluster(k)].append(n)
            if len(used) < 2 or y.min() == y.max():
                assert (row["chi_square"], row["p_value"], row["p_value_clustered"]) == (None, None, None)
            else:
                test = stats.chi2_contingency(table, correction=False)
                assert row["chi_square"] == pytest.approx(test.statistic, rel=1e-9, abs=1e-9)
                assert row["p_value"] == pytest.approx(test.pvalue, rel=1e-9)
                # Variances of the counts less their expectation, over sampled clusters and sampled rows.
                share = table.sum(1) / len(y)
                together, single = 0.0, 0.0
                for members in clusters.values():
                    parts = [[n] for n in members]
                    for group, weight in [(members, 0), *((part, 1) for part in parts)]:
                        u = np.array([(y[n] - y.mean()) * (bucket[n] == used) for n in group]).sum(0)
                        off = u - share * u.sum()
                        if weight:
                            single += (off**2 / table.sum(1)).sum()
                        else:
                            together += (off**2 / table.sum(1)).sum()
                assert row["design_effect"] == pytest.approx(together / single, rel=1e-9)
                if together:
                    corrected = stats.chi2.sf(test.statistic * single / together, len(used) - 1)
                    assert row["p_value_clustered"] == pytest.approx(corrected, rel=1e-8)
            if len(y) < 2:
                assert row["slope"] is None
                continue
            line = stats.linregress(x, y)
            same(row, {"slope": float(line.slope), "intercept": float(line.intercept)})
            off = (x - x.mean()) * (y - line.intercept - line.slope * x)
            total = sum(off[members].sum() ** 2 for members in clusters.values())
            if len(clusters) > 1:
                error = math.sqrt(total * len(clusters) / (len(clusters) - 1)) / ((x - x.mean()) ** 2).sum()
                same(
                    row,
                    {
                        "slope_error": error,
                        "slope_low": line.slope - Z * error,
                        "slope_high": line.slope + Z * error,
                    },
                )
            else:
                assert row["slope_error"] is None


def test_position_qq(world: World, read: Read) -> None:
    for name, size in ((world.largest, 9), (read.order[len(read.order) // 2], 4)):
        whole = read.seen(name) // size
        expected: Counter[tuple[Any, ...]] = Counter()
        evaluated = read.evaluated(name, "sequences", whole * size)
        buckets = sorted({k // size for k in evaluated})
        items = {"sequences": evaluated}
        if world.windows:
            items["windows"] = read.evaluated(name, "windows", whole * size)
            items["unrepeated"] = {k: m for k, m in items["windows"].items() if len(read.occurrences[k]) == 1}
        for unit, keys in items.items():
            # A window counts where it occurs first, evaluated there or not.
            counts = sorted(sum(m for k, m in keys.items() if k // size == s) for s in buckets)
            for rank, count in enumerate(counts, 1):
                quantile = stats.poisson.ppf(rank / (len(counts) + 1), np.mean(counts)) if any(counts) else 0
                expected[unit, int(quantile), count] += 1
            for row in ask(world, "position_qq", checkpoint=name, size=str(size)):
                if row["unit"] == unit:
                    same(row, {"mean": float(np.mean(counts))})
                    if any(counts) and len(counts) > 1:
                        same(row, {"dispersion": float(np.var(counts, ddof=1) / np.mean(counts))})
        found = ask(world, "position_qq", checkpoint=name, size=str(size))
        assert {(r["unit"], r["theoretical"], r["observed"]): r["buckets"] for r in found} == expected


def test_chi_square_tail(world: World) -> None:
    cases = [
        (x, df) for df in (1, 2, 3, 4, 9, 10, 19, 63, 200) for x in (1e-9, 0.1, 1, 3.9, 4, 4.1, 20, 90, 300)
    ]
    with connect(world.path) as db:
        for x, df in cases:
            found = db.execute("SELECT chi_square_tail(?::DOUBLE, ?::BIGINT)", [x, df]).fetchone()
            assert found == (pytest.approx(stats.chi2.sf(x, df), rel=1e-10),)
        ends = db.execute(
            "SELECT chi_square_tail(0, 3), chi_square_tail(NULL, 3), chi_square_tail(2.0, 0)"
        ).fetchone()
        assert ends == (1, None, None)


def test_continuation_lengths(world: World, read: Read) -> None:
    names = read.order[::2]
    found = ask(world, "continuation_lengths", checkpoints=",".join(names))
    expected = []
    for unit in units(world):
        for name in names:
            prefix: dict[int, int] = {}
            for i, (_, matched) in world.scores[name].items():
                if i < read.seen(name) and matched is not None:
                    key = i if unit == "sequences" else read.number(i)
                    prefix[key] = max(prefix.get(key, 0), matched)
            for length in range(1, 33) if prefix else []:
                enough = {k for k, n in prefix.items() if n >= length}
                row = {"checkpoint": name, "unit": unit, "length": length}
                row |= {"evaluated": len(prefix), "extractable": len(enough)}
                expected.append(row | read.share("share", enough, prefix))
    assert len(found) == len(expected)
    for row, one in zip(found, expected, strict=True):
        same(row, one)


def test_extractable(world: World, read: Read) -> None:
    samples, chances = [1.0, 30.0, 1e5, 1e12], [1e-9, 0.3, 0.999]
    names = read.order[::2]
    asked = {
        "checkpoints": ",".join(names),
        "samples": "1,30,1e5,1e12",
        "probabilities": "1e-9 0.3 0.999 0 1 2",
    }
    found = ask(world, "extractable", **asked)
    if not world.log_likelihoods:
        assert found == []
        return
    expected = []
    for unit in units(world):
        for name in names:
            ll: dict[int, float] = {}
            for i, value in world.log_likelihoods[name].items():
                if i < read.seen(name):
                    key = i if unit == "sequences" else read.number(i)
                    ll[key] = max(ll.get(key, -math.inf), value)
            memorized = read.evaluated(name, unit)
            for n, p in itertools.product(samples, chances) if ll else []:

                def reached(value: float, n: float = n, p: float = p) -> bool:
                    none = n * math.log1p(-math.exp(value)) if value < 0 else -math.inf
                    return -math.expm1(none) >= p

                enough = {k for k in ll if reached(ll[k])}
                row = {"checkpoint": name, "unit": unit, "samples": n, "probability": p}
                row |= {"log_likelihood_needed": math.log(-math.expm1(math.log1p(-p) / n))}
                row |= {
                    "evaluated": len(ll),
                    "extractable": len(enough),
                    "memorized": sum(memorized.values()),
                }
                expected.append(row | read.share("share", enough, ll))
    assert len(found) == len(expected) > 0
    for row, one in zip(found, expected, strict=True):
        same(row, one)


def test_training(world: World, read: Read) -> None:
    for asked in (None, read.order[::2]):
        names = [n for n in (asked or read.order) if read.seen(n) > 0]
        found = ask(world, "training", **({"checkpoints": ",".join(asked)} if asked else {}))
        assert [(r["unit"], r["checkpoint"]) for r in found] == [
            (u, n) for u in (units(world) if names else []) for n in names
        ]
        if not names:
            continue
        bound = min(map(read.seen, names))
        common = set.intersection(*({i for i in world.scores[n] if i < bound} for n in names))
        for row in found:
            key = (lambda i: i) if row["unit"] == "sequences" else read.number
            keys = {key(i) for i in common}
            memorized = {key(i) for i in common & read.memorized[row["checkpoint"]]}
            same(row, {"common_below": bound, "evaluated": len(keys), "memorized": len(memorized)})
            same(row, read.share("share", memorized, keys))


def signals(world: World, read: Read, name: str, signal: str) -> dict[int, float]:
    if signal == "continuation_ll":
        return world.log_likelihoods.get(name, {})
    which = 0 if signal == "matches" else 1
    return {i: s[which] for i, s in world.scores[name].items() if s[which] is not None}  # type: ignore[misc]


def test_thresholds(world: World, read: Read) -> None:
    for target in read.targets():
        usual = read.smaller(target)[-1:]
        others = [n for n in read.order if n != target]
        for predictor, signal, wanted in (
            (None, None, None),
            (others[0], "matched_prefix", 0.3),
            (others[-1], "matches", 0.6),
        ):
            values = given(world, target)
            values |= {
                k: str(v)
                for k, v in {"predictor": predictor, "signal": signal, "recall": wanted}.items()
                if v
            }
            found = ask(world, "thresholds", **values)
            name = predictor or next(iter(usual), None)
            if name is None:
                assert found == []
                continue
            if signal is None:
                signal = next(
                    s
                    for s in ("continuation_ll", "matches", "matched_prefix")
                    if signals(world, read, name, s)
                )
            for unit in units(world):
                rows = [r for r in found if r["unit"] == unit]
                bound = min(read.seen(name), read.seen(target))
                truth = read.evaluated(target, unit)
                pairs: dict[int, float] = {}
                for i, value in signals(world, read, name, signal).items():
                    if i < bound and i in world.scores[target]:
                        key = i if unit == "sequences" else read.number(i)
                        pairs[key] = max(pairs.get(key, -math.inf), value)
                t_seen = {k for k in pairs if truth[k]}
                t = t_seen | {k for k in truth if truth[k] and k >= bound}
                curve, before, area = {}, 0, 0.0
                for tau in sorted(set(pairs.values()), reverse=True):
                    flagged = {k for k in pairs if pairs[k] >= tau}
                    hits = flagged & t_seen
                    area += (len(hits) - before) * len(hits) / len(flagged)
                    step = bool(t_seen) and 100 * len(hits) // len(t_seen) > 100 * before // len(t_seen)
                    curve[tau] = (flagged, hits, step)
                    before = len(hits)
                reaching = [tau for tau in curve if t and len(curve[tau][1]) / len(t) >= (wanted or 0.9)]
                best = max(reaching, default=None)
                shown = [tau for tau in curve if signal != "continuation_ll" or curve[tau][2] or tau == best]
                assert [r["tau"] for r in rows] == shown
                for row in rows:
                    flagged, hits, _ = curve[row["tau"]]
                    same(
                        row,
                        {"target": target, "predictor": name, "signal": signal, "wanted": row["tau"] == best},
                    )
                    same(
                        row,
                        {
                            "flagged": len(flagged),
                            "hits": len(hits),
                            "average_precision": ratio(area, len(t_seen)),
                        },
                    )
                    same(row, read.share("precision", hits, flagged))
                    same(row, read.share("recall_seen", hits, t_seen))
                    same(row, read.share("recall_corpus", hits, t))


def poisson_weight(block: int, replicate: int, seed: int) -> int:
    """How often a block is drawn: the quantile of a Poisson variable of mean 1, of an MD5 as a number."""
    digest = hashlib.md5(f"{block} {replicate} {seed}".encode()).digest()
    return int(stats.poisson.ppf(int.from_bytes(digest[8:], "little") / 2**64, 1))


def test_threshold_bands(world: World, read: Read) -> None:
    """Replicate by replicate, every block as often as it is drawn."""
    blocks, replicates, seed = 11, 30, 7
    for target in read.targets()[:2]:
        others = [n for n in read.order if n != target]
        for predictor, signal in ((others[0], "matched_prefix"), (others[-1], "continuation_ll")):
            if not signals(world, read, predictor, signal):
                continue
            rows = ask(
                world, "threshold_bands", target=target, predictor=predictor, signal=signal,
                blocks=str(blocks), replicates=str(replicates), seed=str(seed),
            )  # fmt: skip
            expected = 0
            for unit in units(world):
                bound = min(read.seen(predictor), read.seen(target))
                truth = read.evaluated(target, unit)
                pairs: dict[int, float] = {}
                for i, value in signals(world, read, predictor, signal).items():
                    if i < bound and i in world.scores[target]:
                        key = i if unit == "sequences" else read.number(i)
                        tau = max(math.floor(2 * value) / 2, -64) if signal == "continuation_ll" else value
                        pairs[key] = max(pairs.get(key, -math.inf), tau)
                unseen = [k for k in truth if truth[k] and k >= bound]
                block = {k: read.number(k) * blocks // read.seen(target) for k in (*pairs, *unseen)}
                taus = sorted(set(pairs.values()), reverse=True)
                expected += len(taus)
                curves: dict[float, list[tuple[float | None, float | None]]] = {tau: [] for tau in taus}
                averages = []
                for replicate in range(1, replicates + 1):
                    weight = {b: poisson_weight(b, replicate, seed) for b in set(block.values())}
                    t_seen = sum(weight[block[k]] for k in pairs if truth[k])
                    t = t_seen + sum(weight[block[k]] for k in unseen)
                    area, before = 0.0, 0
                    for tau in taus:
                        flagged = sum(weight[block[k]] for k, v in pairs.items() if v >= tau)
                        hits = sum(weight[block[k]] for k, v in pairs.items() if v >= tau and truth[k])
                        curves[tau].append((ratio(hits, flagged), ratio(hits, t)))
                        area += (hits - before) * (hits / flagged if flagged else 0)
                        before = hits
                    averages.append(ratio(area, t_seen))
                found = {r["tau"]: r for r in rows if r["unit"] == unit}
                assert list(found) == taus
                for tau, row in found.items():
                    for column, values in (
                        ("precision", [p for p, _ in curves[tau]]),
                        ("recall_corpus", [r for _, r in curves[tau]]),
                        ("average_precision", averages),
                    ):
                        there = [v for v in values if v is not None]
                        low, high = np.quantile(there, (0.025, 0.975)) if there else (None, None)
                        same(row, {f"{column}_low": low, f"{column}_high": high})
                    flagged_keys = {k for k, v in pairs.items() if v >= tau}
                    hit_keys = {k for k in flagged_keys if truth[k]}
                    all_true = sum(truth[k] for k in pairs) + len(unseen)
                    same(row, {"flagged": len(flagged_keys), "hits": len(hit_keys)})
                    same(row, {"precision": ratio(len(hit_keys), len(flagged_keys))})
                    same(row, {"recall_corpus": ratio(len(hit_keys), all_true)})
                    same(row, {"blocks": len(set(block.values()))})
            assert len(rows) == expected


def emergent_scores(
    world: World, read: Read, target: str, against: str
) -> tuple[Counter[int], dict[int, dict[str, int]]]:
    """Per window that the target memorized: how many occurrences, and its score in each cheaper run."""
    memorized = Counter(read.number(i) for i in read.memorized[target] if i < read.seen(target))
    others = (read.smaller(target) if against in ("smaller", "both") else []) + (
        read.earlier(target) if against in ("earlier", "both") else []
    )
    scores: dict[int, dict[str, int]] = {w: {} for w in memorized}
    for name in others:
        for i in world.scores[name]:
            if i < read.seen(name) and read.number(i) in scores:
                own = scores[read.number(i)]
                own[name] = max(own.get(name, 0), read.score(name, i))
    return memorized, scores


@pytest.mark.parametrize("against", ["smaller", "earlier", "both"])
def test_emergent(world: World, read: Read, against: str) -> None:
    for target in read.targets():
        memorized, scores = emergent_scores(world, read, target, against)
        values = given(world, target) | ({"against": against} if against != "smaller" else {})
        for threshold in (16, 25):
            expected = []
            for window, by_run in scores.items():
                if by_run and max(by_run.values()) < threshold:
                    best = max(by_run, key=lambda n: (by_run[n], place(world, n)))
                    expected.append(
                        {
                            "target": target,
                            "sequence_id": window,
                            "window_id": world.windows[window] if world.windows else None,
                            "occurrences": sum(i < read.seen(target) for i in read.occurrences[window])
                            if world.windows
                            else None,
                            "best_score": by_run[best],
                            "best_checkpoint": best,
                            "compared": len(by_run),
                        }
                    )
            expected.sort(key=lambda row: (row["best_score"], row["sequence_id"]))
            limits = {"rows": "5"} if threshold == 25 else {}
            found = ask(
                world, "emergent", **values, **({"threshold": "25"} if threshold == 25 else {}), **limits
            )
            assert found == expected[: 5 if limits else 100]
        counts = ask(world, "emergent_counts", **values, thresholds="3,16,32.5")
        assert [(r["unit"], r["threshold"]) for r in counts] == [
            (u, x) for u in (units(world) if memorized else []) for x in (3, 16, 32.5)
        ]
        for row in counts:
            below = {w for w, s in scores.items() if s and max(s.values()) < row["threshold"]}
            compared = [w for w in memorized if scores[w]]
            sizes = memorized if row["unit"] == "sequences" else dict.fromkeys(memorized, 1)
            total, hit = sum(sizes[w] for w in compared), sum(sizes[w] for w in below)
            low, high = wilson(
                ratio(hit, total), total**2 / sum(sizes[w] ** 2 for w in compared) if total else 0
            )
            same(
                row,
                {
                    "target_memorized": sum(sizes.values()), "compared": total, "emergent": hit,
                    "share": ratio(hit, total), "share_low": low, "share_high": high,
                },
            )  # fmt: skip


@pytest.mark.parametrize("members", [1, 2, 3])
def test_ensembles(world: World, read: Read, members: int) -> None:
    target = world.largest
    step = place(world, target)[1]
    for asked in (None, [n for n in read.order if n != target]):
        values = {"members": str(members)} | ({"predictors": ",".join(asked)} if asked else {})
        found = ask(world, "ensembles", **values)
        names = read.smaller(target) if asked is None else [n for n in asked if place(world, n)[1] <= step]
        rows = {(r["unit"], r["predictors"], r["operation"]): r for r in found}
        assert len(rows) == len(found)
        assert [r["training_flops"] for r in found if r["unit"] == "sequences"] == sorted(
            r["training_flops"] for r in found if r["unit"] == "sequences"
        )
        checked = 0
        for unit in units(world):
            truth = read.evaluated(target, unit)
            tables = {n: read.evaluated(n, unit) for n in names}
            for team in itertools.chain.from_iterable(
                itertools.combinations(names, k + 1) for k in range(members)
            ):
                kept = {k for k in truth if all(k in tables[n] or k >= read.seen(n) for n in team)}
                # Only what anyone memorized makes a row.
                kept = {k for k in kept if truth[k] or any(t.get(k, False) for t in tables.values())}
                for operation, combine in (
                    (("alone", any),) if len(team) == 1 else (("union", any), ("intersection", all))
                ):
                    predicted = {k for k in kept if combine(tables[n].get(k, False) for n in team)}
                    t = {k for k in kept if truth[k]}
                    if not kept:
                        assert (unit, " + ".join(team), operation) not in rows
                        continue
                    row = rows[unit, " + ".join(team), operation]
                    checked += 1
                    cost: defaultdict[int, float] = defaultdict(float)
                    for n in team:
                        cost[place(world, n)[0]] = max(cost[place(world, n)[0]], flops(world, n))
                    same(row, {"training_flops": sum(cost.values()), "predicted": len(predicted)})
                    same(row, {"target_memorized": len(t), "hits": len(predicted & t)})
                    same(row, read.share("precision", predicted & t, predicted))
                    same(row, read.share("recall_corpus", predicted & t, t))
                    same(row, {"f1": ratio(2 * len(predicted & t), len(predicted) + len(t))})
        assert checked == len(rows)


def test_difference(world: World, read: Read) -> None:
    for target in read.targets():
        step = place(world, target)[1]
        able = [n for n in read.order if n != target and place(world, n)[1] <= step]
        usual = read.smaller(target)[::-1]
        pairs: list[Any] = [(None, None), *itertools.islice(itertools.permutations(able, 2), 0, 12, 3)]
        for predictor, other in pairs:
            values = given(world, target) | ({"predictor": predictor, "other": other} if predictor else {})
            found = ask(world, "difference", **values)
            if predictor is None:
                if len(usual) < 2:
                    assert found == []
                    continue
                predictor, other = usual[:2]
            for row in found:
                unit = row["unit"]
                truth = read.evaluated(target, unit)
                a, b = read.evaluated(predictor, unit), read.evaluated(other, unit)
                kept = [
                    k for k in truth
                    if (k in a or k >= read.seen(predictor)) and (k in b or k >= read.seen(other))
                ]  # fmt: skip
                t = np.array([truth[k] for k in kept], float)
                x, y = (np.array([table.get(k, False) for k in kept], float) for table in (a, b))
                which = np.array([read.cluster(k) for k in kept])
                assert (row["predictor"], row["other"]) == (predictor, other)
                same(
                    row,
                    {
                        "target_memorized": int(t.sum()), "both": int((t * x * y).sum()),
                        "only_predictor": int((t * x * (1 - y)).sum()),
                        "only_other": int((t * y * (1 - x)).sum()),
                        "clusters": len(set(which[t > 0])),
                    },
                )  # fmt: skip

                def interval(
                    column: str, value: float, parts: Any, clusters: Any, row: Any = row, which: Any = which
                ) -> None:
                    same(row, {column: value})
                    if len(clusters) < 2:
                        assert row[f"{column}_low"] is None
                        return
                    sums = [parts[which == c].sum() for c in clusters]
                    error = math.sqrt(len(sums) / (len(sums) - 1) * sum(s * s for s in sums))
                    same(row, {f"{column}_low": value - Z * error, f"{column}_high": value + Z * error})

                if t.sum():
                    d = (t * (x - y)).sum() / t.sum()
                    interval("recall_difference", d, (t * (x - y) - d * t) / t.sum(), set(which[t > 0]))
                    same(
                        row,
                        {
                            "recall_corpus": (t * x).sum() / t.sum(),
                            "recall_corpus_other": (t * y).sum() / t.sum(),
                        },
                    )
                if x.sum() and y.sum():
                    p, q = (t * x).sum() / x.sum(), (t * y).sum() / y.sum()
                    parts = x * (t - p) / x.sum() - y * (t - q) / y.sum()
                    interval("precision_difference", p - q, parts, set(which[x + y > 0]))
                else:
                    assert row["precision_difference"] is None


def window_scores(world: World, read: Read, name: str, unit: str, bound: int) -> dict[int, tuple[Any, Any]]:
    """The scores of sequences, or of each window's first evaluated occurrence."""
    found: dict[int, tuple[Any, Any]] = {}
    for i, s in sorted(world.scores[name].items()):
        if i < min(bound, read.seen(name)):
            found.setdefault(i if unit == "sequences" else read.number(i), s)
    return found


def test_checkpoint_correlation(world: World, read: Read) -> None:
    for model in (None, *sorted({m.name for m in world.suite.models})):
        names = [n for n in read.own(model) if read.seen(n) > 0]
        found = ask(world, "checkpoint_correlation", **({"model": model} if model else {}))
        if not names:
            assert found == []
            continue
        bound = min(map(read.seen, names))
        common = set.intersection(*({i for i in world.scores[n] if i < bound} for n in names))
        expected = (
            [(u, a, b) for u in units(world) for a, b in itertools.combinations(names, 2)] if common else []
        )
        assert [(r["unit"], r["first"], r["second"]) for r in found] == expected
        for row in found:
            pairs = []
            done = set()
            for i in sorted(common):
                key = i if row["unit"] == "sequences" else read.number(i)
                if key not in done:
                    pairs.append((world.scores[row["first"]][i], world.scores[row["second"]][i]))
                    done.add(key)
            same(row, {"n": len(pairs), "common_below": bound})
            for column, which in (("pearson_matches", 0), ("pearson_matched_prefix", 1)):
                same(row, {column: pearson([(a[which], b[which]) for a, b in pairs])})
            full = [
                (int(32 in (a if a[1] is None else a[1:])), int(32 in (b if b[1] is None else b[1:])))
                for a, b in pairs
            ]
            same(row, {"phi": pearson(full), "both_memorized": sum(a * b for a, b in full)})


@pytest.mark.parametrize("top", [0.02, 0.4])
def test_top_correlation(world: World, read: Read, top: float) -> None:
    names = read.order
    found = ask(world, "top_correlation", checkpoints=",".join(names), top=str(top))
    rows = {(r["unit"], r["first"], r["second"]): r for r in found}
    for unit in units(world):
        scores = {
            n: {
                k: a if a is not None else b
                for k, (a, b) in window_scores(world, read, n, unit, 10**9).items()
            }
            for n in names
        }
        edge = {
            n: max((x for x in s.values() if sum(v >= x for v in s.values()) >= top * len(s)), default=None)
            for n, s in scores.items()
        }
        for first, second in itertools.combinations(names, 2):
            keys = scores[first].keys() & scores[second].keys()
            if not keys:
                assert (unit, first, second) not in rows
                continue
            flags = [
                (int(scores[first][k] >= edge[first]), int(scores[second][k] >= edge[second])) for k in keys
            ]
            inside = [
                (scores[first][k], scores[second][k]) for k in keys if scores[second][k] >= edge[second]
            ]
            same(
                rows.pop((unit, first, second)),
                {
                    "n": len(keys), "first_threshold": edge[first], "second_threshold": edge[second],
                    "first_top": sum(a for a, _ in flags), "second_top": len(inside),
                    "both_top": sum(a * b for a, b in flags),
                    "phi_top": pearson(flags), "pearson_second_top": pearson(inside),
                },
            )  # fmt: skip
    assert rows == {}


def test_the_stores_hold_the_hard_cases(tmp_path: Path) -> None:
    """What the comparisons above are worth."""
    seen = Counter[str]()
    for seed, mode, loglik in STORES:
        world = random_world(tmp_path / str(seed), seed, mode, loglik=loglik)
        read = Read(world)
        target = world.largest
        seen["smaller models"] += len(read.smaller(target)) > 1
        seen["several steps"] += len(read.own()) > 1
        t = {i for i in read.memorized[target] if i < read.seen(target)}
        seen["repeats memorized"] += bool(world.windows) and len({read.number(i) for i in t}) < len(t)
        several = [n for n in read.smaller(target) if read.memorized[n] & t]
        seen["two predictors hit"] += len(several) > 1
        for name in read.smaller(target) + read.earlier(target):
            p = {i for i in read.memorized[name] if i < read.seen(name)}
            seen["false alarms"] += bool((p & world.scores[target].keys()) - t)
            seen["misses"] += bool((t & world.scores[name].keys()) - p)
            seen["unseen"] += any(i >= read.seen(name) for i in t)
            seen["gaps"] += any(i < read.seen(name) and i not in world.scores[name] for i in t)
        for a, b in itertools.pairwise(read.own()):
            seen["forgotten"] += any(
                m and read.evaluated(b, "sequences").get(k) is False
                for k, m in read.evaluated(a, "sequences").items()
            )
        _, scores = emergent_scores(world, read, target, "both")
        best = [max(s.values()) for s in scores.values() if s]
        seen["emergent"] += any(x < 16 for x in best)
        seen["not emergent"] += any(x >= 16 for x in best)
    assert min(seen.values()) >= 2, seen
    assert len(seen) == 11


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["position", "--buckets", "0"], "a whole number from 1 on"),
        (["position", "--buckets", "2.5"], "a whole number from 1 on"),
        (["emergent", "--against", "larger"], "smaller or earlier or both"),
        (["thresholds", "--signal", "loss"], "continuation_ll or matches or matched_prefix"),
        (["thresholds", "--recall", "most"], "takes a number"),
        (["thresholds", "--recall", "nan"], "takes a number"),
    ],
)
def test_mistakes_are_explained(cli: Cli, tmp_path: Path, arguments: list[str], says: str) -> None:
    world = random_world(tmp_path, 1, "extract")
    result = cli("query", *arguments, world.path, code=3)
    assert says in result.stderr
    assert result.stdout == ""


def test_too_many_predictors(tmp_path: Path) -> None:
    """The bits of ensembles: 62 predictors and no more, said and not miscounted."""
    suite = toy_suite(tmp_path, models=("s", "l"), steps=tuple(range(1, 64)), batch=1, trained=63, control=1)
    store = Store.create(tmp_path / "store")
    store.claim(suite, {"suite": "toy"})
    score = SimpleNamespace(matched_prefix=np.full(1, 32, np.uint8), match_mask=None, continuation_ll=None)
    for step in range(1, 64):
        store.write_scores(suite.checkpoint(suite.models[0], step), 0, 1, np.arange(1), score, "w")
    store.write_scores(suite.checkpoint(suite.models[1], 63), 0, 1, np.arange(1), score, "w")
    names = [f"s@{step}" for step in range(1, 64)]
    with connect(tmp_path / "store") as db:
        query = find_query("ensembles")
        with pytest.raises(BadInput, match="at most 62 predictors"):
            run_query(db, query, {"predictors": ",".join(names)}, tmp_path / "store")
        found = run_query(db, query, {"predictors": ",".join(names[1:])}, tmp_path / "store").fetchall()
        assert len(found) == 62 + 62 * 61
        assert {row[8] for row in found} == {1}


def test_an_empty_store(tmp_path: Path) -> None:
    """No rows or NULLs, never an error."""
    Store.create(tmp_path / "empty")
    with connect(tmp_path / "empty") as db:
        for name in ANALYSES:
            assert run_query(db, find_query(name), {}, tmp_path / "empty").fetchall() == [], name


def test_nothing_memorized(tmp_path: Path) -> None:
    """Counts of 0 and NULLs, never an error or NaN, which would print as a number."""
    suite = toy_suite(tmp_path, models=("s", "m", "l"), steps=(2, 4), batch=20, trained=80, control=5)
    store = Store.create(tmp_path / "store")
    store.claim(suite, {"suite": "toy"})
    store.write_sequences("toy", 0, 85, np.arange(85), np.arange(85) % 50)
    for checkpoint in suite.all_checkpoints():
        chances = np.full(85, -900, np.float32)
        score = SimpleNamespace(
            matched_prefix=np.zeros(85, np.uint8), match_mask=None, continuation_ll=chances
        )
        store.write_scores(checkpoint, 0, 85, np.arange(85), score, "w")
    silent = {"difference", "emergent", "emergent_counts", "ensembles", "first_memorized", "thresholds"}
    with connect(tmp_path / "store") as db:
        for name in ANALYSES:
            values = {"size": "16"} if name == "position_qq" else {}
            rows = run_query(db, find_query(name), values, tmp_path / "store").fetchall()
            assert bool(rows) == (name not in silent), name
            assert all(math.isfinite(v) for row in rows for v in row if isinstance(v, float)), name
