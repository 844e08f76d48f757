"""Plots and the report: every chart over random small stores, and the page in a browser."""

from __future__ import annotations

import base64
import functools
import http.server
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from command_line import Cli
from random_stores import random_world, toy_suite

from memoserve.catalog import Catalog
from memoserve.errors import BadInput
from memoserve.memorized import Piece
from memoserve.report import CHARTS, Look, find_chart
from memoserve.report.contents import report
from memoserve.report.grammar import narrow
from memoserve.report.page import page, table
from memoserve.report.render import to_svg
from memoserve.report.rows import ask, models_of
from memoserve.report.sections import ReportText, ReportTexts
from memoserve.store import Store

pytestmark = pytest.mark.thorough

HOSTILE = "</div><script>alert(1)</script><img src=http://evil.example/x onerror=alert(2)>&amp;"


def plain_store(folder: Path, *, models: int, steps: tuple[int, ...], prefix: int | None, mode: str) -> Path:
    """Every score the same: all matched prefixes `prefix` (or, None, the ids' remainders)."""
    suite = toy_suite(
        folder, models=("s", "m", "l")[:models], steps=steps, batch=600, trained=600 * steps[-1]
    )
    store = Store.create(folder / "store")
    store.claim(suite, {"suite": "toy", "mode": mode, "engine": "test", "dtype": "float32"})
    for checkpoint in suite.all_checkpoints():
        ids = np.arange(600 * steps[-1], dtype=np.int64)
        prefixes = (
            np.full(len(ids), prefix or 0, np.uint8) if prefix is not None else (ids % 33).astype(np.uint8)
        )
        masks = ((np.uint64(1) << prefixes.astype(np.uint64)) - np.uint64(1)).astype(np.uint32)
        matches = SimpleNamespace(
            matched_prefix=prefixes,
            match_mask=masks if mode == "score" else None,
            matches=None,
            continuation_ll=-prefixes.astype(np.float32) if mode == "score" else None,
        )
        store.write_scores(checkpoint, 0, len(ids), ids, matches, "weights")
    return Path(store.path)


@pytest.fixture(
    scope="module",
    params=["random score", "random extract", "random imported", "one checkpoint", "nothing memorized",
            "all memorized", "step zero", "extract without matches"],
)  # fmt: skip
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    kind = request.param
    if kind.startswith("random"):
        return random_world(folder, 3 if kind.endswith("imported") else 2, kind.split()[1], loglik=True).path
    return plain_store(
        folder,
        models=1 if kind == "one checkpoint" else 3,
        steps={"one checkpoint": (4,), "step zero": (0, 4)}.get(kind, (2, 4)),
        prefix={"nothing memorized": 0, "extract without matches": 5, "all memorized": 32}.get(kind),
        mode="extract" if kind.startswith("extract") else "score",
    )


def drawn(store: Path) -> Iterator[tuple[Any, Any, Look]]:
    with Catalog.open(store) as catalog:
        look = Look(models_of(catalog, None))
        for chart in CHARTS:
            yield chart, ask(catalog, chart.query, {}), look


def test_every_chart_is_drawn_or_says_that_there_is_nothing_to_draw(store: Path) -> None:
    import vl_convert

    count = 0
    for chart, answer, look in drawn(store):
        if not chart.drawable(answer.rows):
            with pytest.raises(BadInput, match="nothing to draw"):
                chart.spec(answer.rows, look)
            continue
        for its in (look, narrow(look)):
            spec = chart.spec(answer.rows, its, "subtitle")
            vega = vl_convert.vegalite_to_vega(spec, vl_version="6.1")
            assert vega["marks"]
            count += 1
        # The rows of the query, whole and unchanged.
        assert spec["data"]["values"] == answer.rows
    assert count > 5


def test_every_chart_is_valid_vega_lite(small: Path) -> None:
    import altair

    for chart, answer, look in drawn(small):
        assert set(chart.needs) | set(chart.positive) <= set(answer.columns), chart.name
        if chart.drawable(answer.rows):
            spec = chart.spec(answer.rows, look, "subtitle")
            altair.Chart.from_dict(spec, validate=True)
            assert fields_of(spec) <= names_in(spec), chart.name
        else:
            assert chart.name == "versus_paper"


def fields_of(spec: Any) -> set[str]:
    """The columns that a specification draws: Vega-Lite draws nothing for one that isn't there."""
    if isinstance(spec, list):
        return set().union(*map(fields_of, spec))
    if not isinstance(spec, dict):
        return set()
    own = {spec["field"]} if isinstance(spec.get("field"), str) else set()
    return own.union(*(fields_of(value) for key, value in spec.items() if key not in ("values", "datasets")))


def names_in(spec: Any) -> set[str]:
    """The columns of its data, and those that its transforms make."""
    if isinstance(spec, list):
        return set().union(*map(names_in, spec))
    if not isinstance(spec, dict):
        return set()
    own: set[str] = set()
    if isinstance(rows := spec.get("values"), list):
        own |= {name for row in rows if isinstance(row, dict) for name in row}
    made = spec.get("as")
    own |= {made} if isinstance(made, str) else set(made or [])
    return own.union(*(names_in(value) for key, value in spec.items() if key != "values"))


def test_a_picture_shows_its_rows(tmp_path: Path) -> None:
    """A point for each predictor and measure, at the height of its share."""
    path = plain_store(tmp_path, models=3, steps=(2, 4), prefix=None, mode="score")
    chart = find_chart("predictors")
    with Catalog.open(path) as catalog:
        answer = ask(catalog, chart.query, {})
    svg = to_svg(chart.spec(answer.rows, Look(("s", "m", "l"))))
    rows = [row for row in answer.rows if row["training_flops"] > 0]
    points = re.findall(r'<g class="mark-symbol role-mark[^>]*>(.*?)</g>', svg, re.S)
    assert sum(group.count("<path") for group in points) == 2 * len(rows) > 0
    assert not re.search(r'(href|src)="http', svg)


def test_the_papers_figures_stand_beside_ours() -> None:
    chart = find_chart("versus_paper")
    row = {"model": "70m", "precision": 0.9, "precision_low": 0.8, "precision_high": 0.95,
           "paper_precision": 0.956, "recall_corpus": 0.2, "recall_corpus_low": 0.1,
           "recall_corpus_high": 0.3, "paper_recall": 0.197}  # fmt: skip
    assert "the paper" in to_svg(chart.spec([row], Look(("70m",))))


# The commands


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return plain_store(tmp_path_factory.mktemp("small"), models=3, steps=(2, 4), prefix=None, mode="score")


@pytest.mark.parametrize(
    ("ending", "begins"),
    [("png", b"\x89PNG"), ("svg", b"<svg"), ("pdf", b"%PDF"), ("json", b"{"), ("html", b"<!DOCTYPE html>")],
)
def test_plot_writes_what_the_name_says(
    small: Path, tmp_path: Path, cli: Cli, ending: str, begins: bytes
) -> None:
    cli("plot", "predictors", small, "-o", f"p.{ending}", "--target", "m@4")
    content = (tmp_path / f"p.{ending}").read_bytes()
    assert content.startswith(begins)
    assert [file.name for file in tmp_path.iterdir()] == [f"p.{ending}"]
    if ending == "json":
        spec = json.loads(content)
        assert {row["target"] for row in spec["data"]["values"]} == {"m@4"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("plot", "nonsense", "STORE"), "the plots are predictors, "),
        (("plot", "predictors", "STORE", "-o", "p.gif"), ".png, .svg, .pdf"),
        (("plot", "predictors", "STORE", "--target", "x@1"), "Evaluated: "),
        (("plot", "versus_paper", "STORE"), "nothing to draw"),
        (("report", "STORE", "--only", "nonsense"), "the plots are predictors, "),
        (("report", "STORE", "--target", "x@1"), "x@1"),
    ],
)
def test_what_can_not_be_drawn_is_said(
    small: Path, tmp_path: Path, cli: Cli, arguments: tuple[str, ...], says: str
) -> None:
    result = cli(*(small if word == "STORE" else word for word in arguments), code=3)
    assert says in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_plots_are_listed(cli: Cli) -> None:
    listed = cli("plot", "--list").stdout
    assert all(f"{chart.name} (query {chart.query})" in listed for chart in CHARTS)


def test_without_the_renderer_it_says_what_to_install(small: Path, tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["vl_convert"] = None
from memoserve.cli import main
sys.argv = ["memoserve", "plot", "predictors", {str(small)!r}, "-o", sys.argv[1]]
main()
"""
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "p.png")], capture_output=True, text=True, check=False
    )
    assert said.returncode == 3
    assert "pip install 'memoserve[report]'" in said.stderr
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "p.json")], check=True, capture_output=True)
    assert [file.name for file in tmp_path.iterdir()] == ["p.json"]


# The page


@pytest.fixture(scope="module")
def written(small: Path) -> str:
    hostile = ReportText(7, 3, [Piece(HOSTILE)], [Piece(HOSTILE)])
    with Catalog.open(small) as catalog:
        return report(catalog, Store.open(small), texts=ReportTexts([hostile], redacted=True))


class Checker(HTMLParser):
    """Well-formedness, ids, and what the page would load."""

    VOID = frozenset({"meta", "link", "br", "img"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.headings: list[int] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag and what it refers to."""
        self.tags.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in {"href", "src", "xlink:href", "data", "action"}:
                self.refers.append(value or "")
            if name not in {"aria-label"}:
                self.refers += re.findall(r"url\(['\"]?([^)'\"]*)", value or "")
            assert not name.startswith("on"), (tag, name)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """As a tag that is closed at once."""
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        """Tags close in the order they opened."""
        assert self.open.pop() == tag


def test_the_page_is_whole_loads_nothing_and_runs_nothing(written: str) -> None:
    found = Checker()
    found.feed(written)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert all(one.startswith("#") or one.startswith("data:") for one in found.refers)
    assert {one[1:] for one in found.refers if one.startswith("#")} <= set(found.ids)
    assert "script" not in found.tags
    assert "img" not in found.tags
    assert found.headings[0] == 1
    assert found.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(found.headings, found.headings[1:], strict=False))
    assert found.tags.count("caption") == found.tags.count("table") > 10
    assert found.tags.count("svg") == 2 * found.tags.count("figure") == written.count('role="img"')
    # All but the paper's figures, and what each budget buys.
    assert found.tags.count("figure") == len(CHARTS) - 1 + 1


def test_memorized_text_stays_text(written: str) -> None:
    assert HOSTILE not in written
    assert HOSTILE in unescape(written)
    assert "<script>" not in page(HOSTILE, [table(HOSTILE, [HOSTILE], [[HOSTILE, HOSTILE]])])


def test_the_links_hold_the_rows_and_the_specification(written: str, small: Path) -> None:
    names = re.findall(r'<a download="([^"]+)" href="data:[^;]+;base64,([^"]+)"', written)
    held = {name: base64.b64decode(data).decode() for name, data in names}
    assert json.loads(held["predictors.vl.json"])["$schema"].endswith("/v6.json")
    with Catalog.open(small) as catalog:
        answer = ask(catalog, "predictors", {})
    assert held["predictors.csv"].splitlines()[0] == ",".join(answer.columns)
    assert len(held["predictors.csv"].splitlines()) == len(answer.rows) + 1
    assert "<pre" in written
    assert unescape(written).count(answer.query.sql) >= 2


def test_the_report_of_the_shipped_suite_masks_its_texts(tmp_path: Path, cli: Cli) -> None:
    """Without the sequences it says so instead of failing."""
    path = plain_store(tmp_path / "s", models=2, steps=(2, 4), prefix=None, mode="score")
    cli("report", path, "-o", "r.html", "--only", "counts")
    text = (tmp_path / "r.html").read_text()
    assert "Not shown: " in text
    assert text.count("<figure") == 1


@pytest.mark.parametrize("kind", [{"prefix": 0}, {"prefix": 32}, {"models": 1, "steps": (4,)}])
def test_a_report_of_next_to_nothing(tmp_path: Path, kind: dict[str, Any]) -> None:
    path = plain_store(tmp_path, **{"models": 2, "steps": (2, 4), "prefix": None, "mode": "score", **kind})
    with Catalog.open(path) as catalog:
        text = report(catalog, Store.open(path), only=["predictors", "counts"])
    found = Checker()
    found.feed(text)
    assert "nan" not in text.casefold().replace("mananan", "").split()


def test_an_empty_store_has_no_report(tmp_path: Path) -> None:
    suite = toy_suite(tmp_path)
    store = Store.create(tmp_path / "store")
    store.claim(suite, {"suite": "toy"})
    with Catalog.open(store.path) as catalog, pytest.raises(BadInput, match="no scores"):
        report(catalog, store)


# In a browser


@pytest.fixture(scope="module")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.fail("no Chromium: apt-get install chromium, or leave these out with -m 'not browser'")


MEASURE = """<!DOCTYPE html><title>measure</title><body style="margin:0">
<iframe id="f" src="report.html" style="width:WIDTHpx;height:2000px;border:0"></iframe>
<script>
addEventListener("load", () => {
  const d = document.getElementById("f").contentDocument, e = d.documentElement;
  const seen = [...d.querySelectorAll("figure svg")].filter(s => s.getBoundingClientRect().height > 50);
  const wide = seen.filter(s => s.getBoundingClientRect().right > e.clientWidth + 1).length;
  document.body.dataset.found = JSON.stringify(
    {overflow: e.scrollWidth - e.clientWidth, seen: seen.length, wide});
});
</script>"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_in_a_browser(chromium: str, written: str, tmp_path: Path, width: int) -> None:
    (tmp_path / "report.html").write_text(written)
    (tmp_path / "measure.html").write_text(MEASURE.replace("WIDTH", str(width)))
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form: str, *arguments: Any) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        result = subprocess.run(
            [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
             "--disable-background-networking",
             "--disable-component-update",
             f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,2000",
             "--virtual-time-budget=4000",
             "--dump-dom", f"http://127.0.0.1:{server.server_port}/measure.html"],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
    finally:
        server.shutdown()
    match = re.search(r'data-found="([^"]+)"', result.stdout)
    assert match, result.stdout[:500] + result.stderr[-2000:]
    found = json.loads(unescape(match[1]))
    assert found["overflow"] <= 0
    assert found["wide"] == 0
    assert found["seen"] == len(CHARTS) - 1 + 1
    assert "CONSOLE" not in result.stderr, result.stderr
    assert set(asked) <= {"/measure.html", "/report.html", "/favicon.ico"}
