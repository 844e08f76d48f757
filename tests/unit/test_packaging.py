"""What is installed: how quickly it starts, what it needs, what depends on what, and what ships."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "memoserve"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENGINES = {"torch", "vllm", "transformers"}
PINNED = ("cpu", "dev", "ray", "report", "serve")
SERVING = {"anyio", "cachetools", "fastapi", "h11", "jinja2", "sse_starlette", "starlette", "uvicorn"}

# Each may import what stands before it. The first line is the ground, which knows nothing of the others.
ORDER = (
    *("errors", "terminal", "checks", "domain", "files"),
    *("suites", "sequences", "engines", "store"),
    *(
        "run",
        "features",
        "imports",
        "queries",
        "catalog",
        "recommend",
        "forecast",
        "memorized",
        "report",
        "api",
        "serve",
        "cli",
    ),
)
ALONE = ("suites", "sequences", "engines", "store")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def imports_of(file: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} imports relatively"
            for name in node.names if node.module == "memoserve" else ():
                yield f"memoserve.{name.name}"
            yield node.module or ""


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


# Starting


def test_the_command_line_starts_without_its_heavy_parts() -> None:
    heavy = sorted(ENGINES | {"numpy", "pyarrow", "duckdb", "pydantic", "fsspec", "tokenizers"})
    result = python(f"import sys, memoserve.cli; print([m for m in {heavy} if m in sys.modules])")
    assert result.stdout == "[]\n", result.stderr


def test_the_command_line_is_imported_in_well_under_a_second() -> None:
    seconds = "import resource; print(sum(resource.getrusage(resource.RUSAGE_SELF)[:2]))"
    bare = min(float(python(seconds).stdout) for _ in range(3))
    loaded = min(float(python(f"import memoserve.cli; {seconds}").stdout) for _ in range(3))
    assert 0 < loaded - bare < 0.5  # processor time, so that a busy machine doesn't count


@pytest.mark.parametrize(
    "command", [("--help",), ("suite", "list"), ("suite", "show", "pythia"), ("query", "--list")]
)
def test_what_needs_no_engine_runs_where_none_is_installed(command: tuple[str, ...]) -> None:
    code = f"""
import sys
for name in {sorted(ENGINES)}:
    sys.modules[name] = None  # importing it fails
from memoserve.cli import main
sys.argv = ["memoserve", *{command}]
main()
"""
    result = python(code)
    assert result.returncode == 0, result.stderr
    assert result.stdout


# Depending


def test_only_engines_import_an_engine() -> None:
    found = {
        file.relative_to(PACKAGE).parts[0]
        for file in modules()
        for name in imports_of(file)
        if name.partition(".")[0] in ENGINES
    }
    assert found == {"engines"}


def packages_of(file: Path) -> set[str]:
    """The packages and modules at the top of memoserve that a file imports, but for its own."""
    parts = (name.split(".") for name in imports_of(file))
    found = {part[1] for part in parts if part[0] == "memoserve" and len(part) > 1}
    return found - {place_of(file), "__version__"}


def place_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def test_imports_go_down_only() -> None:
    wrong = []
    for file in modules():
        place = place_of(file)
        if place == "__main__":
            assert packages_of(file) == {"cli"}
        elif place == "__init__":
            assert packages_of(file) == {"api"}  # when it is asked for
        else:
            assert place in ORDER, f"{place} is new: say in ORDER what it stands on"
            above = packages_of(file) - set(ORDER[: ORDER.index(place)])
            wrong += [f"{file.relative_to(ROOT)} imports {name}" for name in above]
    assert wrong == []


def test_suites_sequences_engines_and_store_know_nothing_of_each_other() -> None:
    ground = set(ORDER[: ORDER.index(ALONE[0])])
    for file in modules():
        if place_of(file) in ALONE:
            assert packages_of(file) <= ground, file


def test_run_alone_brings_suites_sequences_engines_and_store_together() -> None:
    together = {
        str(file.relative_to(PACKAGE))
        for file in modules()
        if place_of(file) != "run" and set(ALONE) <= packages_of(file)
    }
    assert together == set()


def test_who_reads_a_store_asks_the_store_and_not_its_files() -> None:
    """Its files are the business of memoserve.store, files of their own that of memoserve.files."""
    for file in modules():
        if place_of(file) in ("queries", "recommend", "forecast", "memorized", "report", "serve"):
            inner = {name for name in imports_of(file) if name.startswith("memoserve.store.")}
            assert inner == set(), file


def test_every_import_is_declared() -> None:
    """Of the core: an import of something that only the extras bring would fail without them."""
    declared = {Requirement(line).name for line in PROJECT["dependencies"]}
    optional = {
        "engines": ENGINES | {"safetensors"},
        "queries": {"pandas", "polars"},  # to convert to what the user has
        "recommend": {"scipy"},
        "forecast": {"sklearn"},
        "report": {"jinja2", "markupsafe", "vl_convert"},
        "run": {"IPython", "ray"},
        "serve": SERVING,
    }
    for file in modules():
        package = file.relative_to(PACKAGE).parts[0]
        for name in imports_of(file):
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names | declared | {"memoserve"}:
                assert top in optional.get(package, set()), (
                    f"{file} imports {name}, which pyproject.toml doesn't declare"
                )


def test_pins_agree_with_what_is_declared() -> None:
    lines = [
        line
        for line in (ROOT / "constraints-cpu.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    pins = {}
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+]+", line), line
        name, _, pinned = line.partition("==")
        pins[name.lower().replace("_", "-")] = pinned
    assert len(pins) == len(lines)
    assert lines == sorted(lines, key=str.lower)
    extras = PROJECT["optional-dependencies"]
    for line in [*PROJECT["dependencies"], *(one for name in PINNED for one in extras[name])]:
        needed = Requirement(line)
        assert needed.specifier.contains(pins[needed.name.lower().replace("_", "-")]), line
    assert pins["torch"].endswith("+cpu")
    assert not [name for name in pins if "nvidia" in name or "cuda" in name]


# Shipping


def test_a_checkout_uses_its_own_query_files() -> None:
    code = "from memoserve.queries import list_queries; print(*{str(q.path.parent) for q in list_queries()})"
    assert python(code).stdout.strip() == str(ROOT / "queries")


def test_the_wheel_has_all_that_ships(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    (wheel,) = tmp_path.iterdir()
    packed = set(zipfile.ZipFile(wheel).namelist())
    listed = subprocess.run(
        ["git", "ls-files", "memoserve", "queries"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    expected = {re.sub("^queries/", "memoserve/queries/sql/", name) for name in listed}
    assert "memoserve/py.typed" in expected
    assert any(name.endswith("model.safetensors") for name in expected)
    assert expected <= packed
    wheel_version = wheel.name.split("-")[1]
    assert wheel_version == version("memoserve")


def setup(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts/setup", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )


def test_setup_leaves_a_folder_alone_that_is_no_environment(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    result = setup(MEMOSERVE_VENV=str(tmp_path))
    assert result.returncode == 1
    assert "not a Python environment and not empty" in result.stderr
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("extras", "said"), [("cuda", "memoserve[cuda]"), ("dev", "EXTRAS must contain cpu")]
)
def test_setup_says_what_it_is_not_for(tmp_path: Path, extras: str, said: str) -> None:
    result = setup(extras, MEMOSERVE_VENV=str(tmp_path / "environment"))
    assert result.returncode == 1
    assert said in result.stderr
    assert not (tmp_path / "environment").exists()
