"""What can be asked of a store: each a function that a reader process runs, and that gives a reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memoserve.errors import BadInput
from memoserve.serve.answers.formats import MOST_ROWS, Format, names_and_rows, reply_json, value, write
from memoserve.serve.answers.pool import Reply, Workspace, asking
from memoserve.serve.errors import NotThere
from memoserve.serve.files import file_of_suite, suite_files

if TYPE_CHECKING:
    from memoserve.memorized import Cell as MemorizedCell
    from memoserve.memorized import Row, Shown, TextReader

Unit = Literal["sequences", "windows"]
Cell = Literal["memorized", "hit", "miss", "false_alarm"]

Values = tuple[tuple[str, str], ...]
"""Names and values, as pairs so that a question can be cached."""

_FAILED_SHOWN = 100
"""Failed checks that are named with what the store holds; the query `checks` has them all."""

_SEARCHED = 100_000
"""Windows that a search looks through at most."""


def store(workspace: Workspace, read_only: bool) -> Reply:
    """What the store holds."""
    from memoserve import __version__
    from memoserve.report.coverage import checks_by_suite
    from memoserve.store import Store

    opened = Store.open(workspace.store)
    with asking(workspace) as catalog:
        every = catalog.checkpoints()
        checks = checks_by_suite(catalog, _FAILED_SHOWN)
    suites: list[dict[str, Any]] = []
    for name in opened.suites():
        checkpoints = [one for one in every if one.suite == name]
        suites.append(
            {
                "suite": name,
                "fingerprint": opened.fingerprint(name),
                "evaluated_checkpoints": sum(one.evaluated > 0 for one in checkpoints),
                "checkpoints": len(checkpoints),
                "scores": sum(one.evaluated for one in checkpoints),
                "checks": dict(sorted(checks[name].counts.items())),
                "failed_checks": checks[name].failed,
            }
        )
    synthetic = any(is_synthetic(suite["fingerprint"]) for suite in suites)
    name = (
        workspace.store.resolve().name if isinstance(workspace.store, Path) else workspace.store.rstrip("/")
    )
    return reply_json(
        {
            "name": name.rpartition("/")[2],
            "version": __version__,
            "suites": suites,
            "read_only": read_only,
            "synthetic": synthetic,
        }
    )


def is_synthetic(fingerprint: Mapping[str, Any]) -> bool:
    """Whether a fingerprint says that its scores were made up, by engine or by the word itself."""
    return bool(fingerprint.get("synthetic")) or "synthetic" in str(fingerprint.get("engine", "")).lower()


def checkpoints(workspace: Workspace, suite: str | None) -> Reply:
    """The view `checkpoints`, with the ids that each has seen and how many of them lack a score."""
    from memoserve.catalog.statements import statement
    from memoserve.store import Store

    Store.open(workspace.store)
    with asking(workspace) as catalog:
        if suite is not None:
            names = sorted({one.suite for one in catalog.checkpoints()})
            if suite not in names:
                raise BadInput(f"suite {suite!r} is not in this store; it holds {', '.join(names) or 'none'}")
            catalog.rows("SET VARIABLE suite = ?", [suite])
        shown = statement(__file__, "checkpoints").strip()
        result = catalog.sql(shown)
        values = {} if suite is None else {"suite": suite}
        # Of all suites together at most some thousands.
        return write(workspace, result, "json", MOST_ROWS, "checkpoints", sql=shown, values=values)


def queries(workspace: Workspace) -> Reply:
    """The named queries with their parameters, columns and SQL."""
    from memoserve.queries import list_queries

    return reply_json(
        [
            {
                "name": one.name,
                "title": one.question,
                "about": one.description,
                "parameters": [
                    {"name": p.name, "type": p.type, "default": p.default, "about": p.meaning}
                    for p in one.parameters
                ],
                "columns": [{"name": c.name, "about": c.meaning} for c in one.columns],
                "sql": one.sql,
            }
            for one in list_queries()
        ]
    )


def query(workspace: Workspace, name: str, given: Values, form: Format, limit: int | None) -> Reply:
    """The answer of a named query."""
    from memoserve.queries import find_query

    try:
        found = find_query(name)
    except BadInput as error:
        raise NotThere(str(error)) from None
    values = dict(given)
    with asking(workspace) as catalog:
        result = catalog.query(found, **values)
        return write(workspace, result, form, limit, name, sql=found.sql, values=values)


def sql(workspace: Workspace, statement: str, form: Format, limit: int | None) -> Reply:
    """The answer to SQL of the asker's own, as `memoserve sql` gives it."""
    with asking(workspace) as catalog:
        result = catalog.sql(statement)
        return write(workspace, result, form, limit, "answer", sql=statement, values={})


def plots(workspace: Workspace) -> Reply:
    """The plots by name."""
    from memoserve.report import CHARTS

    return reply_json(
        [{"name": c.name, "title": c.title, "query": c.query, "reading": c.reading} for c in CHARTS]
    )


def plot(workspace: Workspace, name: str, given: Values) -> Reply:
    """A plot's Vega-Lite with its data inside; its parameters are those of its query."""
    from memoserve.report import draw, find_chart

    try:
        find_chart(name)
    except BadInput as error:
        raise NotThere(str(error)) from None
    with asking(workspace) as catalog:
        plot = draw(catalog, name, dict(given))
    return reply_json(plot.spec)


def recommend(
    workspace: Workspace,
    suite: str | None,
    target: str | None,
    budget: str | None,
    recall: float | None,
    min_precision: float | None,
    max_flagged: int | None,
    unit: Unit,
    forecast: bool,
    grid: bool,
) -> Reply:
    """Which cheap run to pay for, as `memoserve recommend` says."""
    from memoserve.recommend import advise

    with asking(workspace) as catalog:
        advice = advise(
            catalog,
            suite=suite,
            target=target,
            budget=budget,
            recall=recall,
            grid=grid,
            min_precision=min_precision,
            max_flagged=max_flagged,
            unit=unit,
            forecast=forecast,
        )
    return reply_json(names_and_rows(*advice.table()) | {"sentences": advice.sentences})


def text(
    workspace: Workspace,
    suite: str | None,
    predictor: str | None,
    target: str | None,
    cell: Cell,
    search: str | None,
    redact: bool,
    limit: int,
    offset: int,
    folder: str | None,
    data: Values,
) -> Reply:
    """Windows of a cell as text. `folder`: of suite files; `data`: the sequences of suites' last runs."""
    from memoserve.memorized import choose, open_texts
    from memoserve.store import Store

    kind = "false-alarm" if cell == "false_alarm" else cell
    opened = Store.open(workspace.store)
    warnings: list[str] = []
    with asking(workspace) as catalog:
        pair = choose(catalog, suite, target, predictor)
        name = pair.target.suite
        reader = open_texts(
            catalog,
            opened,
            pair,
            suite=file_of_suite(None if folder is None else Path(folder), name),
            data=dict(data).get(name),
            tokenizer=None,
            warn=warnings.append,
        )
        if reader.decoder is None and (search is not None or redact):
            raise BadInput(
                f"suite {name} has no tokenizer, and without text there is nothing to search or to redact: "
                "ask with redact=false for token ids"
            )
        found = _windows_of_page(reader, kind, search, limit, offset)
        shown = [_text_row(one, cell) for one in reader.shown(kind, found.rows, redact)]
    return reply_json(
        {
            "total": found.total,
            "rows": value(shown),
            "windows": found.windows,
            "searched": None if search is None else min(found.windows, _SEARCHED),
            "target": str(pair.target),
            "predictor": None if pair.predictor is None else str(pair.predictor),
            "redacted": redact,
            "warnings": warnings,
        }
    )


@dataclass(frozen=True)
class _PageOfWindows:
    """`rows` of the `total` that were asked for, out of all `windows` of the cell."""

    windows: int
    total: int
    rows: list[Row]


def _windows_of_page(
    reader: TextReader, cell: MemorizedCell, search: str | None, limit: int, offset: int
) -> _PageOfWindows:
    """The windows of a cell, or those with the text `search`: at most `limit` after `offset`."""
    from memoserve.memorized import count_rows, rows_of

    windows = count_rows(reader.catalog, reader.pair, cell)
    if search is None:
        rows = list(rows_of(reader.catalog, reader.pair, cell, limit, offset))
        return _PageOfWindows(windows, windows, rows)
    found = list(reader.containing(rows_of(reader.catalog, reader.pair, cell, _SEARCHED), search))
    return _PageOfWindows(windows, len(found), found[offset : offset + limit])


def _text_row(one: Shown, cell: Cell) -> dict[str, Any]:
    return {
        "sequence_id": one.row.sequence_id,
        "window_id": None if one.row.window_id is None else str(one.row.window_id),
        "cell": cell,
        "context": "".join(piece.text for piece in one.context),
        "pieces": [{"text": piece.text, "match": not piece.mismatch} for piece in one.continuation],
        "occurrences": one.row.occurrences,
        "compared": one.compared,
        "matches": one.matches,
        "matched_prefix": one.matched_prefix,
    }


def suites(workspace: Workspace, folder: str | None) -> Reply:
    """The shipped suites, those of the operator's folder, and those of the store that have no file."""
    from memoserve.store import Store
    from memoserve.suites import load_suite

    listed = []
    for name, file in suite_files(None if folder is None else Path(folder)).items():
        try:
            suite = load_suite(file)
        except BadInput:
            continue
        listed.append(
            {
                "name": name,
                "models": [model.name for model in suite.models],
                "checkpoints": len(suite.models) * len(suite.steps),
                "description": suite.description,
            }
        )
    known = {one["name"] for one in listed}
    with asking(workspace) as catalog:
        for name in islice(Store.open(workspace.store).suites(), 1000):
            if name in known:
                continue
            models = [one.model for one in catalog.checkpoints() if one.suite == name]
            listed.append(
                {
                    "name": name,
                    "models": list(dict.fromkeys(models)),
                    "checkpoints": len(models),
                    "description": "",
                }
            )
    return reply_json(listed)


def suite(workspace: Workspace, name: str, folder: str | None) -> Reply:
    """One suite: models, steps, sequences."""
    from memoserve.suites import load_suite

    files = suite_files(None if folder is None else Path(folder))
    if name in files:
        loaded = load_suite(files[name])
        control = loaded.sequences.control
        return reply_json(
            {
                "name": name,
                "description": loaded.description,
                "models": [
                    {
                        "name": model.name,
                        "parameters": model.parameters,
                        "parameters_without_embeddings": model.parameters_without_embeddings,
                    }
                    for model in loaded.models
                ],
                "steps": list(loaded.steps),
                "default_steps": list(loaded.default_steps),
                "sequences": {
                    "trained": loaded.sequences.trained,
                    "control": None if control is None else list(control),
                    "tokens": loaded.sequence_length,
                    "batch_size": loaded.batch_size,
                    "needs_data": loaded.sequences.path is None,
                },
            }
        )
    with asking(workspace) as catalog:
        checkpoints = [one for one in catalog.checkpoints() if one.suite == name]
    if not checkpoints:
        raise NotThere(f"there is no suite {name!r}: neither shipped, nor in the operator's folder, nor here")
    steps = sorted({one.step for one in checkpoints})
    models = {
        one.model: {
            "name": one.model,
            "parameters": one.parameters,
            "parameters_without_embeddings": one.parameters_without_embeddings,
        }
        for one in checkpoints
    }
    return reply_json(
        {
            "name": name,
            "description": "",
            "models": list(models.values()),
            "steps": steps,
            "default_steps": steps,
            "sequences": {
                "trained": checkpoints[0].trained,
                "control": None,
                "tokens": None,
                "batch_size": None,
                "needs_data": True,
            },
        }
    )
