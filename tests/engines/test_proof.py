"""What an engine says, held against Transformers' own forward; what a checkpoint says, against its data."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest
from command_line import Cli
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from suite_files import suite_of
from typer.testing import CliRunner

from memoserve.cli import app
from memoserve.domain import Checkpoint
from memoserve.engines import EngineProcess, EngineSettings, Forward, agreement, fetch_weights
from memoserve.engines.settings import Mode
from memoserve.errors import RunIncomplete
from memoserve.run.checks import proof
from memoserve.suites import Suite, select

SETTINGS = EngineSettings(
    engine="transformers", mode="extract", context=32, dtype="float32", banned_token_id=0, device="cpu"
)


def one(suite: Suite, name: str) -> Checkpoint:
    (checkpoint,) = select(suite, name)
    return checkpoint


@pytest.fixture(scope="module")
def engine(mini: Suite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """281k@1001 in the transformers engine."""
    folder = fetch_weights(one(mini, "281k@1001")).folder
    process = EngineProcess(SETTINGS, folder, tmp_path_factory.mktemp("engine") / "engine.log")
    yield process
    process.close()


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Iterator[proof.SecondWay]:
    """The second way, as a run has it from checkpoint to checkpoint."""
    way = proof.SecondWay(SETTINGS, tmp_path_factory.mktemp("second") / "second.log")
    yield way
    way.close()


def changed(folder: Path, to: Path, **config: object) -> Path:
    """A copy of a model folder with another configuration."""
    shutil.copytree(folder, to)
    said = json.loads((folder / "config.json").read_text())
    (to / "config.json").write_text(json.dumps({**said, **config}))
    return to


# Agreement


@pytest.mark.engine
@pytest.mark.parametrize("mode", ["score", "extract"])
def test_an_engine_agrees_with_the_second_way(
    mini: Suite, mini_windows: NDArray[np.uint32], tmp_path: Path, mode: Mode
) -> None:
    checkpoint = one(mini, "281k@1001")
    weights = fetch_weights(checkpoint)
    settings = replace(SETTINGS, engine="vllm", mode=mode)
    vllm = EngineProcess(settings, weights.folder, tmp_path / "vllm.log")
    second = proof.SecondWay(settings, tmp_path / "second.log")
    try:
        check = proof.agrees(proof.Trial(vllm, checkpoint, weights, mini_windows, mini), second)
        # The same engine beside other files: those of another step.
        other = fetch_weights(one(mini, "281k@861"))
        wrong = proof.agrees(proof.Trial(vllm, checkpoint, other, mini_windows, mini), second)
    finally:
        vllm.close()
        second.close()
    assert check.result == "passed", check.detail
    assert check.figure is not None
    assert check.figure >= agreement.ENOUGH
    assert (check.model, check.step, check.subject) == ("281k", 1001, "281k@1001")
    assert wrong.result == "failed"
    assert "transformers" in wrong.detail


@pytest.mark.engine
@pytest.mark.parametrize(
    "config",
    [
        {"num_attention_heads": 4},
        {"use_parallel_residual": False},
        {"rope_parameters": {"partial_rotary_factor": 0.5, "rope_theta": 10000.0, "rope_type": "default"}},
        {"rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 100.0, "rope_type": "default"}},
        {"hidden_act": "relu"},
        {"layer_norm_eps": 0.1},
    ],
)
def test_what_another_configuration_computes_disagrees(
    engine: EngineProcess,
    second: proof.SecondWay,
    mini: Suite,
    mini_windows: NDArray[np.uint32],
    tmp_path: Path,
    config: dict[str, object],
) -> None:
    checkpoint = one(mini, "281k@1001")
    weights = fetch_weights(checkpoint)
    other = replace(weights, folder=changed(weights.folder, tmp_path / "changed", **config))
    check = proof.agrees(proof.Trial(engine, checkpoint, other, mini_windows, mini), second)
    assert check.result == "failed", check.detail


@pytest.mark.engine
def test_a_model_that_transformers_cant_have_is_not_checked(
    engine: EngineProcess,
    second: proof.SecondWay,
    mini: Suite,
    mini_windows: NDArray[np.uint32],
    tmp_path: Path,
) -> None:
    checkpoint = one(mini, "281k@1001")
    weights = fetch_weights(checkpoint)
    folder = changed(weights.folder, tmp_path / "changed", model_type="of the future", architectures=["Next"])
    other = replace(weights, folder=folder)
    check = proof.agrees(proof.Trial(engine, checkpoint, other, mini_windows, mini), second)
    assert check.result == "not checked"
    assert "Transformers" in check.detail


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 6), min_size=4, max_size=4), st.integers(0, 4)),
        min_size=1,
        max_size=8,
    ),
    st.integers(0, 3),
)
def test_prefixes_agree_where_a_loop_over_logits_says_so(
    rows: list[tuple[list[int], int]], off_by: int
) -> None:
    """Logits of a vocabulary of 4 from small numbers, so that ties and near-ties are many."""
    near = agreement.TOLERANCES["float32"].near_tie
    random = np.random.default_rng(len(rows))
    logits = random.integers(0, 7, (len(rows), 4, 4)) * near / 2
    truth = np.array([[digit % 4 for digit in digits] for digits, _ in rows])
    ranked = np.sort(logits, axis=2)
    given_logit = np.take_along_axis(logits, truth[..., None], 2)[..., 0]
    forward = Forward(
        (ranked[..., -1] - ranked[..., -2]).astype(np.float64),
        (ranked[..., -1] - given_logit).astype(np.float64),
        np.zeros(truth.shape),
    )
    prefix = np.minimum([p for _, p in rows], 4).astype(np.uint8)
    disagreeing = 0
    for row, p in enumerate(prefix):
        for at in range(min(p + 1, 4)):
            best = logits[row, at].max()
            if at < p:  # the engine chose the true token
                disagreeing += best - logits[row, at, truth[row, at]] > near
            else:  # the engine chose another one: the best of the others at least
                others = max(x for token, x in enumerate(logits[row, at]) if token != truth[row, at])
                disagreeing += best - others > near
    found = agreement.of_prefixes(forward, prefix, agreement.TOLERANCES["float32"])
    assert found.disagreeing == disagreeing
    assert found.decisive >= found.disagreeing
    assert found.positions == sum(min(int(p) + 1, 4) for p in prefix)


def test_nan_never_agrees() -> None:
    nan = np.full((2, 32), np.nan, np.float32)
    forward = Forward(nan, nan, nan.astype(np.float64))
    tolerance = agreement.TOLERANCES["float32"]
    assert not agreement.of_generations(forward, tolerance).holds
    assert not agreement.of_prefixes(forward, np.array([0, 32], np.uint8), tolerance).holds
    assert not agreement.of_logliks(forward, np.zeros(2), tolerance).holds


# Plausibility


def test_frequencies_are_what_a_loop_counts() -> None:
    random = np.random.default_rng(5)
    others = random.integers(0, 11, (40, 12), dtype=np.uint32)
    few = others[:7]
    tokens = random.integers(0, 13, (6, 9), dtype=np.uint32)
    single = [0.9 * (others == t).sum() / others.size + 0.1 / 13 for t in range(13)]
    expected = [np.log(single[t]) for row in tokens for t in row]
    assert proof.unigram_loglik(tokens, others, 13) == pytest.approx(np.mean(expected))
    expected = []
    for row in tokens:
        for before, token in itertools.pairwise(row):
            pairs = [(a, b) for r in few for a, b in itertools.pairwise(r) if a == before]
            hits = sum(b == token for _, b in pairs)
            expected.append(np.log((hits + 5 * single[token]) / (len(pairs) + 5)))
    assert proof.bigram_loglik(tokens, others, few, 13) == pytest.approx(np.mean(expected))


def test_a_checkpoint_is_held_beside_those_that_it_should_beat(mini: Suite) -> None:
    figures = {
        one(mini, "116k@161"): -4.0,
        one(mini, "116k@1001"): -3.4,
        one(mini, "281k@161"): -3.8,
        one(mini, "281k@1001"): -5.6,  # worse than 116k@1001 by 2.2
        one(mini, "532k@161"): -4.9,  # worse than 281k@161 by 1.1, but not than 281k@1001
        one(mini, "532k@1001"): -2.0,
    }
    found = {str(c): check.result for c, check in proof.plausible_together(figures).items()}
    assert found == {
        "116k@1001": "passed",
        "281k@161": "passed",
        "281k@1001": "failed",
        "532k@161": "failed",
        "532k@1001": "passed",
    }


@pytest.mark.engine
@pytest.mark.thorough
def test_a_wrong_number_of_heads_is_told_and_kept(mini: Suite, tmp_path: Path, cli: Cli) -> None:
    """It loads without a word, computes without an error, and memorizes nothing, in any engine."""
    suite = suite_of(mini, tmp_path, "281k", "532k")
    for name, heads in (("281k", 4), ("532k", 6)):
        file = tmp_path / "w" / name / "step1001" / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "num_attention_heads": heads}))
    run = (
        "run", "--suite", suite, "--engine", "transformers", "--mode", "extract", "--sequences", "0:300",
        "--out", "out",
    )  # fmt: skip
    result = cli(*run, code=6)
    assert "in doubt" in result.stderr
    assert "281k@1001" in result.stderr
    assert "532k@1001" in result.stderr
    assert "281k@581" not in result.stderr
    # Nothing is missing now, and it is still in doubt.
    assert "281k@1001" in cli(*run, code=6).stderr
    cli(*run, "--allow-implausible")
    with duckdb.connect() as connection:
        rows = connection.execute(
            f"SELECT count(*) FROM read_parquet('{tmp_path}/out/scores/*/*/*/part-*.parquet')"
        ).fetchone()
    assert rows == (1200,)


@pytest.mark.engine
def test_ids_of_another_tokenizer_are_told(mini: Suite, tmp_path: Path, cli: Cli) -> None:
    """Every id is in the vocabulary; they just mean something else."""
    suite = suite_of(mini, tmp_path, "116k")
    tokens = np.fromfile(Path(str(mini.sequences.path)).with_suffix(".bin"), "<u2").reshape(-1, 97)
    other = np.random.default_rng(3).permutation(1024).astype(np.uint16)
    np.save(tmp_path / "other.npy", other[tokens])
    result = cli(
        "run", "--suite", suite, "--data", "other.npy", "--engine", "transformers", "--mode", "extract",
        "--sequences", "0:300", "--out", "out", code=6,
    )  # fmt: skip
    assert "116k@581" in result.stderr
    assert "116k@1001" in result.stderr
    assert "tokenizer" in result.stdout


@pytest.mark.engine
def test_a_run_keeps_what_it_proved(mini: Suite, tmp_path: Path, cli: Cli) -> None:
    cli(
        "run", "--engine", "transformers", "--mode", "extract", "--checkpoints", "116k@161,116k@301,116k@441",
        "--sequences", "0:300", "--out", "out",
    )  # fmt: skip
    rows = cli(
        "sql", "SELECT model, step, name, result FROM checks WHERE step IS NOT NULL ORDER BY ALL", "out",
        "--format", "csv",
    ).stdout  # fmt: skip
    agreed = [row for row in rows.splitlines() if proof.AGREES in row]
    assert agreed == [f"116k,{step},{proof.AGREES},passed" for step in (161, 301)]  # start, first switch
    for step in (161, 301, 441):
        assert f"116k,{step},{proof.PLAUSIBLE},passed" in rows
    cli(
        "run", "--engine", "transformers", "--mode", "extract", "--checkpoints", "116k@161,116k@301,116k@441",
        "--sequences", "0:300", "--out", "every", "--verify", "every",
    )  # fmt: skip
    counted = cli(
        "sql", f"SELECT count(*) AS n FROM checks WHERE name = '{proof.AGREES}'", "every",
        "--format", "csv",
    ).stdout  # fmt: skip
    assert counted.split() == ["n", "3"]


@pytest.mark.engine
def test_a_folder_that_changes_during_a_run_fails_its_checkpoint(
    mini: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights of the next checkpoint are identified while the engine is busy with the one before."""
    suite = suite_of(mini, tmp_path, "116k")
    folder = tmp_path / "w" / "116k" / "step1001"
    load = EngineProcess.load

    def changed_before(engine: EngineProcess, loaded: Path) -> None:
        shutil.copy(mini.file.parent / "weights/116k/step861/model.safetensors", folder / "new")
        (folder / "new").replace(folder / "model.safetensors")
        load(engine, loaded)

    monkeypatch.setattr(EngineProcess, "load", changed_before)
    monkeypatch.chdir(tmp_path)
    run = f"run --suite {suite} --engine transformers --mode extract --checkpoints all --sequences 0:300"
    result = CliRunner().invoke(app, [*run.split(), "--out", "out"])
    assert isinstance(result.exception, RunIncomplete)
    assert "116k@1001" in result.output
    assert "changed during the run" in result.output
    assert not list(tmp_path.glob("out/scores/*/*/step=1001/part-*"))
    assert list(tmp_path.glob("out/scores/*/*/step=581/part-*"))


@pytest.mark.engine
@pytest.mark.thorough
def test_held_out_sequences_say_nothing_against_a_checkpoint(mini: Suite, tmp_path: Path, cli: Cli) -> None:
    """Beside a smaller one that was evaluated on what both were trained on, and knows partly by heart."""
    suite = suite_of(mini, tmp_path, "116k", "532k", steps=(1001,))
    run = ("run", "--suite", suite, "--engine", "transformers", "--mode", "extract", "--out", "out")
    cli(*run, "--checkpoints", "116k@*", "--sequences", "0:300")
    cli(*run, "--checkpoints", "532k@*", "--sequences", "32032:32532")
