"""`memoserve run` before it starts an engine: what it refuses, leaves out, skips and tells."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import Cli
from numpy.typing import NDArray
from suite_files import suite_of

from memoserve.suites import Suite

pytestmark = pytest.mark.thorough

RUN = ("run", "--suite", "suite.toml", "--engine", "transformers", "--mode", "extract", "--out", "out")


def rows(store: Path, columns: str = "model, step, count(*)") -> list[tuple[Any, ...]]:
    """What a store holds of each checkpoint, read without memoserve."""
    path = f"{store}/scores/*/*/*/part-*.parquet"
    with duckdb.connect() as connection:
        return connection.execute(
            f"SELECT {columns} FROM read_parquet('{path}', hive_partitioning = true) "
            "GROUP BY ALL ORDER BY ALL"
        ).fetchall()


@pytest.fixture(scope="module")
def tokens(mini: Suite) -> NDArray[np.uint16]:
    """Mini's first 300 sequences, whole."""
    return np.fromfile(Path(str(mini.sequences.path)).with_suffix(".bin"), "<u2").reshape(-1, 97)[:300]


# Sequences


@pytest.mark.engine
def test_short_sequences_are_refused_or_left_out_and_counted(
    mini: Suite, tokens: NDArray[np.uint16], tmp_path: Path, cli: Cli
) -> None:
    suite_of(mini, tmp_path, "116k", steps=(1001,))
    short = {7: 63, 8: 1, 250: 40}
    lines = [{"tokens": row[: short.get(i, 97)].tolist()} for i, row in enumerate(tokens)]
    (tmp_path / "short.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = (*RUN, "--data", "short.jsonl", "--partial-data")
    refused = cli(*arguments, code=3)
    assert "3 of" in refused.stderr
    assert "7 (63)" in refused.stderr
    assert "--skip-short" in refused.stderr
    assert not (tmp_path / "out").exists()
    cli(*arguments, "--skip-short")
    assert rows(tmp_path / "out") == [("116k", 1001, 297)]
    ids = rows(tmp_path / "out", "list_sort(list(sequence_id))")[0][0]
    assert ids == [i for i in range(300) if i not in short]
    assert "nothing to do: all scores exist" in cli(*arguments, "--skip-short").stdout
    counted = cli(
        "sql", "SELECT figure FROM checks WHERE name = 'short sequences'", "out", "-f", "csv"
    ).stdout
    assert counted.split() == ["figure", "3.0"]


def test_a_sample_or_a_context_that_leaves_nothing_to_evaluate_is_refused(
    mini: Suite, tokens: NDArray[np.uint16], tmp_path: Path, cli: Cli
) -> None:
    suite_of(mini, tmp_path, "116k", "281k", steps=(161, 1001))
    for dry in ((), ("--dry-run",)):
        empty = cli(*RUN, "--sequences", "0:20", "--sample", "0.0001", *dry, code=3)
        assert "--sample 0.0001 with --seed 0 selects none of sequences 0:20" in empty.stderr
        assert "raise --sample" in empty.stderr
        long = cli(*RUN, "--sequences", "0:20", "--context", "65", *dry, code=3)
        assert "takes 96 tokens at most" in long.stderr
        assert "use a shorter --context" in long.stderr
    np.save(tmp_path / "short.npy", tokens[:50, :60])
    short = cli(*RUN, "--data", "short.npy", "--partial-data", "--skip-short", code=3)
    assert "all have fewer than 64 tokens" in short.stderr
    assert not (tmp_path / "out").exists()
    # One that is longer, with shorter ones.
    config = tmp_path / "w/281k/step1001/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "max_position_embeddings": 128}))
    assert "takes 96 tokens at most" in cli(*RUN, "--context", "65", "--dry-run").stdout


@pytest.mark.engine
def test_a_part_of_the_data_is_taken_if_it_is_said_to_be_one(
    mini: Suite, tokens: NDArray[np.uint16], tmp_path: Path, cli: Cli
) -> None:
    suite_of(mini, tmp_path, "116k", steps=(1001,))
    np.save(tmp_path / "part.npy", tokens[:200, :64])
    refused = cli(*RUN, "--data", "part.npy", code=3)
    assert "sequence count" in refused.stderr
    assert "32,032" in refused.stderr
    cli(*RUN, "--data", "part.npy", "--partial-data")
    assert rows(tmp_path / "out") == [("116k", 1001, 200)]


@pytest.mark.engine
def test_a_column_is_named_in_run_and_found_again_by_show(
    mini: Suite, tokens: NDArray[np.uint16], tmp_path: Path, cli: Cli
) -> None:
    suite = suite_of(mini, tmp_path, "281k", steps=(1001,))
    pq.write_table(
        pa.table({"ids": list(tokens.astype(np.int32)), "labels": [[1] * 97] * 300}), tmp_path / "x.parquet"
    )
    arguments = (*RUN, "--data", "x.parquet", "--partial-data")
    assert "--tokens-column" in cli(*arguments, code=3).stderr
    cli(*arguments, "--tokens-column", "ids")
    named = suite.read_text().replace("[sequences]", '[sequences]\ncolumn = "ids"')
    suite.write_text(named.replace(f'path = "{mini.sequences.path}"', 'path = "x.parquet"'))
    assert "nothing to do: all scores exist" in cli(*RUN, "--partial-data").stdout
    shown = cli("show", "out", "--suite", "suite.toml", "--cell", "memorized", "--target", "281k@1001")
    assert "sequence" in shown.stdout


# Weights


@pytest.mark.engine
def test_checkpoints_with_anothers_weights_are_skipped_counted_and_named(
    mini: Suite, tmp_path: Path, cli: Cli
) -> None:
    suite = suite_of(mini, tmp_path, "116k", "281k", steps=(161, 581, 1001))
    for step in (161, 581):
        shutil.copy(
            tmp_path / "w/116k/step1001/model.safetensors", tmp_path / f"w/116k/step{step}/model.safetensors"
        )
    arguments = (*RUN, "--sequences", "0:300")
    for dry in (True, False):
        result = cli(*arguments, *(["--dry-run"] if dry else []))
        assert "116k@161  skipped: it has the weights of 116k@1001" in result.stdout
        assert "116k@581  skipped: it has the weights of 116k@1001" in result.stdout
    assert "2 skipped" in result.stdout
    kept = [("116k", 1001, 300), *(("281k", step, 300) for step in (161, 581, 1001))]
    assert rows(tmp_path / "out") == kept
    same = "SELECT checkpoint, same_weights_as FROM checkpoints WHERE same_weights_as IS NOT NULL ORDER BY 1"
    assert cli("sql", same, "out", "-f", "csv").stdout.split()[1:] == [
        "116k@161,116k@1001",
        "116k@581,116k@1001",
    ]
    alone = cli(*RUN, "--sequences", "0:300", "--checkpoints", "116k@161", code=6)
    assert "116k@1001" in alone.stdout
    assert "nothing to evaluate" in alone.stderr
    # Its own weights again: evaluated, and no longer another's.
    shutil.copy(mini.file.parent / "weights/116k/step161/model.safetensors", tmp_path / "w/116k/step161")
    cli(*RUN, "--sequences", "0:300", "--checkpoints", "116k@161")
    assert cli("sql", same, "out", "-f", "csv").stdout.split()[1:] == ["116k@581,116k@1001"]
    # Declared equal: evaluated.
    suite.write_text(suite.read_text().replace("[sequences]", "equal_steps = [[581, 1001]]\n[sequences]", 1))
    cli(*RUN, "--sequences", "0:300", "--checkpoints", "116k@581")
    memorized = rows(tmp_path / "out", "model, step, count(*) FILTER (matched_prefix = 32)")
    counts = {(model, step): count for model, step, count in memorized}
    assert counts["116k", 581] == counts["116k", 1001] > 0
    assert counts["116k", 161] == 0


@pytest.mark.engine
def test_where_all_fail_no_others_are_whole(mini: Suite, tmp_path: Path, cli: Cli) -> None:
    suite_of(mini, tmp_path, "116k", steps=(581, 1001))
    for step in (581, 1001):
        file = tmp_path / f"w/116k/step{step}/model.safetensors"
        file.write_bytes(file.read_bytes()[:5000])
    result = cli(*RUN, "--sequences", "0:100", code=6)
    assert "2 of the checkpoints failed" in result.stderr
    assert "others" not in result.stderr
    # Nothing was scored: another engine may be asked.
    for step in (581, 1001):
        shutil.copy(
            mini.file.parent / f"weights/116k/step{step}/model.safetensors", tmp_path / f"w/116k/step{step}"
        )
    cli(
        "run",
        "--suite",
        "suite.toml",
        "--mode",
        "score",
        "--engine",
        "transformers",
        "--sequences",
        "0:100",
        "-o",
        "out",
    )
    assert rows(tmp_path / "out") == [("116k", 581, 100), ("116k", 1001, 100)]


@pytest.mark.engine
def test_an_end_of_text_beyond_the_vocabulary_stops_before_a_run(
    mini: Suite, tmp_path: Path, cli: Cli
) -> None:
    suite = suite_of(mini, tmp_path, "116k", steps=(1001,))
    suite.write_text(suite.read_text().replace("eos_token_id = 0", "eos_token_id = 1024"))
    for more in ((), ("--dry-run",)):
        result = cli(*RUN, *more, code=3)
        assert "1024" in result.stderr
        assert not (tmp_path / "out").exists()


@pytest.mark.engine
def test_each_checkpoint_is_evaluated_with_its_own_configuration(
    mini: Suite, tmp_path: Path, cli: Cli
) -> None:
    """In one run with vLLM, which replaces weights in place where it can: against Transformers."""
    suite_of(mini, tmp_path, "281k", steps=(581, 721, 861, 1001))
    changes: dict[int, dict[str, Any]] = {
        721: {
            "rope_parameters": {"partial_rotary_factor": 0.25, "rope_theta": 300.0, "rope_type": "default"}
        },
        861: {"layer_norm_eps": 0.01, "hidden_act": "gelu_new"},
    }
    for step, change in changes.items():
        file = tmp_path / f"w/281k/step{step}/config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    arguments = ("run", "--suite", "suite.toml", "--mode", "extract", "--loglik", "--sequences", "0:200")
    told = cli(*arguments, "--out", "vllm", "--allow-implausible").stdout
    assert "config" in told, told
    cli(*arguments, "--engine", "transformers", "--out", "transformers", "--allow-implausible")
    columns = "model, step, sequence_id, any_value(continuation_ll)"
    found, expected = rows(tmp_path / "vllm", columns), rows(tmp_path / "transformers", columns)
    assert len(found) == len(expected) == 800
    # float32: the configurations are nats apart, the engines 1e-4.
    for ours, theirs in zip(found, expected, strict=True):
        assert ours[:3] == theirs[:3]
        assert ours[3] == pytest.approx(theirs[3], abs=2e-3)
