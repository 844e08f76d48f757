"""Names inside SQL. Values never stand in it: they are parameters."""

from __future__ import annotations


def identifier(name: str) -> str:
    """A name as SQL has it in quotes, whatever is in it."""
    return '"' + name.replace('"', '""') + '"'
