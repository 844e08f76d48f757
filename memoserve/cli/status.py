"""`memoserve status`: what a store holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from memoserve.cli.options import StoreArgument
from memoserve.run.options import Options
from memoserve.terminal import escape_for_terminal

if TYPE_CHECKING:
    from memoserve.store import Store


def status(
    directory: StoreArgument = Options.out,
    form: Annotated[
        Literal["table", "json"], typer.Option("--format", "-f", help="How to print it.")
    ] = "table",
    checks: Annotated[
        bool, typer.Option("--checks", help="List what was verified instead, what failed first.")
    ] = False,
) -> None:
    """Say what a store holds: for each checkpoint its scores, what it has seen, and what it memorized."""
    import json
    import sys

    if checks:
        _say_checks(directory, form, sys.stdout.isatty())
        return
    found = store_status(directory)
    if form == "json":
        typer.echo(json.dumps(found, indent=2))
        return
    if not found["suites"]:
        typer.echo(f"{directory}: a store with nothing in it yet (memoserve run fills it)")
    for suite in found["suites"]:
        said = suite["fingerprint"]
        made = ", ".join(
            f"{key} {said[key]}" for key in ("mode", "engine", "engine_version", "dtype") if key in said
        )
        typer.echo(escape_for_terminal(f"suite {suite['suite']}: {made or 'imported'}"))
        typer.echo(f"{len(suite['checkpoints'])} of {suite['checkpoints_in_suite']} checkpoints have scores")
        for path in suite["foreign_parts"]:
            told = f"warning: {path} is of another run than the rest: move it away"
            typer.echo(escape_for_terminal(told), err=True)
        for twin in suite["same_weights"]:
            typer.echo(
                escape_for_terminal(
                    f"{twin['checkpoint']} has the weights of {twin['same_weights_as']}: skipped"
                )
            )
        if suite["checkpoints"]:
            _print(_marked(suite["checkpoints"]), sys.stdout.isatty())
        if suite["checks"]:
            counted = ", ".join(f"{n:,} {result}" for result, n in suite["checks"].items())
            typer.echo(f"checks: {counted} (memoserve status --checks lists them)")
        for failed in suite["failed_checks"]:
            typer.echo(
                escape_for_terminal(f"failed: {failed['name']} of {failed['subject']}: {failed['detail']}")
            )


def _marked(checkpoints: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With a column for those that have another's weights, if any has."""
    mark = "same_weights_as"
    if not any(mark in one for one in checkpoints):
        return checkpoints
    return [{**one, mark: one.get(mark)} for one in checkpoints]


def _say_checks(directory: str, form: str, terminal: bool) -> None:
    import json

    found = store_checks(directory)
    if form == "json":
        typer.echo(json.dumps({"store": directory, "checks": found}, indent=2))
    elif found:
        _print(found, terminal)
    else:
        typer.echo(f"{directory}: nothing was verified, or by a memoserve that kept no checks")


def store_checks(directory: str) -> list[dict[str, Any]]:
    """What was verified of all suites of a store, as JSON has it: the newest of each, what failed first.

    Raises StoreConflict if there is no store, BadInput for a damaged file.
    """
    from memoserve.catalog import Catalog, explained

    with Catalog.open(directory) as catalog, explained(directory):
        result = catalog.query("checks")
        columns = [column[0] for column in result.description or ()]
        rows = [dict(zip(columns, row, strict=True)) for row in result.fetchall()]
    return [{**row, "checked_at": f"{row['checked_at'].isoformat(timespec='seconds')}Z"} for row in rows]


def store_status(directory: str) -> dict[str, Any]:
    """What a store holds, as JSON has it.

    Raises StoreConflict if there is no store, BadInput for a damaged part.
    """
    from memoserve.catalog import Catalog, explained
    from memoserve.report.coverage import checks_by_suite
    from memoserve.store import Store

    store = Store.open(directory)
    with Catalog.open(directory) as catalog, explained(directory):
        rows = catalog.rows(_CHECKPOINTS)
        checks = checks_by_suite(catalog.connection)
    suites = []
    for suite in store.suites():
        its = [row[1:] for row in rows if row[0] == suite]
        evaluated = [row for row in its if row[4]]
        suites.append(
            {
                "suite": suite,
                "fingerprint": store.fingerprint(suite),
                "checkpoints_in_suite": len(its),
                "checkpoints": [_checkpoint_status(store, suite, *row) for row in evaluated],
                "foreign_parts": [path for row in evaluated for path in _foreign(store, suite, *row[1:3])],
                "same_weights": [
                    {"checkpoint": row[0], "same_weights_as": row[-1]} for row in its if row[-1] is not None
                ],
                "checks": checks[suite].counts,
                "failed_checks": checks[suite].failed,
            }
        )
    return {"store": str(directory), "suites": suites}


_CHECKPOINTS = """
SELECT c.suite, c.checkpoint, c.model, c.step, c.sequences_seen, c.evaluated,
       coalesce(m.memorized, 0), coalesce(m.control_memorized, 0), c.same_weights_as
FROM checkpoints c LEFT JOIN (
    SELECT suite, model, step, count(*) FILTER (sequence_id < trained) AS memorized,
           count(*) FILTER (sequence_id >= trained) AS control_memorized
    FROM memorized JOIN checkpoint_parts USING (suite, model, step) GROUP BY ALL
) m USING (suite, model, step)
ORDER BY c.suite, c.model_order, c.step
"""


def _checkpoint_status(
    store: Store,
    suite: str,
    checkpoint: str,
    model: str,
    step: int,
    seen: int,
    evaluated: int,
    memorized: int,
    control: int,
    twin: str | None,
) -> dict[str, Any]:
    parts = store.parts(suite, model, step)
    found = {
        "checkpoint": checkpoint,
        "parts": len(parts),
        "first": parts[0].first,
        "last": parts[-1].last,
        "evaluated": evaluated,
        "sequences_seen": seen,
        "memorized": memorized,
        "control_memorized": control,
    }
    # Scored before that was known; no query but counts uses it unless it is named.
    return found | ({} if twin is None else {"same_weights_as": twin})


def _foreign(store: Store, suite: str, model: str, step: int) -> list[str]:
    """The parts of a checkpoint that are of another run than the suite."""
    from memoserve.store.fingerprint import differences
    from memoserve.store.parts import part_metadata

    fingerprint = store.fingerprint(suite)
    return [
        part.path
        for part in store.parts(suite, model, step)
        if differences(fingerprint, part_metadata(store.files, part).get("fingerprint") or {})
    ]


def _print(rows: list[dict[str, Any]], terminal: bool) -> None:
    from memoserve.queries import Answer
    from memoserve.queries.output import plain
    from memoserve.queries.table import print_table

    answer = Answer(tuple(rows[0]), [tuple(row.values()) for row in rows])
    if terminal:
        print_table(answer, None)
    else:
        typer.echo(plain(answer), nl=False)
