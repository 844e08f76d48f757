"""The dashboard in a headless Chromium, served by a real `memoserve serve`."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import httpx
import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from command_line import command
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, expect, sync_playwright

from memoserve.sequences import open_sequences
from memoserve.serve.jobs.queue import Queue
from memoserve.store import Store
from memoserve.suites import Suite, load_suite

pytestmark = [pytest.mark.browser, pytest.mark.thorough]

Scheme = Literal["light", "dark"]
PAGES = ("overview", "predictors", "budget", "correlation", "distribution", "texts", "sql?query=counts")
TARGET = "1.2m@1001"
HOSTILE = "<img src=x onerror=\"window.pwned=1\"><script>window.pwned=1</script><b>bold</b> &amp; 'quoted' "
HOSTILE_MODEL = "b<img src><b>bold"


# What is served


def write_suite(store: Store, suite: Suite, path: str, models: int, count: int, **about: str) -> None:
    """Made-up scores of the suite's first `count` sequences; the larger the model, the more is memorized."""
    source = open_sequences(path, str(suite.sequences.tokenizer))
    windows = [tuple(row) for row in source.read(0, count, 64).tolist()]
    numbers = {window: place for place, window in enumerate(dict.fromkeys(windows))}
    identity = {f"sequences_{key}": value for key, value in source.identity().items()}
    store.claim(suite, {"suite": suite.name, "context": 32, "mode": "score", **identity, **about})
    ids = np.arange(count)
    store.write_sequences(suite.name, 0, count, ids, np.array([numbers[one] for one in windows]))
    hardness = np.random.default_rng(7).random(len(numbers))
    for checkpoint in suite.all_checkpoints():
        if checkpoint.model.order >= models:
            continue
        rng = np.random.default_rng(checkpoint.step)
        strength = (0.2 + 0.15 * checkpoint.model.order) * checkpoint.step / suite.steps[-1]
        noise = rng.normal(0, 0.05, len(numbers))
        full = hardness + noise < strength
        masks = np.where(full, 2**32 - 1, rng.integers(0, 2**31, len(numbers))).astype(np.uint32)
        mine = masks[[numbers[one] for one in windows]]
        prefixes = [next((i for i in range(32) if not int(mask) >> i & 1), 32) for mask in mine]
        store.write_scores(
            checkpoint, 0, count, ids,
            SimpleNamespace(
                matched_prefix=np.array(prefixes, np.uint8),
                match_mask=mine,
                continuation_ll=-np.array([32 - p for p in prefixes], np.float32),
            ),
            "weights",
        )  # fmt: skip


def hostile_suite(folder: Path, tokenizer: str) -> tuple[Suite, str]:
    """A suite whose every sequence is an attack on the page that shows it."""
    folder.mkdir()
    data = folder / "hostile.jsonl"
    data.write_text("".join(json.dumps({"text": f"{n} {HOSTILE * 4}"}) + "\n" for n in range(40)))
    file = folder / "zz-hostile.toml"
    file.write_text(
        'name = "zz-hostile"\nbatch_size = 40\nsequence_length = 64\neos = "allow"\neos_token_id = 0\n'
        f'steps = [1]\n[sequences]\npath = "{data}"\ntokenizer = "{tokenizer}"\ntrained = 40\n'
        '[[models]]\nname = "a"\nparameters = 10\nparameters_without_embeddings = 5\nfolder = "a/{step}"\n'
        '[[models]]\nname = "b"\nparameters = 20\nparameters_without_embeddings = 9\nfolder = "b/{step}"\n'
    )
    # Of a store that somebody else made: no suite file may name a model so.
    suite = load_suite(file)
    small, large = suite.table.models
    models = [small, large.model_copy(update={"name": HOSTILE_MODEL})]
    return replace(suite, table=suite.table.model_copy(update={"models": models})), str(data)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory, mini: Suite) -> Path:
    """A store of made-up scores of mini, with its texts, and of hostile texts."""
    folder = tmp_path_factory.mktemp("dashboard")
    store = Store.create(folder / "store")
    write_suite(store, mini, str(mini.sequences.path), 4, 3000, engine="synthetic")
    suite, data = hostile_suite(folder / "suites", str(mini.sequences.tokenizer))
    write_suite(store, suite, data, 2, 40, engine="synthetic", note=HOSTILE)
    return folder


class Server:
    """A running `memoserve serve`."""

    def __init__(self, store: Path, *options: str | Path) -> None:
        self.process = subprocess.Popen(
            command("serve", store, "--port", "0", *options),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
        assert self.process.stdout is not None
        said = []
        for line in self.process.stdout:
            said.append(line)
            if found := re.search(r"http://\S+", line):
                self.url = found[0].rstrip("/")
                return
        pytest.fail("".join(said))

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(30)
        assert self.process.stdout is not None
        assert "Traceback" not in self.process.stdout.read()


@pytest.fixture(scope="module")
def served(made_up: Path) -> Iterator[str]:
    server = Server(made_up / "store", "--suites", made_up / "suites", "--read-only")
    yield server.url
    server.stop()


# The browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.fail("no Chromium: apt-get install chromium, or leave these out with -m 'not browser'")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


class Tab:
    """A page of the dashboard; what the console says and whom it asks is kept."""

    def __init__(self, browser: Browser, url: str, width: int = 1280, scheme: Scheme = "light") -> None:
        self.url = url
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
        )
        self.page: Page = self.context.new_page()
        self.wrong: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", self._failed)
        self.page.on("request", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.wrong.append(message.text)

    def _failed(self, error: Error) -> None:
        self.wrong.append(str(error))

    def _asked(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", "blob:", "data:")):
            self.wrong.append(f"foreign request: {request.url}")

    def go(self, address: str) -> Page:
        """Open #/`address` and wait until nothing loads."""
        self.page.goto("about:blank")
        self.page.goto(f"{self.url}/#/{address}")
        self.rest()
        return self.page

    def rest(self) -> None:
        """Wait until nothing loads."""
        expect(self.page.locator("main h1")).to_be_visible()
        self.page.wait_for_selector("[aria-busy=true]", state="detached")


@pytest.fixture
def tab(browser: Browser, served: str) -> Iterator[Tab]:
    tab = Tab(browser, served)
    yield tab
    tab.context.close()
    assert tab.wrong == []


def width_over(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


# Every page, as it looks


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "light"), (390, "dark")])
def test_every_page_fits_and_asks_nobody_else(
    browser: Browser, served: str, width: int, scheme: Scheme
) -> None:
    """And has the files of its pictures; and axe finds nothing."""
    tab = Tab(browser, served, width, scheme)
    for name in PAGES:
        page = tab.go(name)
        assert width_over(page) <= 0, name
        pictures = page.locator(".picture:visible svg")
        if name not in {"texts"}:
            expect(pictures.first).to_be_visible()
        for picture in pictures.all():
            box = picture.bounding_box()
            assert box is not None
            assert box["x"] + box["width"] <= width + 1, name
            assert picture.locator("path").count() > 3, name
        ground = page.evaluate("getComputedStyle(document.querySelector('.content')).backgroundColor")
        light = sum(map(int, re.findall(r"\d+", ground)[:3])) > 384
        assert light == (scheme == "light"), ground
        if width == 1280:
            has_the_files_of_its_pictures(page, name)
        if (width, scheme) in {(1280, "light"), (390, "dark")}:
            found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
            said = [(one["id"], one["nodes"][0]["html"][:200], len(one["nodes"])) for one in found]
            assert said == [], name
    tab.context.close()
    assert tab.wrong == []


def has_the_files_of_its_pictures(page: Page, name: str) -> None:
    for figure in page.locator("figure:visible").all():
        expect(figure.locator(".picture svg")).to_be_visible()
        kinds = figure.locator(".files a, .files button").all_inner_texts()
        # On the SQL page data and SQL are the answer's, above its chart.
        wanted = ["SVG", "PNG"] if name.startswith("sql") else ["SVG", "PNG", "CSV", "SQL"]
        assert kinds[: len(wanted)] == wanted, name
    if name == PAGES[-1]:
        files = page.locator(".files").first.locator("a, button").all_inner_texts()
        assert files == ["CSV", "SQL"]


# What the pages do


def test_predictors_are_those_of_the_query(tab: Tab) -> None:
    page = tab.go("predictors?unit=windows")
    rows = httpx.get(f"{tab.url}/api/queries/predictors", timeout=60).json()
    names = [column["name"] for column in rows["columns"]]
    wanted = [dict(zip(names, row, strict=True)) for row in rows["rows"]]
    wanted = [row for row in wanted if row["unit"] == "windows"]
    table = page.get_by_role("region", name="Predictors of 1.2m@1001, in windows")
    shown = [row.inner_text().split("\t") for row in table.locator("tbody tr").all()]
    assert [row[0].strip() for row in shown] == [row["predictor"] for row in wanted]
    for row, its in zip(shown, wanted, strict=True):
        assert row[3].split("\n")[0].strip() == f"{its['recall_corpus']:.1%}"
        low, high = re.findall(r"[\d.]+%", row[3])[1:]
        assert float(low[:-1]) < its["recall_corpus"] * 100 < float(high[:-1])
    # Sorting by a head, there and back.
    table.get_by_role("button", name="Recall", exact=True).click()
    recalls = [row["recall_corpus"] for row in wanted]
    best = wanted[recalls.index(max(recalls))]["predictor"]
    expect(table.locator("tbody th").first).to_have_text(best)
    table.get_by_role("button", name="Recall", exact=True).click()
    expect(table.locator("tbody th").last).to_have_text(best)
    # Another target is another answer.
    page.get_by_label("Target", exact=True).select_option("532k@581")
    tab.rest()
    expect(page.get_by_role("region", name="Predictors of 532k@581, in windows")).to_be_visible()
    assert "target=532k%40581" in page.url


def test_the_slider_moves_the_line_and_the_recommendation(tab: Tab) -> None:
    page = tab.go("budget?budget=50%25")
    slider = page.get_by_label("Budget", exact=True)
    advice = page.locator("section", has=page.get_by_role("heading", name="Recommendation"))
    line = page.locator(".picture svg g.mark-rule line").last
    before, at = advice.inner_text(), line.bounding_box()
    said = httpx.get(f"{tab.url}/api/recommend", params={"budget": "50%"}, timeout=60).json()["sentences"]
    assert said[0] in before
    slider.focus()
    for _ in range(40):
        page.keyboard.press("ArrowLeft")
    expect(page).to_have_url(re.compile(r"budget=20%25"))
    tab.rest()
    assert slider.get_attribute("aria-valuetext", timeout=1000).startswith("20.0% of the target")  # type: ignore[union-attr]
    moved = line.bounding_box()
    assert at is not None
    assert moved is not None
    assert moved["x"] < at["x"] - 20
    assert page.evaluate("document.activeElement.id") == "budget"
    expect(advice).not_to_have_text(before)
    assert "Doubling the budget" in advice.inner_text()


def test_links_lead_to_what_they_say(tab: Tab) -> None:
    page = tab.go("texts?target=532k%401001&predictor=116k%40721&cell=miss&search=def")
    expect(page.get_by_label("Target", exact=True)).to_have_value("532k@1001")
    expect(page.get_by_label("Predictor", exact=True)).to_have_value("116k@721")
    expect(page.get_by_role("radio", name="Misses")).to_be_checked()
    expect(page.get_by_label("Search in the text")).to_have_value("def")
    for text in page.locator(".both").all_inner_texts():
        assert "def" in text.lower()
    page.get_by_role("link", name="Predictors").click()
    tab.rest()
    expect(page.get_by_label("Target", exact=True)).to_have_value("532k@1001")
    expect(page).to_have_title("Predictors · memoserve")
    page.go_back()
    tab.rest()
    expect(page.get_by_label("Search in the text")).to_have_value("def")
    tab.go("correlation?kind=checkpoint_correlation&model=281k&unit=windows")
    expect(page.get_by_label("Model", exact=True)).to_have_value("281k")
    expect(page.get_by_role("heading", name="Does a model agree with itself")).to_be_visible()
    tab.go("nonsense")
    expect(page.locator("h1")).to_have_text("Overview")


def test_texts_by_cell_page_and_search(tab: Tab) -> None:
    page = tab.go("texts?cell=false_alarm&predictor=532k%401001&target=1.2m%40721")
    expect(page.locator(".texts > li").first).to_contain_text("false alarm")
    # A false alarm's continuation is not the target's own: some tokens are marked.
    assert page.locator(".texts mark").count() > 0
    page = tab.go("texts")
    first = page.locator(".texts > li").first.inner_text()
    page.get_by_role("button", name="Next").click()
    tab.rest()
    expect(page.locator(".texts > li").first).not_to_have_text(first)
    page.get_by_label("Search in the text").fill("no such text anywhere")
    page.keyboard.press("Enter")
    expect(page.get_by_text("No text holds that.")).to_be_visible()


def test_hostile_text_is_text(tab: Tab) -> None:
    page = tab.go("texts?suite=zz-hostile&open=true")
    expect(page.locator(".texts > li").first).to_contain_text("<img src=x onerror=")
    hostile = HOSTILE.strip().replace("'", "''")
    query = (
        f"SELECT '{hostile}' AS \"{HOSTILE.strip().replace(chr(34), '')}\", 1 AS n UNION ALL SELECT 'x', 2"
    )
    page.goto("about:blank")
    page.goto(f"{tab.url}/#/sql?" + str(httpx.QueryParams({"sql": query, "run": "1"})))
    tab.rest()
    expect(page.locator("table")).to_contain_text("<script>window.pwned=1</script>")
    expect(page.locator(".picture svg")).to_be_visible()
    assert page.evaluate("window.pwned") is None
    assert page.locator("main img, main script, main b:text-is('bold')").count() == 0
    for name in ("overview", "predictors", "budget", "correlation", "distribution", "texts", "sql"):
        query = "counts&suite=zz-hostile" if name == "sql" else ""
        page = tab.go(f"{name}?suite=zz-hostile" + (f"&query={query}" if query else ""))
        marks = page.locator(".picture:visible svg .mark-symbol path, .picture:visible svg .mark-rect path")
        for mark in marks.all()[:4]:
            mark.hover(force=True)  # what a tooltip quotes
        assert page.evaluate("window.pwned") is None, name
        assert page.locator("main img, main script, main b:text-is('bold')").count() == 0, name
        if name in {"overview", "predictors", "sql"}:
            expect(page.locator("table", has_text=HOSTILE_MODEL).first).to_be_visible()


def test_sql_with_the_keyboard(tab: Tab, tmp_path: Path) -> None:
    page = tab.go("sql")
    editor = page.get_by_label("SQL", exact=True)
    editor.fill("SELECT model, count(*) AS n FROM memorized\nWHERE suite = 'mini' GROUP BY ALL ORDER BY n")
    editor.press("Control+Enter")
    tab.rest()
    answer = page.get_by_role("region", name="4 rows")
    counts = [
        int(row.inner_text().split("\t")[1].replace(",", "")) for row in answer.locator("tbody tr").all()
    ]
    assert counts == sorted(counts)
    assert counts[0] > 0
    expect(page.locator(".picture svg")).to_be_visible()
    with page.expect_download() as got:
        page.get_by_role("button", name="CSV").click()
    got.value.save_as(tmp_path / "answer.csv")
    with (tmp_path / "answer.csv").open(newline="") as file:
        assert [int(row["n"]) for row in csv.DictReader(file)] == counts
    # Comment out the last line, and back; Enter keeps the indentation; Tab leaves.
    editor.press("Control+End")
    editor.press("Control+/")
    assert editor.input_value().splitlines()[1].startswith("-- WHERE")
    editor.press("Control+/")
    editor.fill("SELECT 1,\n    2")
    editor.press("Control+End")
    editor.press("Enter")
    assert editor.input_value() == "SELECT 1,\n    2\n    "
    editor.press("Tab")
    expect(page.get_by_role("button", name="Run", exact=True)).to_be_focused()
    page.get_by_label("Start from").select_option("emergent_counts")
    tab.rest()
    page.get_by_label("thresholds", exact=True).fill("8, 16")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("thresholds=8"))
    tab.rest()
    wanted = httpx.get(
        f"{tab.url}/api/queries/emergent_counts", params={"thresholds": "8,16"}, timeout=60
    ).json()
    expect(page.get_by_role("region", name=f"{len(wanted['rows'])} rows")).to_be_visible()
    page.get_by_text("What it does, and its SQL").click()
    page.get_by_role("button", name="Edit as SQL of my own").click()
    head = next(line for line in wanted["sql"].splitlines() if line.startswith("--"))
    assert editor.input_value().startswith("SET VARIABLE thresholds = [8, 16];\n")
    assert head in editor.input_value()
    editor.press("Control+Enter")
    tab.rest()
    expect(page.get_by_role("region", name=f"{len(wanted['rows'])} rows")).to_be_visible()


def test_sql_that_is_wrong_is_answered_in_words(browser: Browser, served: str) -> None:
    tab = Tab(browser, served)
    page = tab.go("sql")
    editor = page.get_by_label("SQL", exact=True)
    for statement, said in (("SELEC 1", "syntax error"), ("DROP VIEW scores", "refused")):
        editor.fill(statement)
        editor.press("Control+Enter")
        expect(page.locator(".state", has_text=said)).to_be_visible()
    # Where it is wrong is pointed at.
    expect(page.locator(".state > pre")).to_have_count(0)
    editor.fill("SELECT modl FROM scores")
    editor.press("Control+Enter")
    expect(page.locator(".state > pre")).to_have_text(re.compile(r"LINE 1: SELECT modl FROM scores\n {15}\^"))
    tab.context.close()
    # The browser's own line about the status, and nothing else.
    assert len(tab.wrong) == 3
    assert all("400" in line for line in tab.wrong)


def test_every_picture_with_its_data_and_sql(tab: Tab, tmp_path: Path) -> None:
    page = tab.go(f"predictors?target={TARGET}&unit=sequences")
    figure = page.locator("figure", has_text="What smaller models say")
    held = {}
    for kind in ("SVG", "PNG", "CSV", "SQL"):
        role: Literal["link", "button"] = "link" if kind == "CSV" else "button"
        with page.expect_download() as got:
            figure.get_by_role(role, name=re.compile(f"Download .*{kind}")).click()
        path = tmp_path / got.value.suggested_filename
        got.value.save_as(path)
        held[kind] = path.read_bytes()
    assert held["SVG"].startswith(b"<svg")
    assert b"What smaller models say" in held["SVG"]
    assert held["PNG"].startswith(b"\x89PNG")
    assert (
        held["CSV"]
        == httpx.get(f"{tab.url}/api/queries/predictors?target={TARGET}&format=csv", timeout=60).content
    )
    assert held["SQL"].decode() == (Path(__file__).parents[2] / "queries" / "predictors.sql").read_text()
    figure.get_by_role("link", name="open on the SQL page").click()
    tab.rest()
    expect(page.get_by_label("Start from")).to_have_value("predictors")
    expect(page.get_by_label("target", exact=True)).to_have_value(TARGET)


def test_what_is_selected_survives_a_reload(tab: Tab) -> None:
    for address in (
        "predictors?target=532k%401001&unit=windows&from=checkpoints",
        "budget?budget=35%25&min_precision=0.5",
        "correlation?kind=checkpoint_correlation&model=281k",
        "distribution?step=581",
        "texts?cell=hit&predictor=116k%401001&search=self",
        "sql?query=counts&mark=bar&x=checkpoint",
    ):
        page = tab.go(address)
        values = "[...document.querySelectorAll('select, input')].map((one) => [one.value, one.checked])"
        before, url = page.evaluate(values), page.url
        page.reload()
        tab.rest()
        assert page.url == url
        assert page.evaluate(values) == before, address


def test_the_chart_of_an_answer_fits_what_the_page_becomes(tab: Tab) -> None:
    page = tab.go("sql?query=counts")
    picture = page.locator(".picture svg")
    # A line for each model: one line through all of them would mean nothing.
    expect(page.get_by_label("Colour")).to_have_value("parameters")
    wide = picture.bounding_box()
    page.set_viewport_size({"width": 700, "height": 900})
    expect(picture).not_to_have_attribute("width", str(round(wide["width"])))  # type: ignore[index]
    narrow = picture.bounding_box()
    assert narrow is not None
    assert narrow["x"] + narrow["width"] <= 700
    light = picture.locator("text").first.get_attribute("fill")
    page.emulate_media(color_scheme="dark")
    expect(picture.locator("text").first).not_to_have_attribute("fill", str(light))


def test_the_way_with_the_keyboard_alone(tab: Tab) -> None:
    page = tab.go("overview")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) != "none"
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.get_by_label("Suite")).to_be_focused()
    # From the top to the page on the budget, and to its slider.
    page.goto("about:blank")
    tab.go("overview")
    names = []
    for _ in range(5):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.textContent.trim()"))
        assert page.evaluate(outline) != "none", names
    assert names == ["Skip to the content", "memoserve", "Overview", "Predictors", "Budget"]
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_be_focused()
    tab.rest()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.type") == "range":
            break
    page.keyboard.press("End")
    expect(page).to_have_url(re.compile("budget=100%25"))
    tab.rest()
    page.get_by_role("region", name="Budgets are shares").focus()
    assert page.evaluate(outline) != "none"


def test_the_menu_of_a_telephone(browser: Browser, served: str) -> None:
    tab = Tab(browser, served, width=390)
    page = tab.go("overview")
    menu = page.get_by_role("button", name="Menu")
    expect(page.get_by_role("link", name="Budget", exact=True)).to_be_hidden()
    menu.click()
    expect(menu).to_have_attribute("aria-expanded", "true")
    page.get_by_role("link", name="Budget", exact=True).click()
    expect(page.locator("h1")).to_have_text("Budget")
    expect(page.get_by_role("link", name="Budget", exact=True)).to_be_hidden()
    tab.context.close()
    assert tab.wrong == []


def test_made_up_scores_are_called_so_and_read_only_takes_no_runs(tab: Tab) -> None:
    page = tab.go("predictors")
    expect(page.get_by_role("note")).to_contain_text("Synthetic data.")
    tab.go("overview")
    expect(page.get_by_text("Start a run")).to_have_count(0)
    expect(page.get_by_text("read only")).to_be_visible()


def test_logging_in(browser: Browser, made_up: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMOSERVE_TOKEN", "0123456789abcdef0123456789abcdef")
    server = Server(made_up / "store", "--read-only", "--host", "0.0.0.0")
    tab = Tab(browser, server.url.replace("0.0.0.0", "127.0.0.1"))
    page = tab.page
    page.goto(f"{tab.url}/")
    expect(page).to_have_url(f"{tab.url}/login")
    expect(page.get_by_label("Token")).to_be_focused()
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("not the token")
    page.get_by_label("Token").fill("0123456789abcdef0123456789abcdef")
    page.keyboard.press("Enter")
    tab.rest()
    expect(page.locator("h1")).to_have_text("Overview")
    page = tab.go("predictors")
    expect(page.locator(".picture svg").first).to_be_visible()
    # Whose cookie is gone is sent there again, and comes back to where they were.
    tab.context.clear_cookies()
    page.reload()
    expect(page.get_by_label("Token")).to_be_focused()
    page.keyboard.type("0123456789abcdef0123456789abcdef")
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Predictors")
    expect(page).to_have_url(f"{tab.url}/#/predictors")
    tab.context.close()
    server.stop()
    assert len(tab.wrong) == 1
    assert "401" in tab.wrong[0]


# Runs


def test_a_long_queue_takes_one_connection_of_a_tab(browser: Browser, tmp_path: Path, mini: Suite) -> None:
    """A browser has six for all its tabs: a run that only waits needs none."""
    store = Store.create(tmp_path / "store")
    write_suite(store, mini, str(mini.sequences.path), 2, 200, engine="synthetic")
    queue = Queue(tmp_path / "store")
    estimate = {"sequences": 10, "checkpoints": 1, "flops": 1e9, "bytes": 40.0, "seconds": 60.0}
    for n in range(9):
        request = {"suite": "mini", "note": f"<b>{n}</b>", "by": HOSTILE[:90]}
        queue.submit(request, ["--no-such-option"], estimate)
    # As somebody's own run in this store, which all of them wait for.
    held = os.open(tmp_path / "store" / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    server = Server(tmp_path / "store")
    tab = Tab(browser, server.url)
    followed: list[str] = []

    def keep(request: Request) -> None:
        if request.url.endswith("/events"):
            followed.append(request.url)

    tab.page.on("request", keep)
    try:
        page = tab.go("overview")
        expect(page.locator(".runs > li")).to_have_count(9)
        expect(page.locator("#run-1")).to_contain_text("Waits for another run in this store", timeout=30_000)
        expect(page.locator("#run-9")).to_contain_text("8 runs come before it")
        expect(page.locator("#run-9")).to_contain_text("<b>8</b>")
        others = [Tab(browser, server.url) for _ in range(2)]
        for other in others:
            other.context = tab.context
            other.page = tab.context.new_page()
            expect(other.go("predictors").locator(".picture svg").first).to_be_visible()
        assert len(set(followed)) == 1
        tab.go("overview")
        page.get_by_role("button", name="Cancel run 1", exact=True).click()
        expect(page.locator("#run-1 .chip")).to_have_text("cancelled", timeout=10_000)
        expect(page.locator("#run-2")).to_contain_text("Waits for another run in this store", timeout=30_000)
        assert {url.rpartition("runs/")[2] for url in followed} <= {"1/events", "2/events"}
        assert page.evaluate("window.pwned") is None
        for id_ in range(2, 10):
            queue.cancel(id_)
        assert tab.wrong == []
    finally:
        tab.context.close()
        server.stop()
        os.close(held)


@pytest.mark.engine
def test_a_run_from_the_form_to_the_table(browser: Browser, tmp_path: Path) -> None:
    """An empty store, filled and read in the browser alone."""
    server = Server(tmp_path / "store")
    tab = Tab(browser, server.url)
    try:
        page = tab.go("predictors")
        expect(page.get_by_text("This store holds no scores yet")).to_be_visible()
        page.get_by_role("link", name="Start a run on the overview").click()
        form = page.get_by_role("form", name="Start a run")
        form.get_by_label("Checkpoints").fill("no-such@1")
        form.get_by_role("button", name="Start").click()
        expect(form.get_by_role("alert")).to_contain_text("no-such", timeout=60_000)
        assert len(tab.wrong) == 1
        assert "400" in tab.wrong.pop()
        form.get_by_label("Checkpoints").fill("281k@1001,1.2m@1001")
        form.get_by_label("Sequences").fill("0:300")
        form.get_by_label("Your name").fill("Maren")
        form.get_by_label("Note").fill("before the <b>large</b> run")
        form.get_by_role("radio", name="Extract").check(force=True)
        form.get_by_label("Engine").select_option("transformers")
        form.get_by_role("button", name="Start").click()
        card = page.locator(".runs > li").first
        expect(card).to_contain_text("281k@1001,1.2m@1001, sequences 0:300, extract mode", timeout=60_000)
        expect(card).to_contain_text("before the <b>large</b> run")
        expect(card).to_contain_text("Maren, ")
        expect(card.locator(".chip")).to_have_text("running", timeout=30_000)
        expect(card.get_by_role("button", name="Cancel run 1")).to_be_visible()
        expect(card.locator(".chip")).to_have_text("done", timeout=400_000)
        expect(card).to_contain_text("600 scores written")
        card.get_by_text("Log").click()
        expect(card.locator("pre")).to_contain_text("checkpoint finished: checkpoint 1.2m@1001")
        assert width_over(page) <= 0
        expect(page.get_by_role("link", name=re.compile("1.2m@1001: 300 of 32,032"))).to_be_visible()
        page.get_by_role("link", name=re.compile("1.2m@1001: 300 of 32,032")).click()
        tab.rest()
        table = page.get_by_role("region", name="Predictors of 1.2m@1001, in sequences")
        expect(table.locator("tbody th")).to_have_text(["281k@1001"])
        page = tab.go("texts")
        expect(page.locator(".texts > li").first).to_contain_text("Continuation")
        # One that is cancelled says so.
        again = {"checkpoints": "116k@*", "mode": "extract", "engine": "transformers"}
        httpx.post(f"{server.url}/api/runs", json=again, timeout=60).raise_for_status()
        page = tab.go("overview")
        page.get_by_role("button", name="Cancel run 2").click()
        expect(page.locator("#run-2 .chip")).to_have_text("cancelled", timeout=60_000)
        # Who starts another finds what these scores were made with, and their own name.
        page.get_by_text("Start a run").click()
        expect(form.get_by_role("radio", name="Extract")).to_be_checked()
        expect(form.get_by_label("Engine")).to_have_value("transformers")
        page.reload()
        tab.rest()
        expect(page.get_by_label("Your name")).to_have_value("Maren")
        page.get_by_role("button", name="Submit run 2 again").click()
        expect(page.locator("#run-3")).to_contain_text("116k@*", timeout=60_000)
        page.get_by_role("button", name="Cancel run 3").click()
        expect(page.locator("#run-3 .chip")).to_have_text("cancelled", timeout=60_000)
        # A server that is gone is said in words, and coming back is noticed.
        assert tab.wrong == []
    finally:
        server.stop()
    page.get_by_role("link", name="Distribution").click()
    expect(page.get_by_role("alert").first).to_contain_text("The server does not answer", timeout=10_000)
    expect(page.get_by_role("button", name="Try again").first).to_be_visible()
    tab.context.close()
