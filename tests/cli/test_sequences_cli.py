"""`memoserve sequences info` and `show`."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from memoserve.cli.sequences import app
from memoserve.errors import BadInput


def run(*arguments: str | Path) -> str:
    """What it prints; raises what the command line would report."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """7 sequences of 40 tokens: 100 i + j."""
    np.save(tmp_path / "a.npy", (100 * np.arange(7)[:, None] + np.arange(40)).astype(np.uint16))
    return tmp_path / "a.npy"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Token 7 attacks the terminal, 8 tries rich markup."""
    words = {f"w{i}": i for i in range(700)}
    words = {word: i for word, i in words.items() if i not in (7, 8)} | {
        "\x1b]0;owned\x07\x1b[2J": 7,
        "[red]x[/red]": 8,
    }
    model = {"type": "WordLevel", "vocab": words, "unk_token": "w0"}
    (tmp_path / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model}))
    return tmp_path / "tokenizer.json"


def test_show_prints_token_ids_without_a_tokenizer(rows: Path) -> None:
    lines = run("show", rows, "--ids", "5,2", "--context", "3").splitlines()
    assert lines == [
        "sequence 5",
        "  context       500 501 502",
        "  continuation  " + " ".join(str(500 + i) for i in range(3, 35)),
        "sequence 2",
        "  context       200 201 202",
        "  continuation  " + " ".join(str(200 + i) for i in range(3, 35)),
    ]


def test_show_takes_a_range_and_the_first_five_by_default(rows: Path) -> None:
    def shown(*options: str) -> list[str]:
        return [line for line in run("show", rows, "--context", "2", *options).splitlines() if line[0] == "s"]

    assert shown() == [f"sequence {i}" for i in range(5)]
    assert shown("--sequences", "5:") == ["sequence 5", "sequence 6"]


@given(st.integers(0, 599), st.integers(1, 600))
@settings(max_examples=8, deadline=None)
def test_show_shows_all_of_a_range(first: int, count: int) -> None:
    stop = min(first + count, 600)
    with tempfile.TemporaryDirectory() as folder:
        np.save(f"{folder}/a.npy", np.arange(600)[:, None] + np.zeros(33, int))
        shown = run(
            "show", f"{folder}/a.npy", "--context", "1", "--sequences", f"{first}:{stop}"
        ).splitlines()
    assert shown[::3] == [f"sequence {i}" for i in range(first, stop)]
    assert shown[1::3] == [f"  context       {i}" for i in range(first, stop)]


def test_show_decodes_and_disarms_text(rows: Path, tokenizer: Path) -> None:
    output = run("show", rows, "--ids", "0", "--context", "6", "--tokenizer", tokenizer)
    lines = output.splitlines()
    assert lines[1] == "  context       w0 w1 w2 w3 w4 w5"
    assert lines[2].startswith(r"  continuation  w6 \x1b]0;owned\x07\x1b[2J [red]x[/red] w9")
    assert "\x1b" not in output
    assert len(lines) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--ids", "7"], "0:7"),
        (["--ids", "1,x"], "write sequence ids"),
        (["--ids", "-1"], "write sequence ids"),
        (["--ids", ""], "write sequence ids"),
        (["--sequences", "0:8"], "beyond the 7"),
        (["--ids", "1", "--sequences", "0:1"], "either"),
        (["--context", "9"], "sequence 0 has 40 tokens, 41 are needed"),
        (["--suite", "mini"], "either"),
    ],
)
def test_show_refuses(rows: Path, arguments: list[str], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        run("show", rows, *arguments)


def test_info(rows: Path) -> None:
    found = dict(line.split(maxsplit=1) for line in run("info", rows).replace("identity ", "").splitlines())
    assert found["path"] == str(rows)
    assert found["kind"] == "npy"
    assert found["sequences"] == "7"
    output = run("info", rows)
    assert "token type                uint16\n" in output
    assert "tokens each               40 to 40 (all sequences)\n" in output
    assert f"bytes                     {rows.stat().st_size}\n" in output
    assert len(found["data_sha256"]) == len(found["index_sha256"]) == 64


def test_info_says_that_it_sampled(tmp_path: Path) -> None:
    lengths = [3] * 6000
    lengths[0], lengths[-1] = 1, 9
    text = "".join(json.dumps({"tokens": [1] * length}) + "\n" for length in lengths)
    (tmp_path / "a.jsonl").write_text(text)
    assert "1 to 9 (of 4,096 sequences in 16 places)" in run("info", tmp_path / "a.jsonl")


def verdict(*arguments: str | Path) -> tuple[str, dict[str, str]]:
    """Whether a run would accept, and what speaks against it."""
    output = run("info", *arguments)
    said, *lines = output[output.index("accepted by run") :].splitlines()
    return said[26:], {line[:26].strip(): line[26:] for line in lines}


def test_info_says_whether_a_run_would_accept(tmp_path: Path) -> None:
    tokens = np.random.default_rng(0).integers(0, 1024, (50, 97))
    np.save(tmp_path / "a.npy", tokens)
    said, against = verdict(tmp_path / "a.npy")
    assert said.startswith("yes, as far as can be told; not checked: training order, sequence count")
    assert against == {}
    said, against = verdict(tmp_path / "a.npy", "--context", "70")
    assert said.startswith("no")
    assert list(against) == ["window fits"]
    said, against = verdict(tmp_path / "a.npy", "--suite", "mini")  # its weights tell the vocabulary
    assert said == "no for suite mini: it would refuse them"
    assert list(against) == ["sequence count"]
    np.save(tmp_path / "b.npy", np.minimum(tokens, 900) + 1000)
    assert list(verdict(tmp_path / "b.npy", "--suite", "mini")[1]) == ["sequence count", "token ids"]
    assert verdict("--suite", "mini") == ("yes for suite mini", {})


def test_another_column_is_named(tmp_path: Path) -> None:
    tokens = [list(range(i, i + 40)) for i in range(5)]
    pq.write_table(pa.table({"ids": tokens, "mask": [[1] * 40] * 5}), tmp_path / "a.parquet")
    with pytest.raises(BadInput, match="--tokens-column"):
        run("info", tmp_path / "a.parquet")
    shown = run("show", tmp_path / "a.parquet", "--tokens-column", "ids", "--ids", "3", "--context", "2")
    assert "  context       3 4\n" in shown
    run("pack", tmp_path / "a.parquet", "--tokens-column", "ids", "-o", tmp_path / "pack", "--context", "2")
    assert "  context       3 4\n" in run("show", tmp_path / "pack", "--ids", "3", "--context", "2")
    said, against = verdict(tmp_path / "a.parquet", "--tokens-column", "mask", "--context", "2")
    assert said.startswith("no")
    assert "as in a mask" in against["token content"]


SUITE = """
name = "s"
batch_size = 1
sequence_length = 40
eos = "allow"
eos_token_id = 0
steps = [1]
sequences = {{ trained = 7{more} }}
[[models]]
name = "m"
parameters = 1
parameters_without_embeddings = 1
folder = "m/{{step}}"
"""


def test_a_suite_says_where_its_sequences_are(rows: Path, tokenizer: Path) -> None:
    suite = rows.parent / "suite.toml"
    suite.write_text(SUITE.format(more=', path = "a.npy", tokenizer = "tokenizer.json"').replace("{{", "{"))
    assert "w100 w101" in run("show", "--suite", suite, "--ids", "1", "--context", "2")
    assert f"path                      {rows.resolve()}\n" in run("info", "--suite", suite)
    suite.write_text(SUITE.format(more=""))
    with pytest.raises(BadInput, match="doesn't say where"):
        run("info", "--suite", suite)
    with pytest.raises(BadInput, match="either a PATH or --suite"):
        run("info")
