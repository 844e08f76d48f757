"""Statements of memoserve's own that are longer than a line or two: files beside the code that runs them."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def statement(beside: str, name: str) -> str:
    """The SQL of sql/NAME.sql in the folder of the module `beside` (its __file__). Values are parameters."""
    return (Path(beside).parent / "sql" / f"{name}.sql").read_text(encoding="utf-8")
