"""The door for Python: a store to ask, and runs. `import memoserve` gets all of it when it is asked for."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType

from memoserve.catalog import Catalog, kinds_of_parts
from memoserve.errors import BadInput, did_you_mean, in_python_words
from memoserve.files.local import LocalFiles
from memoserve.files.opening import open_files
from memoserve.forecast import Basis, Learner, SequenceForecast, make_forecast, write_forecast
from memoserve.memorized import TEXT_COLUMNS, Group, find_texts, text_row
from memoserve.queries import find_query, list_queries
from memoserve.queries.result import Result, table_of
from memoserve.recommend import Unit, advise, export_hint
from memoserve.report.charts.all import CHARTS
from memoserve.report.plot import Plot, draw
from memoserve.run.calling import prepare, run
from memoserve.store import Store as Parts

__all__ = ["Plot", "Result", "Store", "open", "prepare", "run"]


def open(path: str | os.PathLike[str] = "memoserve-out") -> Store:
    """The store at a path or URL, to be asked.

    Raises StoreConflict if there is none, StorageFailed if a remote one can't be read.
    """
    return Store(path)


class Store:
    """A store to ask; close it when done, or use `with`. What it holds by now is looked up at each question.

    Questions are asked one at a time, from whatever thread. Every answer keeps its data. Errors are those of
    memoserve.errors: BadInput for what can't be asked, with a message that says what can.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)
        self._lock = threading.Lock()
        self._kinds: object = None
        self._catalog: Catalog | None = None
        self._closed = False
        with self._asking():
            pass

    def query(self, query: str | os.PathLike[str], /, **parameters: object) -> Result:
        """The answer of a query by its name, or of your own .sql file.

        Parameters are those of its header, as text, numbers or lists; None leaves one to its default.
        `queries()` says what there is.
        """
        with self._asking() as catalog:
            found = find_query(os.fspath(query))
            result = catalog.query(found, **_given(parameters))
            return Result.of(result, found.question)

    def sql(self, statements: str) -> Result:
        """The answer to SQL of your own (DuckDB's), which only reads: the last statement's.

        The views are checkpoints, scores, memorized, sequences, checks and features.
        """
        with self._asking() as catalog:
            return Result.of(catalog.sql(statements))

    def scores(
        self,
        models: str | Iterable[str] | None = None,
        steps: int | Iterable[int] | None = None,
        suite: str | None = None,
    ) -> Result:
        """Scores, one row a sequence and checkpoint: of these models and steps, or of all.

        Columns: suite, model, step, sequence_id, matches (of 32 tokens), matched_prefix, match_mask (bit i:
        token i matches), continuation_ll (nats); what a run's mode doesn't give is NULL. `suite`: by default
        the first evaluated one. Raises BadInput for what is not evaluated.
        """
        with self._asking() as catalog:
            evaluated = catalog.checkpoints(evaluated=True)
            chosen = _known("suite", [suite] if suite else [], [one.suite for one in evaluated])[:1]
            of_it = [one for one in evaluated if one.suite in chosen]
            wanted = _known("models", _several(models), [one.model for one in of_it])
            at = _known("steps", _several(steps), [one.step for one in of_it if one.model in wanted])
            # IN, so that parts of other checkpoints are not opened.
            return Result.of(
                catalog.connection.execute(
                    "SELECT * FROM scores WHERE suite IN $suites::VARCHAR[] AND model IN $models::VARCHAR[] "
                    "AND step IN $steps::BIGINT[]",
                    {"suites": chosen, "models": wanted, "steps": at},
                )
            )

    def features(self, suite: str | None = None) -> Result:
        """What is known of sequences without any model, one row each: what `memoserve features` computed, and
        the tables added. `suite`: by default all that have features.
        """
        with self._asking() as catalog:
            return Result.of(
                catalog.connection.execute(
                    "SELECT * FROM features WHERE suite = coalesce(?, suite) ORDER BY suite, sequence_id",
                    [suite],
                )
            )

    def checkpoints(self) -> Result:
        """The checkpoints of the store's suites: parameters, tokens, FLOPs, and how many are evaluated."""
        return self.sql("SELECT * FROM checkpoints ORDER BY suite, model_order, step")

    def checks(self, suite: str | None = None) -> Result:
        """What was verified behind these scores, and what came of it; what failed comes first."""
        return self.query("checks", suite=suite)

    def queries(self, name: str | os.PathLike[str] | None = None) -> Result:
        """The queries: what each answers and takes. Of one, by name or file: what its parameters mean."""
        if name is None:
            columns = ("name", "question", "group", "takes")
            listed = [
                (one.name, one.question, one.group, ", ".join(p.name for p in one.parameters))
                for one in list_queries()
            ]
            return Result(table_of(columns, listed), "Queries")
        with in_python_words():
            found = find_query(os.fspath(name))
            rows = [(p.name, p.type, p.default, p.meaning) for p in found.parameters]
        columns = ("parameter", "type", "default", "meaning")
        about = [" ".join(found.description.split())] if found.description else []
        return Result(table_of(columns, rows, text=columns), found.question, tuple(about))

    def plots(self) -> Result:
        """The plots: name, what each shows, and the query that it draws, which has its parameters."""
        rows = [(one.name, one.title, one.query) for one in CHARTS]
        return Result(table_of(("name", "title", "query"), rows), "Plots")

    def plot(self, name: str, /, **parameters: object) -> Plot:
        """A picture of a query's answer, which notebooks draw; parameters are its query's.

        `plots()` says what there is. Raises BadInput if there is nothing to draw.
        """
        with self._asking() as catalog:
            plot = draw(catalog, name, _given(parameters))
            plot.spec  # noqa: B018 - raises now what it would raise when it is shown
            return plot

    def recommend(
        self,
        budget: str | float | None = None,
        recall: float | None = None,
        *,
        target: str | None = None,
        grid: bool = False,
        min_precision: float | None = None,
        max_flagged: int | None = None,
        forecast: bool = False,
        suite: str | None = None,
        unit: Unit = "sequences",
        seed: int = 0,
    ) -> Result:
        """Which cheap run to pay for, to know what an expensive one will memorize; `sentences` say why.

        `budget`: training FLOPs (1e21), or a share of the target's ("10%"); `recall`: the cheapest that
        reaches it; `grid`: the best for each of a grid of budgets. One of them has to be asked for.
        `min_precision`: 0.8, or none with `max_flagged`, the most that may be flagged. `forecast`: from
        smaller models even if the target has scores. `seed`: of the bootstrap.
        """
        with self._asking() as catalog:
            advice = advise(
                catalog,
                suite=suite,
                target=target,
                budget=None if budget is None else str(budget),
                recall=recall,
                grid=grid,
                min_precision=min_precision,
                max_flagged=max_flagged,
                unit=unit,
                forecast=forecast,
                seed=seed,
            )
            table = table_of(*advice.table(), whole=("flagged",))
            return Result(table, advice.title, (*advice.sentences, *export_hint(advice, catalog.store)))

    def forecast(
        self,
        target: str | None = None,
        budget: str | float | None = None,
        *,
        output: str | os.PathLike[str] | None = None,
        basis: Basis | None = None,
        precision: float = 0.8,
        learner: Learner = "logistic",
        fit_on: str | os.PathLike[str] | None = None,
        suite: str | None = None,
        unit: Unit = "windows",
        seed: int = 0,
    ) -> SequenceForecast:
        """Each sequence's probability that the target will memorize it, from what is known before training.

        From features, from signals of cheaper runs, and from both, learned on smaller models; with what they
        cost, and how good they are where the target has scores. `output`: a .parquet file to write the
        probabilities to, of one `basis`, by default the one that knows most. `fit_on`: another store to
        learn on.
        """
        with self._asking() as catalog, ExitStack() as opened:
            other = None if fit_on is None else opened.enter_context(Catalog.open(os.fspath(fit_on)))
            made = make_forecast(
                catalog,
                suite=suite,
                target=target,
                budget=None if budget is None else str(budget),
                promised=precision,
                learner=learner,
                unit=unit,
                fit_on=other,
                seed=seed,
            )
            if output is not None:
                write_forecast(catalog, made, made.of(basis), Path(output))
            return made

    def texts(
        self,
        target: str | None = None,
        predictor: str | None = None,
        cell: Group = "memorized",
        *,
        below: float = 16,
        search: str | None = None,
        limit: int = 20,
        redact: bool = False,
        suite: str | None = None,
        data: str | os.PathLike[str] | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
    ) -> Result:
        """What memorized sequences say: contexts and continuations, each window once, in order of training.

        `cell`: memorized by the target; by both ("hit"), by the target alone ("miss"), by the predictor alone
        ("false-alarm"); "emergent": by the target though every smaller model scores less than `below`, of 32.
        `search`: only windows with this text. `redact`: mask what looks private (it finds patterns, and
        misses names). `suite` is a name or file; `data` and `tokenizer`: where the suite doesn't say.
        mismatches: tokens of the continuation, from 0 on, that `compared` did not generate.
        """
        if isinstance(limit, bool) or limit < 1:
            raise BadInput(f"limit takes a whole number from 1 on, not {limit!r}")
        with self._asking() as catalog:
            texts = find_texts(
                catalog,
                Parts.open(self._path),
                target=target,
                predictor=predictor,
                cell=cell,
                below=below,
                search=search,
                limit=limit,
                redact=redact,
                suite=suite,
                data=None if data is None else os.fspath(data),
                tokenizer=None if tokenizer is None else os.fspath(tokenizer),
                warn=lambda message: warnings.warn(message, stacklevel=3),
            )
            rows = [text_row(one) for one in texts.shown]
            whole = ("sequence_id", "window_id", "occurrences", "matches", "matched_prefix")
            return Result(table_of(TEXT_COLUMNS, rows, whole, ("context", "continuation", "compared")))

    def close(self) -> None:
        """Close it; answers stay."""
        with self._lock:
            self._closed = True
            self._forget()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"memoserve.open({self._path!r})"

    @contextmanager
    def _asking(self) -> Iterator[Catalog]:
        """The catalog as the store is now, for one question."""
        with self._lock, in_python_words():
            if self._closed:
                raise BadInput(f"{self!r} was closed: open it again")
            files = open_files(self._path)
            # Views know which kinds of parts there were when they were made; what is remote is as it was.
            kinds = kinds_of_parts(files) if isinstance(files, LocalFiles) else None
            if self._catalog is None or kinds != self._kinds:
                self._forget()
                self._catalog, self._kinds = Catalog.open(self._path), kinds
            yield self._catalog

    def _forget(self) -> None:
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None


def _given(parameters: dict[str, object]) -> dict[str, object]:
    """Without those that are left to their defaults; paths as text."""
    return {
        name: os.fspath(value) if isinstance(value, Path) else value
        for name, value in parameters.items()
        if value is not None
    }


def _several(values: object) -> list[object]:
    if values is None or isinstance(values, str) or not isinstance(values, Iterable):
        return [] if values is None else [values]
    return list(values)


def _known(name: str, asked: list[object], there: list[object]) -> list[object]:
    """What was asked for, or all, if it is there. Raises BadInput else."""
    known = list(dict.fromkeys(there))
    for one in asked:
        if one not in known:
            names = list(map(str, known))
            raise BadInput(
                f"{name} {one!r}: nothing of it is evaluated in this store{did_you_mean(str(one), names)}; "
                f"evaluated: {', '.join(names) or 'nothing yet'}"
            )
    return asked or known
