"""Parameters from text (the command line, HTTP) and from Python, as the typed values that are bound."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from numbers import Integral, Real

from memoserve.errors import BadInput, did_you_mean
from memoserve.queries.files import Parameter, Query

Value = str | float | int | list[str] | list[float]
"""What a DuckDB variable is set to: VARCHAR, DOUBLE, BIGINT, or a list of the first two."""


def typed_values(query: Query, values: Mapping[str, object]) -> dict[str, Value]:
    """The values in the types that the query's header declares; text is read as the command line has it.

    Raises BadInput for a parameter that the query doesn't have, and for a value of another type.
    """
    declared = {parameter.name: parameter for parameter in query.parameters}
    for name in values:
        if name not in declared:
            raise BadInput(
                f"query {query.name} has no parameter {name!r}{did_you_mean(name, declared)}; its parameters "
                "are " + (", ".join(f"--{parameter}" for parameter in declared) or "none")
            )
    return {name: typed(declared[name], value) for name, value in values.items()}


def typed(parameter: Parameter, value: object) -> Value:
    """One value in its parameter's type. Raises BadInput if it can't be of that type."""
    if parameter.type == "numbers":
        numbers = [_number(one) for one in _several(value)]
        known = [number for number in numbers if number is not None]
        if not numbers or len(known) < len(numbers):
            raise BadInput(f"--{parameter.name} takes numbers separated by commas, not {value!r}")
        return known
    if parameter.type == "number":
        number = _number(value)
        if number is None:
            raise BadInput(f"--{parameter.name} takes a number, not {value!r}")
        return number
    if parameter.type == "whole number":
        if isinstance(value, bool) or not re.fullmatch(r"0*[1-9][0-9]{0,15}", str(value)):
            raise BadInput(f"--{parameter.name} takes a whole number from 1 on, not {value!r}")
        return int(str(value))
    if parameter.type == "checkpoint names":
        return [str(name) for name in _several(value)]
    if "|" in parameter.type:
        choices = parameter.type.split("|")
        if value not in choices:
            raise BadInput(
                f"--{parameter.name} is {' or '.join(choices)}, not {value!r}"
                + did_you_mean(str(value), choices)
            )
    return str(value)


def _several(value: object) -> list[object]:
    """What stands between commas or spaces, or the members of a list."""
    if isinstance(value, str):
        bare = value.strip().removeprefix("[").removesuffix("]")
        return [text for text in re.split(r"[,\s]+", bare) if text]
    return list(value) if isinstance(value, Iterable) else [value]


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, str | Real | Integral):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
