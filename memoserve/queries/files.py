"""The query files: where they are, and what their headers say."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memoserve.errors import BadInput

# Inside a wheel, and in a checkout.
_FOLDERS = (Path(__file__).parent / "sql", Path(__file__).parents[2] / "queries")

_PARAMETER = re.compile(r"^parameter: (\w+) \(([^,)]+), (.+?)\): (.+)$")
_COLUMN = re.compile(r"^column: (\w+): (.+)$")


@dataclass(frozen=True)
class Parameter:
    """A DuckDB variable that a query reads.

    `type` is text, checkpoint, checkpoint names, number, numbers, whole number (from 1 on), or the words
    that it may be, as in smaller|earlier.
    """

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Column:
    """A column of a query's answer."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Query:
    """One query file."""

    name: str
    path: Path
    sql: str

    @cached_property
    def _header(self) -> list[str]:
        lines = []
        for line in self.sql.splitlines():
            if not line.startswith("--"):
                break
            lines.append(line.removeprefix("--").strip())
        return lines

    @property
    def question(self) -> str:
        """The first line: what the query answers."""
        return self._header[0]

    @property
    def description(self) -> str:
        """The header's text between the question and the parameters."""
        text = [line for line in self._header[1:] if not line.startswith(("parameter:", "column:"))]
        return "\n".join(text).strip()

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """What may be set, in the order of the header."""
        found = (_PARAMETER.match(line) for line in self._header)
        return tuple(Parameter(*match.groups()) for match in found if match)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The documented columns; an interval (`_low`, `_high`) stands with the column it belongs to."""
        found = (_COLUMN.match(line) for line in self._header)
        return tuple(Column(*match.groups()) for match in found if match)


def queries_folder() -> Path:
    """Where the SQL files are."""
    for folder in _FOLDERS:
        if folder.is_dir():
            return folder
    raise BadInput(f"the query files are missing ({_FOLDERS[0]}): memoserve is not installed whole")


def list_queries() -> tuple[Query, ...]:
    """Every query, by name."""
    files = sorted(queries_folder().glob("*.sql"))
    return tuple(Query(file.stem, file, file.read_text(encoding="utf-8")) for file in files)


def find_query(name: str) -> Query:
    """The query of that name. Raises BadInput, listing the queries, if there is none."""
    queries = {query.name: query for query in list_queries()}
    if name not in queries:
        raise BadInput(f"there is no query {name!r}; the queries are {', '.join(queries)}")
    return queries[name]
