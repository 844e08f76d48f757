"""What a shell offers when TAB is pressed, asked as the shells ask it."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from memoserve.cli.completion import _joined

QUERIES = Path(__file__).parents[2] / "queries"


@pytest.fixture
def here(tmp_path: Path) -> Path:
    """A folder with a store, of which completion reads the names of folders alone, and memoserve on PATH."""
    for model, step in (("116k", 301), ("116k", 1001), ("1.2m", 161)):
        (tmp_path / f"memoserve-out/scores/suite=mini/model={model}/step={step}").mkdir(parents=True)
    (tmp_path / "other/scores/suite=pythia/model=70m/step=512").mkdir(parents=True)
    program = tmp_path / "bin/memoserve"
    program.parent.mkdir()
    program.write_text(f"#!{sys.executable}\nfrom memoserve.cli import main\nmain()\n")
    program.chmod(0o755)
    return tmp_path


def asked(here: Path, script: str, **environment: str) -> str:
    """What a script of bash prints."""
    path = f"{here}/bin{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=here, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, "HOME": str(here), **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def offered(here: Path, *words: str) -> list[str]:
    """For the last word of a line, as zsh asks."""
    line = shlex.join(["memoserve", *words[:-1]]) + " " + words[-1]
    answer = asked(here, "memoserve", _MEMOSERVE_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=line)
    items = answer.partition("((")[2].rpartition("))")[0]
    return [shlex.split(one)[0].partition(":")[0] for one in items.splitlines()]


def bash_offered(here: Path, *words: str) -> list[str]:
    """The same by the function that memoserve gives to bash, with words as bash breaks them."""
    line = " ".join(map(shlex.quote, ("memoserve", *words)))
    return asked(
        here,
        f'eval "$(memoserve --show-completion bash)"; COMP_WORDS=({line}); COMP_CWORD={len(words)}\n'
        '_memoserve_completion memoserve; printf "%s\\n" "${COMPREPLY[@]}"',
    ).split()


def test_queries_their_parameters_and_what_these_take(here: Path) -> None:
    queries = sorted(file.stem for file in QUERIES.glob("*.sql"))
    assert set(queries) <= set(offered(here, "query", ""))
    assert offered(here, "query", "predictors_") == ["predictors_vs_paper"]
    assert offered(here, "query", "predictors", "--t") == ["--target"]
    assert offered(here, "query", "predictors", "--target", "") == ["1.2m@161", "116k@301", "116k@1001"]
    assert offered(here, "query", "predictors", "other", "--target", "") == ["70m@512"]
    assert offered(here, "query", "predictors", "--suite", "") == ["mini"]
    assert offered(here, "query", "predictors", "--format", "") == [
        "table",
        "csv",
        "json",
        "parquet",
        "markdown",
    ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("run", "--engine", ""), ["vllm", "transformers"]),
        (("run", "--suite", "py"), ["pythia", "pythia-deduped"]),
        (("run", "--mode", ""), ["score", "extract"]),
        (("run", "--checkpoints", "f"), ["final"]),
        (("run", "--checkpoints", "all,28"), ["all,281k@"]),
        (("run", "--suite", "pythia", "--checkpoints", "12b@14300"), ["12b@143000"]),
        (("run", "--suite", "no-such", "--checkpoints", ""), []),
        (("suite", "show", "mi"), ["mini"]),
        (("show", "--target", "116k@3"), ["116k@301"]),
        (("show", "other", "--target", ""), ["70m@512"]),
        (("show", "s3://bucket/store", "--target", ""), []),
        (("recommend", "--target", "1.2"), ["1.2m@161"]),
        (("export", "--predictor", "1.2"), ["1.2m@161"]),
        (("plot", "versus"), ["versus_paper"]),
        (("report", "--suite", ""), ["mini"]),
        (("import", "csv", "--suite", "pythia-"), ["pythia-deduped"]),
    ],
)  # fmt: skip
def test_names(here: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(here, *words) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("query", "predictors", "--target", "1"), ["1.2m@161", "116k@301", "116k@1001"]),
        # Bash breaks words at @, and replaces the last part with the @ before it.
        (("query", "predictors", "--target", "116k", "@"), ["@301", "@1001"]),
        (("query", "predictors", "--target", "116k", "@", "3"), ["@301"]),
        (("run", "--checkpoints", "116k", "@", "161,281k", "@", "44"), ["@441"]),
        (("run", "--checkpoints", "116k@161,28"), ["116k@161,281k@"]),
        (("run", "--checkpoints", "116k", "@", "161", "--engine", "v"), ["vllm"]),
        (("query", "pre"), ["predictors", "predictors_vs_paper"]),
    ],
)
def test_bash(here: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert bash_offered(here, *words) == expected


def test_words_around_an_at_are_one() -> None:
    assert _joined(["a", "b", "@", "1,c", "@"], 4) == (["a", "b@1,c@"], 1, 5)
    assert _joined(["a", "b", "@", "1", "c"], 3) == (["a", "b@1", "c"], 1, 1)
    assert _joined(["a", "b", "@", "1", "c"], 4) == (["a", "b@1", "c"], 2, 0)
    assert _joined(["a"], 1) == (["a", ""], 1, 0)
    assert _joined(["@"], 0) == (["@"], 0, 0)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_it_is_installed_for_the_shell_that_asks(here: Path) -> None:
    said = asked(here, "memoserve --install-completion bash; true")
    assert "bash completion installed" in said
    (script,) = (here / ".bash_completions").glob("*.sh")
    assert f"source '{script}'" in (here / ".bashrc").read_text()
    answer = asked(here, f"source {script}; complete -p memoserve")
    assert "_memoserve_completion memoserve" in answer


@pytest.mark.parametrize(
    "words",
    [("query", ""), ("query", "predictors", "--target", ""), ("run", "--engine", ""), ("plot", "")],
)
def test_it_is_quick(here: Path, words: tuple[str, ...]) -> None:
    """0.2 to 0.3 s of a processor's time where nothing else runs, as it imports nothing large."""
    line = shlex.join(["memoserve", *words[:-1]]) + " " + words[-1]
    asking = {"_MEMOSERVE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line}
    imported = asked(here, "memoserve 2>&1 >/dev/null", **asking, PYTHONPROFILEIMPORTTIME="1")
    names = {one.rpartition("|")[2].strip().partition(".")[0] for one in imported.splitlines()}
    assert "memoserve" in names
    assert not names & {"torch", "vllm", "transformers", "duckdb", "pyarrow", "tokenizers", "huggingface_hub"}
    taken = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert offered(here, *words)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(taken) < 1.0, taken
