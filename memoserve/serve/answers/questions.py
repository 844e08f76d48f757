"""What can be asked of a store: each a function that a reader process runs, and that gives a reply."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memoserve.errors import BadInput
from memoserve.serve.answers.formats import MOST_ROWS, Format, names_and_rows, reply_json, value, write
from memoserve.serve.answers.pool import Reply, Workspace, catalog
from memoserve.serve.errors import NotThere
from memoserve.serve.files import file_of_suite, suite_files

if TYPE_CHECKING:
    from memoserve.memorized import Shown

Unit = Literal["sequences", "windows"]
Cell = Literal["memorized", "hit", "miss", "false_alarm"]

Values = tuple[tuple[str, str], ...]
"""Names and values, as pairs so that a question can be remembered."""

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
    with catalog(workspace) as connection:
        rows = connection.execute(
            "SELECT suite, count(*) FILTER (evaluated > 0), count(*), sum(evaluated)::BIGINT "
            "FROM checkpoints GROUP BY suite ORDER BY suite"
        ).fetchall()
        checks = checks_by_suite(connection, _FAILED_SHOWN)
    counted = {row[0]: row[1:] for row in rows}
    suites = []
    for name in opened.suites():
        evaluated, checkpoints, scores = counted.get(name, (0, 0, 0))
        suites.append(
            {
                "suite": name,
                "fingerprint": opened.fingerprint(name),
                "evaluated_checkpoints": evaluated,
                "checkpoints": checkpoints,
                "scores": scores,
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
    from memoserve.catalog import execute
    from memoserve.store import Store

    Store.open(workspace.store)
    with catalog(workspace) as connection:
        if suite is not None:
            names = connection.execute("SELECT DISTINCT suite FROM checkpoints ORDER BY 1").fetchall()
            if (suite,) not in names:
                raise BadInput(
                    f"suite {suite!r} is not in this store; it holds "
                    + (", ".join(name for (name,) in names) or "none")
                )
            connection.execute("SET VARIABLE suite = ?", [suite])
        result = execute(connection, CHECKPOINTS, workspace.store)
        values = {} if suite is None else {"suite": suite}
        # Of all suites together at most some thousands.
        return write(
            workspace, result, "json", MOST_ROWS, "checkpoints", sql=CHECKPOINTS.strip(), values=values
        )


CHECKPOINTS = """
WITH counted AS (
    SELECT suite, model, step,
           sum(CASE WHEN first < seen THEN least(rows, seen - first) ELSE 0 END) AS seen_rows
    FROM part_rows JOIN (
        SELECT suite, model, step, least(sequences_seen, trained) AS seen FROM checkpoints
    ) USING (suite, model, step)
    GROUP BY ALL
)
SELECT c.*, least(sequences_seen, trained) AS wanted,
       greatest(0, least(sequences_seen, trained) - coalesce(seen_rows, 0))::BIGINT AS missing
FROM checkpoints c LEFT JOIN counted USING (suite, model, step)
WHERE suite = coalesce(getvariable('suite'), suite)
ORDER BY suite, model_order, step
"""


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
    from memoserve.catalog import run_query
    from memoserve.queries import find_query

    try:
        found = find_query(name)
    except BadInput as error:
        raise NotThere(str(error)) from None
    values = dict(given)
    with catalog(workspace) as connection:
        result = run_query(connection, found, values, workspace.store)
        return write(workspace, result, form, limit, name, sql=found.sql, values=values)


def sql(workspace: Workspace, statement: str, form: Format, limit: int | None) -> Reply:
    """The answer to SQL of the asker's own, as `memoserve sql` gives it."""
    from memoserve.catalog import execute

    with catalog(workspace) as connection:
        result = execute(connection, statement, workspace.store)
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
    with catalog(workspace) as connection:
        plot = draw(connection, name, dict(given), workspace.store)
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

    with catalog(workspace) as connection:
        advice = advise(
            connection,
            workspace.store,
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
    return reply_json(names_and_rows(*advice.table()) | {"said": advice.sentences})


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
    from memoserve.catalog import Catalog
    from memoserve.memorized import (
        choose,
        count_rows,
        open_texts,
        rows_of,
    )
    from memoserve.store import Store

    kind = "false-alarm" if cell == "false_alarm" else cell
    opened = Store.open(workspace.store)
    warnings: list[str] = []
    with catalog(workspace) as connection:
        asked = Catalog(connection, workspace.store)
        pair = choose(asked, suite, target, predictor)
        name = pair.target.suite
        file = file_of_suite(None if folder is None else Path(folder), name)
        reader = open_texts(
            asked,
            opened,
            pair,
            suite=file,
            data=dict(data).get(name),
            tokenizer=None,
            warn=warnings.append,
        )
        if reader.decoder is None and (search is not None or redact):
            raise BadInput(
                f"suite {pair.target.suite} has no tokenizer, and without text there is nothing to search or "
                "to redact: ask with redact=false for token ids"
            )
        windows = total = count_rows(asked, pair, kind)
        if search is None:
            rows = list(rows_of(asked, pair, kind, limit, offset))
        else:
            looked = rows_of(asked, pair, kind, _SEARCHED)
            found = list(reader.containing(looked, search))
            total, rows = len(found), found[offset : offset + limit]
        shown = [_text_row(one, cell) for one in reader.shown(kind, rows, redact)]
    return reply_json(
        {
            "total": total,
            "rows": value(shown),
            "windows": windows,
            "searched": None if search is None else min(windows, _SEARCHED),
            "target": str(pair.target),
            "predictor": None if pair.predictor is None else str(pair.predictor),
            "redacted": redact,
            "warnings": warnings,
        }
    )


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
    with catalog(workspace) as connection:
        for name in islice(Store.open(workspace.store).suites(), 1000):
            if name in known:
                continue
            rows = connection.execute(
                "SELECT model, count(*) FROM checkpoints WHERE suite = ? GROUP BY model "
                "ORDER BY any_value(model_order)",
                [name],
            ).fetchall()
            listed.append(
                {
                    "name": name,
                    "models": [model for model, _ in rows],
                    "checkpoints": sum(count for _, count in rows),
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
    with catalog(workspace) as connection:
        rows = connection.execute(
            "SELECT model, step, parameters, parameters_without_embeddings, trained FROM checkpoints "
            "WHERE suite = ? ORDER BY model_order, step",
            [name],
        ).fetchall()
    if not rows:
        raise NotThere(f"there is no suite {name!r}: neither shipped, nor in the operator's folder, nor here")
    steps = sorted({row[1] for row in rows})
    models = {row[0]: {"name": row[0], "parameters": row[2], "parameters_without_embeddings": row[3]}
              for row in rows}  # fmt: skip
    return reply_json(
        {
            "name": name,
            "description": "",
            "models": list(models.values()),
            "steps": steps,
            "default_steps": steps,
            "sequences": {
                "trained": rows[0][4],
                "control": None,
                "tokens": None,
                "batch_size": None,
                "needs_data": True,
            },
        }
    )
