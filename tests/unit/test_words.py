"""One word for one thing, and the field's: what people read, in help, headers, charts, messages and docs."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from memoserve.queries import list_queries
from memoserve.report.charts.all import CHARTS

ROOT = Path(__file__).parents[2]

# What was said once, and what is said for it now.
WORDS = {
    r"extractib": "extractable; by length: continuation_lengths",
    r"\blanes?\b": "worker",
    r"\brungs?\b": "stage",
    r"as far as it is trained, say": "last checkpoint predicts",
    r"instrument sound": "is the held-out control clean?",
    r"out of the blue": "not predicted by any smaller model",
    r"nobody was warned": "undetected leaks",
    r"where to draw the line": "precision-recall by threshold",
    r"how sure the": "confidence bands",
    r"hang together": "are linked",
    r"rule of support": "extrapolation limits",
    r"took no training compute": "has zero training FLOPs",
    r"what may be spent": "specify --budget, --recall or --grid",
    r"is up after": "ready in",
    r"others go on without": "continuing on other devices",
    r"nothing is missing": "nothing to do: all scores exist",
    r"who may ask": "access control",
    r"isn't known as": "host not allowed",
    r"in the way of the other": "why others are unavailable",
    r"to be forked from": "the fork server was killed",
    r"knew no checksums": "a version without checksums",
    r"nests without": "nested too deeply",
    r"wants its token": "enter the access token",
    r"new data and old": "both new and earlier data",
    r"warns of most": "predicts the most",
    r"has no shape": "free-form identifiers",
    r"by shapes": "finds patterns",
    r"\bwarned of\b": "predicted",
    r"scored of what": "evaluated, of the sequences seen",
    r"how sure is|should the line be drawn": "confidence bands; precision and recall by threshold",
    r"was written as|that knew none": "names a different part; a version without checksums",
}

# These too, where the documentation is concerned.
IN_DOCUMENTATION = {
    r"should the line be|draw the line": "which threshold is best",
    r"smaller model plays": "takes the target's role",
    r"what no smaller model warned of": "not predicted by any smaller model",
    r"(refused|refuse|said|told) in (plain )?words": "with a message",
    r"loads? without a word|read without a word": "without an error",
    r"speaks against": "contradicts",
    r"on no memory": "without allocating it",
    r"second way": "Transformers' forward",
    r"seen to survive": "still matched",
    r"is remembered": "is cached, is kept",
    r"the ladder\.\*\*": "early exit in stages",
}

# And these as parts of names in code.
IN_NAMES = {
    r"said": "message, metadata, mask, reason: what it is",
    r"its": "what it belongs to; _ before a local name of a macro",
    r"lanes?|desk|obituary": "worker, relay, exit message",
    r"rungs?|climbs?|climbed|surviv\w+": "stage, advance, remaining",
    r"fallen": "mismatched",
    r"played|papers": "results, paper_rule",
    r"remembered|harmless": "cached or kept, escaped or allowed",
    r"stretch|stretches": "bucket",
    r"relent|reluctance|gained|extractib\w+": "retry_refused, cost, union_gain, extractable",
}
# Where a Place is a path or URL and what opens it.
STORAGE = (["memoserve", "files"], ["memoserve", "sequences"], ["scripts", "faults.py"])

DOCUMENTATION = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").glob("*.md"))]


def literals(file: Path) -> Iterator[str]:
    """The text in a module but for docstrings: messages, help, headings."""
    tree = ast.parse(file.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    described = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    if "cli" in file.parts:  # there they are the help
        described = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in described:
            yield node.value


def read_by_people() -> Iterator[tuple[str, str]]:
    for query in list_queries():
        yield f"query {query.name}", "\n".join(x for x in query.sql.splitlines() if x.startswith("--"))
    for chart in CHARTS:
        yield f"chart {chart.name}", f"{chart.name} {chart.title} {chart.reading}"
    for file in sorted((ROOT / "memoserve").rglob("*.py")):
        yield str(file.relative_to(ROOT)), "\n".join(literals(file))
    pages = [*(ROOT / "memoserve" / "serve" / "static").rglob("*.js"), *ROOT.glob("memoserve/**/*.html")]
    for file in [*pages, *DOCUMENTATION]:
        if "vendor" not in file.parts:
            yield str(file.relative_to(ROOT)), file.read_text()


@cache
def texts() -> tuple[tuple[str, str], ...]:
    return tuple(read_by_people())


@pytest.mark.parametrize(("word", "instead"), WORDS.items())
def test_nobody_reads(word: str, instead: str) -> None:
    pattern = re.compile(word.replace(" ", r"\s+"), re.IGNORECASE)
    found = [f"{where}: {match[0]}" for where, text in texts() if (match := pattern.search(text))]
    assert not found, f"say {instead!r}"


@pytest.mark.parametrize(("word", "instead"), IN_DOCUMENTATION.items())
def test_nobody_reads_in_the_documentation(word: str, instead: str) -> None:
    pattern = re.compile(word.replace(" ", r"\s+"), re.IGNORECASE)
    pages = ((file.name, file.read_text()) for file in DOCUMENTATION)
    found = [f"{name}: {match[0]}" for name, text in pages if (match := pattern.search(text))]
    assert not found, f"say {instead!r}"


@cache
def names() -> tuple[tuple[str, str], ...]:
    """(file, name) of each name in the package's Python and SQL, and in the scripts."""
    found: set[tuple[str, str]] = set()
    for file in [*(ROOT / "memoserve").rglob("*.py"), *(ROOT / "scripts").rglob("*.py")]:
        with tokenize.open(file) as source:
            tokens = tokenize.generate_tokens(source.readline)
            found |= {
                (str(file.relative_to(ROOT)), one.string) for one in tokens if one.type == tokenize.NAME
            }
    for file in [*(ROOT / "memoserve").rglob("*.sql"), *(ROOT / "queries").glob("*.sql")]:
        code = re.sub(r"--[^\n]*|'(?:[^']|'')*'", " ", file.read_text())
        found |= {(str(file.relative_to(ROOT)), name) for name in re.findall(r"[^\W\d]\w*", code)}
    return tuple(sorted(found))


def parts(name: str) -> list[str]:
    """The words of a name: `its_first`, `ItsFirst` and `ITS_FIRST` are its and first."""
    return [one.lower() for one in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)]


@pytest.mark.parametrize(("word", "instead"), IN_NAMES.items())
def test_no_name_has(word: str, instead: str) -> None:
    pattern = re.compile(word)
    found = [f"{file}: {name}" for file, name in names() if any(map(pattern.fullmatch, parts(name)))]
    assert not found, f"say {instead!r}"


def test_a_place_is_where_files_are() -> None:
    found = [
        f"{file}: {name}"
        for file, name in names()
        if name in {"place", "places", "_place", "_places"} and file.split("/")[:2] not in STORAGE
    ]
    assert not found, "say 'index', 'position', 'rank', 'folder' or 'path'"
