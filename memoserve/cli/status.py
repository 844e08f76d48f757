"""`memoserve status`: what a store holds."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from memoserve.cli.options import StoreArgument
from memoserve.run.options import Options
from memoserve.terminal import escape_for_terminal


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
    from memoserve.store.fingerprint import differences
    from memoserve.store.parts import part_metadata

    store = Store.open(directory)
    with Catalog.open(directory) as catalog, explained(directory):
        rows = catalog.rows(
            """
            SELECT c.suite, c.checkpoint, c.model, c.step, c.sequences_seen, c.evaluated,
                   coalesce(m.memorized, 0), coalesce(m.control_memorized, 0)
            FROM checkpoints c LEFT JOIN (
                SELECT suite, model, step, count(*) FILTER (sequence_id < trained) AS memorized,
                       count(*) FILTER (sequence_id >= trained) AS control_memorized
                FROM memorized JOIN checkpoint_parts USING (suite, model, step) GROUP BY ALL
            ) m USING (suite, model, step)
            ORDER BY c.suite, c.model_order, c.step
            """
        )
        twins = catalog.rows(
            "SELECT suite, checkpoint, same_weights_as FROM checkpoints WHERE same_weights_as IS NOT NULL "
            "ORDER BY suite, model_order, step"
        )
        checks = checks_by_suite(catalog.connection)
    same = {(suite, checkpoint): other for suite, checkpoint, other in twins}
    suites = []
    for suite in store.suites():
        fingerprint = store.fingerprint(suite)
        checkpoints = []
        foreign = []
        for _, checkpoint, model, step, seen, evaluated, memorized, control in (
            r for r in rows if r[0] == suite
        ):
            if not evaluated:
                continue
            parts = store.parts(suite, model, step)
            foreign += [
                part.path
                for part in parts
                if differences(fingerprint, part_metadata(store.files, part).get("fingerprint") or {})
            ]
            checkpoints.append(
                {
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
                | ({"same_weights_as": same[suite, checkpoint]} if (suite, checkpoint) in same else {})
            )
        suites.append(
            {
                "suite": suite,
                "fingerprint": fingerprint,
                "checkpoints_in_suite": sum(row[0] == suite for row in rows),
                "checkpoints": checkpoints,
                "foreign_parts": foreign,
                "same_weights": [
                    {"checkpoint": name, "same_weights_as": other}
                    for its, name, other in twins
                    if its == suite
                ],
                "checks": checks[suite].counts,
                "failed_checks": checks[suite].failed,
            }
        )
    return {"store": str(directory), "suites": suites}


def _print(rows: list[dict[str, Any]], terminal: bool) -> None:
    from memoserve.queries import Answer
    from memoserve.queries.output import plain
    from memoserve.queries.table import print_table

    answer = Answer(tuple(rows[0]), [tuple(row.values()) for row in rows])
    if terminal:
        print_table(answer, None)
    else:
        typer.echo(plain(answer), nl=False)
