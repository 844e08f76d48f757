"""What architecture.md and CONTRIBUTING.md name exists: files, modules, links."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs/architecture.md", ROOT / "CONTRIBUTING.md"]
LINKING = [*PAGES, ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]

PATH = re.compile(r"`(\.?[\w.-]+(?:/[\w.-]+)+/?)`")
MODULE = re.compile(r"`(memoserve(?:\.\w+)+)`")
LINK = re.compile(r"\]\((?!https?:)([^)\s]+)\)")
MADE = re.compile(r"Files: .*?\n\n", re.DOTALL)
FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def new_in(text: str) -> set[str]:
    """The files that a recipe makes, and that are not there before it."""
    return {path for files in MADE.findall(text) for path in re.findall(r"`([^`]+)` \(new\)", files)}


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or an attribute of one."""
    try:
        if importlib.util.find_spec(name) is not None:
            return True
    except ModuleNotFoundError:
        pass
    module, _, member = name.rpartition(".")
    return hasattr(importlib.import_module(module), member)


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)", FENCED.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_paths_and_modules_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    paths = {path for path in PATH.findall(text) if "NAME" not in path} - new_in(text)
    modules = set(MODULE.findall(text))
    assert len(paths) > 10
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []
    assert [name for name in sorted(modules) if not exists(name)] == []


def test_the_floors_are_those_of_the_package() -> None:
    (diagram,) = re.findall(r"## Floors\n.*?```\n(.*?)```", PAGES[0].read_text(), re.DOTALL)
    rows = (re.split(r"\s{3,}", line)[0] for line in diagram.splitlines() if not line.startswith("-"))
    named = [name for row in rows for name in re.split(r"\W+", row) if name]
    there = {file.stem for file in (ROOT / "memoserve").iterdir() if file.suffix in ("", ".py")}
    assert sorted(named) == sorted(name for name in there if not name.startswith("__"))


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCED.sub("", page.read_text())):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link
