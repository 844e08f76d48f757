"""The notebook and the page for Python, as a reader goes through them, on a real run of the mini suite."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import duckdb
import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

import memoserve
import memoserve.errors
import memoserve.queries.result
from memoserve.store.verify import verify

DOCS = Path(__file__).parents[2] / "docs"
read: Any = nbformat.read
NUMBER = re.compile(r"(?<![\w.])-?\.?\d[\d,]*\.?\d*(?:e[+-]\d+)?")

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the notebook runs, and leaves its store."""
    return tmp_path_factory.mktemp("notebook")


@pytest.fixture(scope="module")
def executed(folder: Path) -> Any:
    """The notebook, executed in a kernel. Every cell: a run on a busy machine takes minutes."""
    notebook = read(DOCS / "memoserve.ipynb", as_version=4)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def output(notebook: Any, start: str) -> dict[str, Any]:
    """What the cell with a line that starts so shows at its end."""
    (cell,) = [
        one for one in notebook.cells
        if one.cell_type == "code" and any(line.startswith(start) for line in one.source.splitlines())
    ]  # fmt: skip
    assert cell.outputs, start
    found: dict[str, Any] = cell.outputs[-1]["data"]
    return found


def test_the_notebook_ships_without_its_outputs() -> None:
    notebook = read(DOCS / "memoserve.ipynb", as_version=4)
    assert not [cell for cell in notebook.cells if cell.get("outputs") or cell.get("execution_count")]


def test_a_run_in_a_kernel_shows_how_far_it_is(executed: Any) -> None:
    (cell,) = [one for one in executed.cells if one.source.startswith("memoserve.run(")]
    bars, outcome = cell.outputs
    shown = bars["data"]["text/html"]
    assert '<progress value="70716" max="70716">' in shown
    assert "70,716 of 70,716 sequences" in shown
    assert "engine for 116k is ready" in shown
    assert "116k@1001  32,532 sequences" in shown
    assert outcome["data"]["text/plain"].startswith("Outcome(sequences=70716,")


@pytest.mark.thorough
def test_an_interrupted_run_keeps_whole_parts_and_goes_on(tmp_path: Path) -> None:
    """In a real kernel, interrupted as the button of a notebook does it: SIGINT to all its processes."""
    run = (
        "import memoserve\nmemoserve.run(checkpoints='116k@161,116k@1001', mode='extract', "
        "engine='transformers', sequences='0:3000', part_size=100, out='out').sequences"
    )
    manager, client = start_new_kernel(cwd=str(tmp_path))
    try:

        def parts() -> dict[Path, bytes]:
            return {file: file.read_bytes() for file in tmp_path.glob("out/scores/**/*.parquet")}

        asked = client.execute(run)
        while not parts():
            message = client.get_iopub_msg(timeout=300)  # the bars, which move
            assert message["msg_type"] != "error", message["content"]
        manager.interrupt_kernel()
        reply = reply_to(client, asked)
        assert reply["status"] == "error"
        assert reply["traceback"] == ["interrupted: whole parts are kept, the same call goes on from here"]
        before = parts()
        assert 0 < len(before) < 60
        assert verify(str(tmp_path / "out")).damages == ()

        reply = reply_to(client, client.execute(f"left = {run.partition(chr(10))[2]}\nprint(left)"))
        assert reply["status"] == "ok", reply
        after = parts()
        assert len(after) == 60
        assert {file: after[file] for file in before} == before
        counted = duckdb.connect().execute(
            "SELECT step, count(*), count(DISTINCT sequence_id) FROM read_parquet("
            f"'{tmp_path}/out/scores/**/*.parquet', hive_partitioning = true) GROUP BY ALL ORDER BY 1"
        )
        assert counted.fetchall() == [(161, 3000, 3000), (1001, 3000, 3000)]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def reply_to(client: BlockingKernelClient, asked: str) -> dict[str, Any]:
    """What a kernel says of a cell when it is through with it."""
    while True:
        message = client.get_shell_msg(timeout=600)
        if message["parent_header"].get("msg_id") == asked:
            content: dict[str, Any] = message["content"]
            return content


def test_the_cells_give_tables_a_chart_a_recommendation_and_texts(executed: Any) -> None:
    table = output(executed, 'store.query("checkpoints"')
    assert re.search(r"<td[^>]*>116k@1001</td>", table["text/html"])
    assert "116k@1001" in table["text/plain"]
    assert "dataframe" in output(executed, "by_prefix.tail")["text/html"]
    chart = output(executed, "store.plot(")
    spec = chart["application/vnd.vegalite.v6+json"]
    assert spec["$schema"].endswith("vega-lite/v6.json")
    assert spec == chart["application/vnd.vegalite.v5+json"]
    recommended = output(executed, "store.recommend(")
    assert "<p>Run 116k@1001 (matched_prefix &gt;= 1): for 9.3% of the compute" in recommended["text/html"]
    texts = output(executed, "store.texts(")["text/html"]
    assert texts.count("<tr>") == 4
    assert "TemplateDoesNotExist" in texts


class Approximate(doctest.OutputChecker):
    """White space is no matter, and numbers may differ by 2%: two processors round differently."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        bare = [text.replace("<BLANKLINE>", "") for text in (want, got)]
        rest = [" ".join(NUMBER.sub("#", text).split()) for text in bare]
        numbers = [[float(one.replace(",", "")) for one in NUMBER.findall(text)] for text in bare]
        if len(numbers[0]) == len(numbers[1]) and numbers[1] != pytest.approx(numbers[0], rel=0.02):
            return False
        return super().check_output(rest[0], rest[1], optionflags)


def test_the_page_for_python_says_what_is_so(
    executed: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    page = (DOCS / "python.md").read_text()
    # Numbered as the page is, for what fails.
    kept, inside = [], False
    for line in page.splitlines():
        if line.startswith("```"):
            inside = line == "```pycon"
            kept.append("")
        else:
            kept.append(line if inside else "")
    code = "\n".join(kept) + "\n"
    parsed = doctest.DocTestParser().get_doctest(code, {}, "docs/python.md", "docs/python.md", 0)
    assert len(parsed.examples) > 20
    said: list[str] = []
    runner = doctest.DocTestRunner(Approximate(), optionflags=doctest.ELLIPSIS)
    assert runner.run(parsed, out=said.append).failed == 0, "".join(said)


def test_examples_in_docstrings_hold() -> None:
    for module in (memoserve, memoserve.queries.result, memoserve.errors):
        tried = doctest.testmod(module)
        assert tried.failed == 0
