"""An answer, whatever asked for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """A result as it came out of DuckDB."""

    columns: tuple[str, ...]
    rows: list[tuple[Any, ...]]
