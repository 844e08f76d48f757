"""The door for Python: what it answers is what the command line answers, and what it shows harms nobody."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import on_all_cores
from random_stores import World, random_world
from typer.testing import CliRunner

import memoserve
from memoserve.cli import app
from memoserve.errors import BadInput, EngineFailed, MemoserveError, StoreConflict
from memoserve.queries.result import Result, table_of
from memoserve.report.charts.all import CHARTS
from memoserve.run import events
from memoserve.run.notebook import NotebookDisplay
from memoserve.run.options import Options

MINI = Path(__file__).parents[1] / "support" / "stores" / "format1"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return random_world(tmp_path_factory.mktemp("world"), 12, "score", loglik=True)


@pytest.fixture(scope="module")
def store(world: World) -> Iterator[memoserve.Store]:
    with memoserve.open(world.path) as opened:
        yield opened


def cli(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, (result.output, result.exception)
    return result.stdout


def result_of(sql: str) -> Result:
    with duckdb.connect() as connection:
        return Result.of(connection.execute(sql))


# Importing


def test_importing_it_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import memoserve; print(set(sys.modules) - before)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in eval(result.stdout)}
    assert loaded - sys.stdlib_module_names == {"memoserve"}


def test_run_is_a_function_and_a_package_in_whatever_order_they_are_imported() -> None:
    for code in (
        "import memoserve; assert callable(memoserve.run)\nimport memoserve.run.job",
        "import memoserve.run.job\nimport memoserve",
        "from memoserve import run, prepare, open\nimport memoserve",
    ):
        code += "\nassert callable(memoserve.run)\ntry: memoserve.run(mod=1)\nexcept Exception as e: print(e)"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert result.stdout.startswith("a run has no option 'mod' (did you mean mode?)"), result.stderr


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'opne'"):
        memoserve.opne  # noqa: B018
    assert {"open", "run", "prepare"} <= set(dir(memoserve))


# Answers


def test_an_answer_converts_to_everything() -> None:
    answer = result_of("SELECT range AS n, range / 4 AS share, 'x' || range AS name FROM range(3)")
    expected = [(0, 0.0, "x0"), (1, 0.25, "x1"), (2, 0.5, "x2")]
    assert (answer.columns, len(answer)) == (("n", "share", "name"), 3)
    assert answer.rows() == list(answer) == expected
    assert [tuple(row) for row in answer.df().itertuples(index=False)] == expected
    assert answer.pl().rows() == expected
    assert list(zip(*answer.arrow().to_pydict().values(), strict=True)) == expected
    assert duckdb.execute("SELECT sum(n) FROM answer").fetchall() == [(3,)]


def test_sums_are_whole_numbers_and_two_columns_of_one_name_are_kept() -> None:
    answer = result_of('SELECT sum(range) AS a, 1 AS a, 2 AS "b ""c", 1.5::DECIMAL(4, 2) AS d FROM range(9)')
    assert answer.columns == ("a", "a_1", 'b "c', "d")
    assert answer.rows() == [(36, 1, 2, Decimal("1.50"))]
    assert isinstance(answer.rows()[0][0], int)


def test_columns_without_a_value_have_a_type() -> None:
    table = table_of(("n", "t", "x"), [(None, None, None)], whole=("n",), text=("t",))
    assert table.schema.types == [pa.int64(), pa.string(), pa.float64()]
    assert table_of(("a", "b"), []).num_rows == 0


def test_an_answer_is_written_as_its_ending_says(tmp_path: Path) -> None:
    answer = result_of("SELECT range AS n, 'a,b' AS name FROM range(2)")
    answer.to(tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_text() == 'n,name\n0,"a,b"\n1,"a,b"\n'
    answer.to(str(tmp_path / "x.parquet"))
    assert pq.read_table(tmp_path / "x.parquet").to_pydict() == answer.arrow().to_pydict()
    answer.to(tmp_path / "x.json")
    assert json.loads((tmp_path / "x.json").read_text())[1] == {"n": 1, "name": "a,b"}
    answer.to(tmp_path / "x.md")
    with pytest.raises(BadInput, match="known by the ending"):
        answer.to(tmp_path / "x.xlsx")


def test_what_strangers_wrote_is_escaped() -> None:
    answer = result_of(
        "SELECT '<script>alert(1)</script>$x$' AS \"<b>name\", chr(27) || '[31m' || chr(8238) AS control"
    )
    shown = Result(answer.table, "<i>title", ("<u>sentence",))._repr_html_()
    for tag in ("<script", "<b>name", "<i>title", "<u>", "$", "\x1b", "\u202e"):
        assert tag not in shown, tag
    assert "&lt;script&gt;alert(1)" in shown
    assert "\x1b" not in repr(answer)
    assert "\u202e" not in repr(answer)


def test_long_tables_are_cut_with_a_line_that_says_so() -> None:
    answer = result_of("SELECT range AS n FROM range(1234)")
    shown = answer._repr_html_()
    assert shown.count("<td") == 50
    assert "50 of 1,234 rows; .df(), .pl(), .arrow() and .rows() have all" in shown
    assert repr(answer).splitlines()[-1].startswith("20 of 1,234 rows")
    empty = result_of("SELECT 1 AS n WHERE false")
    assert "no rows" in empty._repr_html_()
    assert repr(empty) == "no rows"


def test_in_a_notebook_an_answer_is_text_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert repr(result_of("SELECT 7 AS n")).split() == ["n", "-", "7"]


# Asking


def test_queries_answer_as_the_command_line(store: memoserve.Store, world: World) -> None:
    answer = store.query("predictors", target=world.largest)
    asked = cli("query", "predictors", world.path, "--target", world.largest, "-f", "json")
    found = [dict(zip(answer.columns, row, strict=True)) for row in answer]
    assert found == json.loads(asked)
    assert answer.title.startswith("How well")


def test_an_answer_stays_what_it_was(store: memoserve.Store, world: World) -> None:
    first = store.query("predictors")
    rows = first.rows()
    store.query("counts")
    store.sql("SET VARIABLE target = 'nonsense'; SELECT 1")
    assert first.rows() == rows
    assert store.query("predictors", target=None).rows() == rows
    with memoserve.open(world.path) as other:
        kept = other.query("predictors")
    assert kept.rows() == rows
    with pytest.raises(BadInput, match="was closed"):
        other.query("predictors")


def test_parameters_are_values_of_python(store: memoserve.Store, world: World, tmp_path: Path) -> None:
    file = tmp_path / "mine.sql"
    file.write_text(
        "-- Which?\n-- parameter: names (checkpoint names, none): n\n-- parameter: n (whole number, 1): n\n"
        "-- parameter: xs (numbers, none): n\n"
        "SELECT getvariable('names') AS names, getvariable('n') AS n, getvariable('xs') AS xs\n"
    )
    name = world.largest
    assert store.query(file, names=[name], n=np.int64(3), xs=[0.5, 1]).rows() == [([name], 3, [0.5, 1.0])]
    assert store.query(str(file), names=name).rows() == [([name], None, None)]
    with pytest.raises(BadInput, match=r"^n takes a whole number from 1 on, not 0$"):
        store.query(file, n=0)
    with pytest.raises(BadInput, match="its parameters are names, n, xs"):
        store.query(file, nn=0)


def test_scores_are_those_of_the_models_and_steps(store: memoserve.Store, world: World) -> None:
    chosen = list(world.checkpoints.values())
    for models, steps in (
        (None, None),
        (chosen[0].model.name, None),
        ([one.model.name for one in chosen[:2]], chosen[0].step),
    ):
        try:
            answer = store.scores(models=models, steps=steps)
        except BadInput:
            continue  # no such pair in this store
        found = {
            (f"{row['model']}@{row['step']}", row["sequence_id"]): (row["matches"], row["matched_prefix"])
            for row in answer.arrow().to_pylist()
        }
        names = [models] if isinstance(models, str) else models
        expected = {
            (name, i): values
            for name, one in world.checkpoints.items()
            for i, values in world.scores[name].items()
            if (names is None or one.model.name in names) and (steps is None or one.step == steps)
        }
        assert found == expected
        assert len(answer) == len(found)
    with pytest.raises(BadInput, match="models 'nobody': nothing of it is evaluated"):
        store.scores(models="nobody")
    with pytest.raises(BadInput, match="steps 999: nothing of it is evaluated"):
        store.scores(steps=[999])
    with pytest.raises(BadInput, match="suite 'nowhere'"):
        store.scores(suite="nowhere")


def test_the_other_questions_are_answered(store: memoserve.Store) -> None:
    assert "predictors" in store.queries().df()["name"].tolist()
    described = store.queries("predictors")
    assert described.df()["parameter"].tolist() == ["suite", "target"]
    assert described.sentences[0].startswith("The paper's table of precision and recall")
    assert len(store.plots()) == len(CHARTS)
    assert "training_flops" in store.checkpoints().columns
    assert "result" in store.checks().columns
    assert store.sql("SELECT count(*) FROM scores").rows() == [(len(store.scores()),)]


def test_what_cannot_be_asked_is_told_in_words_of_python(store: memoserve.Store, tmp_path: Path) -> None:
    for ask, said in (
        (lambda: store.query("predictor"), "did you mean predictors"),
        (lambda: store.query("predictors", target="x@1"), r"^target x@1: no such checkpoint is evaluated"),
        (lambda: store.query("predictors", tarket="x"), "did you mean target"),
        (lambda: store.sql("COPY scores TO 'x'"), "COPY is refused"),
        (lambda: store.sql("SELECT * FROM 'x.csv'"), "would be a file"),
        (lambda: store.recommend(), r"^specify budget \(such as 10%\), recall"),
        (lambda: store.recommend(budget="lots"), "^budget takes FLOPs"),
        (lambda: store.texts(cell="mis"), "did you mean miss"),  # type: ignore[arg-type]
        (lambda: store.texts(limit=0), "limit takes a whole number"),
        (lambda: store.plot("predictor"), "there is no plot"),
    ):
        with pytest.raises(BadInput, match=said) as raised:
            ask()
        assert "--" not in str(raised.value)
    with pytest.raises(StoreConflict, match="is not a store"):
        memoserve.open(tmp_path)


def test_a_store_that_grows_is_asked_as_it_is_now(tmp_path: Path, world: World) -> None:
    import shutil

    grown = tmp_path / "store"
    shutil.copytree(world.path, grown)
    shutil.rmtree(grown / "scores")
    with memoserve.open(grown) as opened:
        assert len(opened.sql("FROM scores")) == 0
        shutil.copytree(world.path / "scores", grown / "scores")
        assert len(opened.sql("FROM scores")) == sum(map(len, world.scores.values()))


# Recommending, drawing, reading


def test_recommendations_and_their_sentences_are_the_command_lines(
    store: memoserve.Store, world: World
) -> None:
    answer = store.recommend(budget="60%", recall=0.1, min_precision=0.01)
    arguments = ("recommend", world.path, "--budget", "60%", "--recall", "0.1", "--min-precision", "0.01")
    asked = json.loads(cli(*arguments, "-f", "json"))
    assert [dict(zip(answer.columns, row, strict=True)) for row in answer] == asked
    printed = cli(*arguments)
    assert answer.sentences
    assert printed.endswith("".join(f"{sentence}\n" for sentence in answer.sentences))
    assert answer.sentences[-1].startswith("To list what it flags: memoserve export")
    for sentence in answer.sentences:
        assert sentence in repr(answer)
    flops = store.recommend(budget=answer.df()["budget_flops"][0], min_precision=0.01)
    assert flops.rows()[0][5:] == answer.rows()[0][5:]


def test_plots_are_vega_lite_and_files(store: memoserve.Store, tmp_path: Path) -> None:
    plot = store.plot("predictors")
    bundle = plot._repr_mimebundle_()
    assert bundle["application/vnd.vegalite.v6+json"] == plot.spec
    assert plot.spec["$schema"].endswith("vega-lite/v6.json")
    assert "predictors" in repr(plot)
    for ending in ("json", "svg", "html"):
        plot.save(tmp_path / f"plot.{ending}")
    assert json.loads((tmp_path / "plot.json").read_text()) == plot.spec
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
    with pytest.raises(BadInput, match="pictures are written as"):
        plot.save(tmp_path / "plot.gif")


def test_texts_are_those_of_show() -> None:
    with memoserve.open(MINI) as opened:
        answer = opened.texts(limit=3)
        asked = json.loads(cli("show", MINI, "-n", "3", "-f", "json"))
        assert [dict(zip(answer.columns, row, strict=True)) for row in answer] == asked
        missed = opened.texts(predictor="116k@161", cell="miss", limit=1)
        assert missed.rows()[0][5] == "116k@161"
        found = opened.texts(search="VALIDATE", limit=1, redact=True)
        assert "alidate" in "".join(found.rows()[0][3:5])


# Running


def test_a_run_takes_the_options_by_name_and_refuses_others(tmp_path: Path) -> None:
    as_objects: dict[str, Any] = {"checkpoints": ["116k@161", "116k@301"], "out": tmp_path / "out"}
    job = memoserve.prepare(**as_objects, sequences="0:200", dry_run=True)
    assert job.options == Options(
        checkpoints="116k@161,116k@301", out=str(tmp_path / "out"), sequences="0:200", dry_run=True
    )
    plan, cost = job.estimate()
    assert (plan.sequences, len(cost.checkpoints)) == (400, 2)
    with pytest.raises(BadInput, match="a dry run is estimated"):
        memoserve.run(out=str(tmp_path / "out"), dry_run=True)
    assert not (tmp_path / "out").exists()
    for options, said in (
        ({"mode": "extrct"}, r"^mode takes score or extract, not 'extrct' \(did you mean extract\?\)"),
        ({"context": 0}, "^context takes a whole number from 1 on, not 0"),
        ({"context": 1.5}, "^context takes a whole number, not 1.5"),
        ({"sample": "half"}, "^sample takes a number or None"),
        ({"seed": True}, "^seed takes a whole number, not True"),
        ({"unseen": 1}, "^unseen takes True or False"),
        ({"loglik": True}, "^loglik needs mode extract"),
        ({"checkpoint": "all"}, r"no option 'checkpoint' \(did you mean checkpoints\?\)"),
    ):
        with pytest.raises(BadInput, match=said):
            memoserve.prepare(dry_run=True, **options)


def test_every_option_has_values_that_it_takes() -> None:
    from memoserve.run.options import refuse_wrong

    refuse_wrong(Options())
    for field in fields(Options):
        with pytest.raises(BadInput, match=f"^--{field.name.replace('_', '-')} takes "):
            refuse_wrong(Options(**{field.name: object()}))  # type: ignore[arg-type]


def test_a_notebook_is_told_how_far_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, str]] = []

    class Handle:
        def update(self, content: dict[str, str], raw: bool) -> None:
            shown.append(content)

    def display(content: dict[str, str], raw: bool, display_id: bool) -> Handle:
        shown.append(content)
        return Handle()

    monkeypatch.setattr("IPython.display.display", display)
    monkeypatch.setattr("memoserve.run.notebook._INTERVAL", -1.0)
    tell = NotebookDisplay()
    tell(events.Notice("<b>odd</b>"))
    assert "&lt;b&gt;odd" in shown[-1]["text/html"]
    assert shown[-1]["text/plain"] == "<b>odd</b>"
    job = memoserve.prepare(checkpoints="116k@161", sequences="0:200", dry_run=True)
    plan, _ = job.estimate()
    tell(events.PlanEvent(plan, job.inputs, job.setting))
    (checkpoint,) = job.checkpoints
    tell(events.CheckpointStarted(checkpoint, 200, 1))
    tell(events.ProgressEvent(checkpoint, events.Counts(50.0, 50, 200, 50, 200)))
    assert shown[-1]["text/html"].count('<progress value="50" max="200">') == 2
    assert "116k@161: 50 of 200 sequences, about" in shown[-1]["text/plain"]
    tell(events.CheckpointFinished(checkpoint, 200, 3, 100, 1.0))
    assert shown[-1]["text/html"].count("<progress") == 1
    assert "200 sequences, 3 memorized" in shown[-1]["text/plain"]


def test_an_interrupted_run_says_that_parts_are_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(job: object, on_event: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("memoserve.run.job.Job.run", interrupted)
    with pytest.raises(KeyboardInterrupt, match="whole parts are kept, the same call goes on from here"):
        memoserve.run(checkpoints="116k@161", out=str(tmp_path / "out"), engine="transformers")


RUN = """
import memoserve
outcome = memoserve.run(
    checkpoints="116k@161", mode="extract", engine="transformers", sequences="0:200", out="{out}"
)
print(outcome)
"""


@pytest.mark.engine
@pytest.mark.parametrize("way", ["file", "command", "input"])
def test_a_run_starts_from_wherever_python_is(way: str, tmp_path: Path) -> None:
    """From a script that runs when it is imported, too: multiprocessing would import it in each engine."""
    code = RUN.format(out=tmp_path / "out")
    (tmp_path / "script.py").write_text(code)
    arguments = {"file": [str(tmp_path / "script.py")], "command": ["-c", code], "input": ["-"]}[way]
    result = subprocess.run(
        [sys.executable, *arguments],
        input=code if way == "input" else None,
        capture_output=True,
        text=True,
        check=False,
        env=on_all_cores(),
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("engine for 116k is ready") == 1
    assert result.stdout.splitlines()[-1].startswith("Outcome(sequences=200, windows=155, ")
    with memoserve.open(tmp_path / "out") as opened:
        assert len(opened.scores()) == 200


# For checkers and readers


def test_every_call_says_what_it_does() -> None:
    for name, function in inspect.getmembers(memoserve.Store, inspect.isfunction):
        if not name.startswith("_"):
            assert function.__doc__, name
    assert "suite" in (memoserve.prepare.__doc__ or "")
    assert issubclass(EngineFailed, MemoserveError)
