"""The query files: where they are, and what their headers say.

A header is the comment at the top of a file: the question, what it takes to understand the answer, and
lines `parameter: NAME (TYPE, DEFAULT): MEANING`, `column: NAME: MEANING`, `group: NAME` and
`example: COMMAND`. What is longer than a line goes on in the next one, indented.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from memoserve.errors import BadInput, did_you_mean

# Inside a wheel, and in a checkout.
_FOLDERS = (Path(__file__).parent / "sql", Path(__file__).parents[2] / "queries")

_FIELD = re.compile(r"(parameter|column|group|example): (.*)")
_PARAMETER = re.compile(r"(\w+) \(([^,)]+), (.+?)\): (.+)")
_COLUMN = re.compile(r"(\w+): (.+)")
_TYPES = frozenset({"text", "model", "checkpoint", "checkpoint names", "number", "numbers", "whole number"})


@dataclass(frozen=True)
class Parameter:
    """A DuckDB variable that a query reads.

    `type` is text, model, checkpoint, checkpoint names, number, numbers, whole number (from 1 on), or the
    words that it may be, as in smaller|earlier. `default` says in words what holds without it.
    """

    name: str
    type: str
    default: str
    meaning: str


@dataclass(frozen=True)
class ColumnMeaning:
    """A column of a query's answer."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Query:
    """One query file. `shipped`: it comes with memoserve, and is not somebody's own."""

    name: str
    path: Path
    sql: str
    shipped: bool = True

    @cached_property
    def _header(self) -> list[str]:
        """Its lines, what was broken being whole again."""
        lines: list[str] = []
        for line in self.sql.splitlines():
            if not line.startswith("--"):
                break
            text = line.removeprefix("--")
            if text.startswith("   ") and lines and _FIELD.match(lines[-1]):
                lines[-1] += f" {text.strip()}"
            else:
                lines.append(text.strip())
        return lines

    def _fields(self, kind: str) -> list[str]:
        found = (_FIELD.fullmatch(line) for line in self._header)
        return [field[2] for field in found if field and field[1] == kind]

    @property
    def question(self) -> str:
        """The first line: what the query answers; its name if the file has no header."""
        return self._header[0] if self._header else self.name

    @property
    def description(self) -> str:
        """The header's text between the question and its fields."""
        return "\n".join(line for line in self._header[1:] if not _FIELD.match(line)).strip()

    @property
    def group(self) -> str:
        """What its question is about, together with others."""
        return next(iter(self._fields("group")), "Your own")

    @property
    def example(self) -> str:
        """A command that asks it."""
        return next(iter(self._fields("example")), f"memoserve query {self.path if self.path else self.name}")

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """What may be set, in the order of the header. Raises BadInput for a line that says none."""
        found = []
        for text in self._fields("parameter"):
            match = _PARAMETER.fullmatch(text)
            if match is None or (match[2] not in _TYPES and "|" not in match[2]):
                raise BadInput(
                    f"{self.path}: `parameter: {text}` can't be read. It is "
                    "`parameter: NAME (TYPE, DEFAULT): MEANING`, "
                    f"and a type is one of {', '.join(sorted(_TYPES))}, or words as in one|other"
                )
            found.append(Parameter(*match.groups()))
        return tuple(found)

    @property
    def columns(self) -> tuple[ColumnMeaning, ...]:
        """The documented columns; an interval (`_low`, `_high`) stands with the column it belongs to."""
        found = (_COLUMN.fullmatch(text) for text in self._fields("column"))
        return tuple(ColumnMeaning(*match.groups()) for match in found if match)


def queries_folder() -> Path:
    """Where the SQL files are."""
    for folder in _FOLDERS:
        if folder.is_dir():
            return folder
    raise BadInput(f"the query files are missing ({_FOLDERS[0]}): memoserve is not installed whole")


def read_query(file: Path) -> Query:
    """Somebody's own query file. Raises BadInput if it can't be read."""
    try:
        return Query(file.stem, file, file.read_text(encoding="utf-8"), shipped=False)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise BadInput(f"the query file {file} can't be read: {why}") from None


def list_queries(own: Path | None = None) -> tuple[Query, ...]:
    """Every query that comes with memoserve, by name, then those of a folder `own`.

    Raises BadInput if `own` is no folder, or has a file named as one that comes with memoserve.
    """
    files = sorted(queries_folder().glob("*.sql"))
    shipped = tuple(Query(file.stem, file, file.read_text(encoding="utf-8")) for file in files)
    if own is None:
        return shipped
    if not own.is_dir():
        raise BadInput(f"{own} is no folder: --queries takes one that holds .sql files")
    mine = tuple(map(read_query, sorted(own.glob("*.sql"))))
    taken = {query.name for query in shipped} & {query.name for query in mine}
    if taken:
        raise BadInput(
            f"{own} has files named as memoserve's own queries ({', '.join(sorted(taken))}): rename them"
        )
    return shipped + mine


def find_query(name: str, own: Path | None = None) -> Query:
    """The query of that name, or of that file if it ends in .sql.

    Raises BadInput, listing the queries, if there is none.
    """
    if name.endswith(".sql"):
        return read_query(Path(name))
    if own is None and re.fullmatch(r"\w+", name) and (file := queries_folder() / f"{name}.sql").is_file():
        return Query(name, file, file.read_text(encoding="utf-8"))
    queries = {query.name: query for query in list_queries(own)}
    if name not in queries:
        raise BadInput(
            f"there is no query {name!r}{did_you_mean(name, queries)}; the queries are {', '.join(queries)}"
        )
    return queries[name]
