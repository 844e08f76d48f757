"""What was checked, beside the scores: one small Parquet file for each time that something was.

A file is written once and never changed, so that what an earlier run saw stays. Of one thing that was checked
several times, the newest counts.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from memoserve.checks import Check
from memoserve.files.base import Files
from memoserve.store import checksum
from memoserve.store.columns import CHECKS, misfit, schema_of, with_all
from memoserve.store.parts import damaged, metadata_in, rows_of, sealed_table

if TYPE_CHECKING:
    import pyarrow as pa

_NAME = re.compile(r"^checks/suite=([^/]*)/checks-[^/]*\.parquet$")


def checks_folder(suite: str) -> str:
    """Where the checks of a suite are in a store."""
    return f"checks/suite={suite}"


def suite_of_checks(name: str) -> str | None:
    """The suite of a file of checks, None for any other file of a store."""
    match = _NAME.match(name)
    return match[1] if match else None


def write_checks(files: Files, suite: str, checks: Sequence[Check], at: datetime) -> None:
    """Write one file of checks made at a time in UTC; none for no checks. Raises StorageFailed."""
    import pyarrow as pa

    if not checks:
        return
    at = at.astimezone(UTC).replace(tzinfo=None)
    # Two writers within a microsecond get two names; names ascend with time.
    name = f"{checks_folder(suite)}/checks-{at:%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}.parquet"
    rows = [
        {
            "model": check.model,
            "step": check.step,
            "name": check.name,
            "subject": check.subject,
            "result": check.result,
            "figure": check.figure,
            "detail": check.detail,
            "checked_at": at,
        }
        for check in checks
    ]
    table = pa.Table.from_pylist(rows, schema_of(CHECKS))
    files.create(name, sealed_table(table, name))


def read_checks(files: Files, suite: str) -> list[tuple[Check, datetime]]:
    """The newest check of each (model, step, name, subject) with its time in UTC, in order of time.

    Raises BadInput for a damaged file.
    """
    import pyarrow as pa

    newest: dict[tuple[str | None, int | None, str, str], tuple[Check, datetime]] = {}
    folder = checks_folder(suite)
    for bare in files.entries(folder):
        if suite_of_checks(name := f"{folder}/{bare}") is None:
            continue
        try:
            rows = with_all(_checked(name, files.read(name)), CHECKS).to_pylist()
        except FileNotFoundError:
            continue
        except (pa.ArrowException, OSError, ValueError) as error:
            raise damaged(files.location(name), error) from None
        for row in rows:
            at = row.pop("checked_at").replace(tzinfo=UTC)
            check = Check(**{**row, "detail": row["detail"] or ""})
            key = (check.model, check.step, check.name, check.subject)
            if key not in newest or newest[key][1] <= at:
                newest[key] = (check, at)
    return sorted(newest.values(), key=lambda one: one[1])


def refuse_damaged_checks(name: str, content: bytes) -> None:
    """Check every byte of a file of checks. Raises ArrowException, OSError or ValueError for damage."""
    _checked(name, content)


def _checked(name: str, content: bytes) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    checksum.check(content)
    footer = pq.read_metadata(pa.BufferReader(content))
    written = metadata_in(footer)
    if written.get("name") != name:
        raise ValueError(f"its metadata names a different file: {written.get('name')}")
    if problem := misfit(physical_types(footer), CHECKS):
        raise ValueError(problem)
    if footer.num_rows != written.get("rows"):
        raise ValueError(f"it has {footer.num_rows} rows and should have {written.get('rows')}")
    return rows_of(content)


def physical_types(footer: pa.FileMetaData) -> dict[str, str]:
    """The Parquet type of each column of a file, by name."""
    schema = footer.schema
    return {schema.column(i).name: schema.column(i).physical_type for i in range(footer.num_columns)}
