"""The values of an answer as people read them."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

from memoserve.queries.answer import Answer
from memoserve.terminal import escape_for_terminal

# Numbers that name something rather than count it.
_NAMES = {"step", "score", "suite", "first", "last"}


def cells_of(answer: Answer) -> list[list[str]]:
    """Every value for people, row by row; whole numbers have no decimals."""
    whole = whole_columns(answer)
    return [
        [human(name, value, whole=one) for name, value, one in zip(answer.columns, row, whole, strict=True)]
        for row in answer.rows
    ]


def numeric_columns(answer: Answer) -> list[bool]:
    """Which columns hold numbers, and nothing else."""
    return [
        bool(values)
        and all(isinstance(one, int | float | Decimal) and not isinstance(one, bool) for one in values)
        for values in _columns(answer)
    ]


def whole_columns(answer: Answer) -> list[bool]:
    """Which columns hold floating-point numbers that are all whole, such as thresholds of 1 to 32."""
    return [
        bool(values) and all(isinstance(one, float | Decimal) and one == int(one) for one in finite)
        for values in _columns(answer)
        for finite in [[one for one in values if not isinstance(one, float) or math.isfinite(one)]]
    ]


def _columns(answer: Answer) -> list[list[Any]]:
    return [
        [row[index] for row in answer.rows if row[index] is not None] for index in range(len(answer.columns))
    ]


def human(name: str, value: Any, *, whole: bool = False) -> str:
    """A value for people: 1,234,567 counts, 70.4M parameters, 0.956 shares, 1.32e+20 FLOPs, text on one line
    that no terminal obeys. `whole`: of a column of whole numbers, which need no decimals.
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        if name in _NAMES or name.endswith("_id"):
            return str(value)
        if name.startswith("parameters"):
            return _short(value)
        return f"{value:,}"
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, float):
        size = abs(value)
        if not math.isfinite(value):
            return str(value)
        if value == 0:
            return "0"
        if whole and size < 1e6:
            return f"{value:,.0f}"
        if size >= 1e6 or size < 1e-4:
            return f"{value:.2e}"
        return f"{value:.4f}" if size < 0.1 else f"{value:.3f}" if size < 10 else f"{value:,.1f}"
    return escape_for_terminal(str(value))


def _short(value: int) -> str:
    for size, unit in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)
