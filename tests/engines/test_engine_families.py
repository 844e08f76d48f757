"""Two checkpoints of every family, one after the other in one engine, against Transformers in float64.

Weights are such that each field of a configuration counts (tests/tiny_models.py), so that neither a stale
weight nor a field that an engine takes no notice of can hide.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tiny_models import FAMILIES, logliks, make, windows

from memoserve.checks import Check
from memoserve.domain import Checkpoint, Model, Weights
from memoserve.engines import EngineProcess, EngineSettings, fetch_weights
from memoserve.errors import EngineFailed
from memoserve.run.checks import proof
from memoserve.suites import load_suite

pytestmark = pytest.mark.thorough

# Log-likelihoods of 32 tokens, some 450 nats in all. float32: sums of some hundred numbers of about 1 in
# another order; differences to float64 stay below 1e-4. 16 bit: each of 32 logits is off by some roundings
# of 1/32 (bfloat16) or 1/256; they stay below 1.5 and 0.1. Another checkpoint is 29 nats away.
TOLERANCE = {"float32": 1e-3, "bfloat16": 4.0, "float16": 0.5}


@dataclass(frozen=True)
class Case:
    family: str
    tied: bool
    mode: str
    dtype: str
    products: str

    def __str__(self) -> str:
        return "-".join(
            (self.family, "tied" if self.tied else "untied", self.mode, self.dtype, self.products)
        )


VALUES = ((False, True), ("extract", "score"), ("float32", "bfloat16"), ("packed", "torch"))

EVERY = [Case(*values) for values in product(FAMILIES, VALUES[0], VALUES[1], VALUES[2], VALUES[3])]

COMMON = ("gpt_neox", "llama", "qwen3", "gemma2", "opt", "smollm3")
"""The families of every run of the tests; the others are in the complete matrix."""


def pairwise() -> list[Case]:
    """Cases in which every pair of values of two of the five dimensions occurs, chosen greedily."""

    def pairs(case: Case) -> set[tuple[int, object, int, object]]:
        values = (case.family, case.tied, case.mode, case.dtype, case.products)
        return {(i, values[i], j, values[j]) for i in range(5) for j in range(i)}

    possible = [
        case
        for case in EVERY
        if case.family in COMMON and (case.mode, case.tied) not in FAMILIES[case.family].refused
    ]
    open_pairs = set().union(*(pairs(case) for case in possible))
    chosen = []
    while open_pairs:
        best = max(possible, key=lambda case: len(pairs(case) & open_pairs))
        chosen.append(best)
        open_pairs -= pairs(best)
    return chosen


def engine_on(folder: Path, case: Case, log: Path) -> EngineProcess:
    settings = EngineSettings("vllm", case.mode, 32, case.dtype, 0, "cpu")  # type: ignore[arg-type]
    return EngineProcess(settings, folder, log)


def agree(found: NDArray[np.float64], folder: Path, rows: NDArray[np.uint32], case: Case) -> None:
    expected = logliks(folder, rows, case.dtype)
    rounding = 1.0 if case.dtype == "float32" else FAMILIES[case.family].rounding
    atol = rounding * TOLERANCE[case.dtype]
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol, err_msg=str(case))


def switches(case: Case, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second checkpoint's results are its own after a switch, and the first one's again after another."""
    monkeypatch.setenv("MEMOSERVE_CPU_PRODUCTS", case.products)
    rows = windows(12)
    first, second = (make(case.family, place / str(seed), seed, case.tied) for seed in (1, 2))
    refused = FAMILIES[case.family].refused.get((case.mode, case.tied))
    engine = engine_on(first, case, place / "log")
    try:
        if refused is not None:
            with pytest.raises(EngineFailed, match=refused):
                engine.wait_until_up()
            return
        before = engine.logliks(rows)
        agree(before, first, rows, case)
        assert engine.reload_refusal is None
        if FAMILIES[case.family].anew == case.tied:
            with pytest.raises(EngineFailed, match="did not arrive"):
                engine.load(second)
            return
        engine.load(second)
        switched = engine.logliks(rows)
        agree(switched, second, rows, case)
        assert np.abs(switched - before).max() > 5 * TOLERANCE[case.dtype]
        checks = {check.name: check.result for check in engine.proved()}
        assert checks == dict.fromkeys(("weights complete", "weights in the engine", "products"), "passed")
        engine.load(first)
        np.testing.assert_array_equal(engine.logliks(rows), before)
    finally:
        engine.close()


@pytest.mark.engine
@pytest.mark.parametrize("case", pairwise(), ids=str)
def test_a_switch_between_checkpoints_is_complete(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switches(case, tmp_path, monkeypatch)


@pytest.mark.engine
@pytest.mark.exhaustive
@pytest.mark.parametrize("case", EVERY, ids=str)
def test_every_switch_is_complete_and_as_in_a_fresh_engine(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switches(case, tmp_path, monkeypatch)
    kind = FAMILIES[case.family]
    if (case.mode, case.tied) in kind.refused or kind.anew == case.tied:
        return
    rows = windows(12)
    found = []
    for start, then in (("2", None), ("1", "2")):
        engine = engine_on(tmp_path / start, case, tmp_path / "log")
        try:
            if then is not None:
                engine.load(tmp_path / then)
            found.append(engine.logliks(rows))
        finally:
            engine.close()
    at_once, switched = found
    np.testing.assert_array_equal(at_once, switched, err_msg=str(case))


MUTATIONS = [(family.name, name) for family in FAMILIES.values() for name in family.mutations]


@pytest.mark.engine
@pytest.mark.parametrize("family", FAMILIES)
def test_each_field_counts_in_the_reference(family: str, tmp_path: Path) -> None:
    """Or the tests of engines below couldn't fail. By far more than rounding in float32."""
    rows = windows(8)
    plain = logliks(make(family, tmp_path / "plain"), rows)
    for name, changes in FAMILIES[family].mutations.items():
        changed = logliks(make(family, tmp_path / name.replace(" ", "-"), changes=changes), rows)
        assert np.abs(changed - plain).max() > 20 * TOLERANCE["float32"], (family, name)


def follows(family: str, changes: dict[str, object], mode: str, place: Path, name: str = "") -> None:
    """An engine that is started with a changed config.json computes as Transformers does with it, or refuses
    it in words, or is refused by the proof at its start.
    """
    kind = FAMILIES[family]
    tied = (mode, False) in kind.refused
    case = Case(family, tied, mode, "float32", "packed")
    folder = make(family, place / "changed", tied=tied, changes=changes)
    engine = engine_on(folder, case, place / "log")
    rows = windows(12)
    try:
        if mode == "score" and name in kind.unsupported:
            with pytest.raises(EngineFailed, match=kind.unsupported[name]):
                engine.wait_until_up()
        elif (mode, name) in kind.ignored:
            assert proved(engine, folder, place).result == "failed"
        else:
            agree(engine.logliks(rows), folder, rows, case)
    finally:
        engine.close()


def proved(engine: EngineProcess, folder: Path, place: Path) -> Check:
    """What a run says of an engine before it counts."""
    checkpoint = Checkpoint("toy", Model("toy", 0, 1, 1), 1, 100, 6400, Weights(folder))
    trial = proof.Trial(engine, checkpoint, fetch_weights(checkpoint), windows(200), load_suite("mini"))
    return proof.agrees(trial, proof.SecondWay(engine.settings, place / "second"))


@pytest.mark.engine
@pytest.mark.parametrize("family", ["gpt_neox", "gemma2"])
def test_an_engine_follows_all_fields_at_once(family: str, tmp_path: Path) -> None:
    together: dict[str, object] = {}
    for changes in FAMILIES[family].mutations.values():
        together |= changes
    follows(family, together, "extract", tmp_path)


@pytest.mark.engine
@pytest.mark.exhaustive
@pytest.mark.parametrize("mode", ["extract", "score"])
@pytest.mark.parametrize(("family", "name"), MUTATIONS)
def test_an_engine_follows_each_field(family: str, name: str, mode: str, tmp_path: Path) -> None:
    if all((mode, tied) in FAMILIES[family].refused for tied in (False, True)):
        pytest.skip(f"vLLM doesn't run {family} in {mode} mode")
    follows(family, FAMILIES[family].mutations[name], mode, tmp_path, name)
