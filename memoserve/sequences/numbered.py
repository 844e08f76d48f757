"""Numbered files of one set: their order, and whether all of them are there.

Ids are positions: a file that is missing, or stands elsewhere, moves the ids of all that come after it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from memoserve.errors import BadInput
from memoserve.files.place import Place

_DIGITS = re.compile(r"[0-9]+")
_OF = re.compile(r"(?<![0-9])([0-9]+)[-_.]of[-_.]([0-9]+)(?![0-9])")

_EXTENSIONS = re.compile(r"(\.(snappy|zstd|gz|gzip|brotli|lz4))?\.[A-Za-z]+$")

# A name that says "one of several": 0000, part-3, train_00001, x-00004, and not pile-v2 or tokens-2048.
_PART = re.compile(
    r"^[0-9]+$"
    r"|(^|[-_.])(part|shard|chunk|split|piece|segment|block)[-_.]?[0-9]+"
    r"|(^|[-_.])(data|file|train|test|valid|validation|batch)[-_.][0-9]+"
    r"|(^|[-_.])(0[0-9]{2,}|[0-9]{5,})($|[-_.])",
    re.IGNORECASE,
)


def whole_set(places: Sequence[Place], asked: str) -> tuple[list[Place], str]:
    """The files that a folder or pattern (`asked`) stands for in the order of their numbers, and a note on
    that order for people (empty where it is also that of the names).

    Raises BadInput where a number is missing, or the names don't tell the order.
    """
    if len(places) == 1:
        _check_single(places[0], alone=False)
        return list(places), ""
    kinds = sorted({_DIGITS.sub("#", place.path) for place in places})
    if len(kinds) > 1:
        shown = ", ".join(_base(kind) for kind in kinds[:4]) + (" ..." if len(kinds) > 4 else "")
        raise BadInput(
            f"{asked} holds files of different names ({shown}): in which order they belong together, if they "
            "do, can't be told: give a pattern that fits one set of numbered files"
        )
    numbered = sorted((_numbers(place.path), place) for place in places) if _distinct(places) else []
    if not numbered:
        twice = _twice(places)
        raise BadInput(f"{asked}: {_base(twice[0].path)} and {_base(twice[1].path)} have the same number")
    ordered = [place for _, place in numbered]
    total = _total(ordered[0])
    if total is not None:
        _check_total(ordered, total, asked)
    else:
        _check_gaps([numbers for numbers, _ in numbered], ordered, asked)
    by_name = sorted(places, key=lambda place: place.path)
    return ordered, "" if by_name == ordered else "in the order of their numbers, not of their names"


def check_alone(place: Place) -> None:
    """Raise BadInput if a file that was named alone is one of several.

    Looks at its name, and at what lies beside it (a web server has no listing: there the name alone counts).
    """
    _check_single(place, alone=True)


def _check_single(place: Place, alone: bool) -> None:
    name = _base(place.path)
    stem = _EXTENSIONS.sub("", name)
    match = _OF.search(name)
    if match is not None:
        number, total = int(match[1]), int(match[2])
        if total > 1 or number > total:
            raise BadInput(
                f"{place} is one of {total} files: all are needed, for ids count from the first; give their "
                "folder or a pattern" + _elsewhere(place)
            )
        return
    parts = [int(_DIGITS.findall(match[0])[-1]) for match in _PART.finditer(stem)]
    last = re.search(r"[-_.]([0-9]+)$", stem)
    if last is not None and not alone:  # a folder or a pattern stands for all that there is
        parts.append(int(last[1]))
    if not parts and not (alone and _set_beside(place, name)):
        return
    if alone or any(parts):
        others = _set_beside(place, name)
        beside = f" ({others} of such names lie there)" if others else ""
        raise BadInput(
            f"{place} is named as one of several numbered files{beside}: ids count from the first, so all "
            "are needed: give their folder or a pattern"
            + _elsewhere(place)
            + "; if it is the whole, give it a name without a number"
        )


def _elsewhere(place: Place) -> str:
    """What to do where a set of files can't be given."""
    if place.web:
        return " (a web server lists none: download them)"
    if not place.path.lower().endswith(".parquet"):
        return " of Parquet files, or put them together in one file, in order"
    return ""


def _set_beside(place: Place, name: str) -> int:
    """How many files a complete numbered set has to which this one belongs, 0 for none."""
    kind = _DIGITS.sub("#", name)
    if place.web or "#" not in kind:
        return 0
    folder = place.path.rpartition("/")[0]
    try:
        beside = place.sibling(folder or ("." if place.remote is None else "")).names()
    except BadInput:
        return 0
    same = sorted(_numbers(other) for other in beside if _DIGITS.sub("#", other) == kind)
    varying = [len({numbers[i] for numbers in same}) > 1 for i in range(len(same[0]))] if same else []
    if sum(varying) != 1:
        return 0
    counted = [numbers[varying.index(True)] for numbers in same]
    return len(same) if counted == list(range(counted[0], counted[0] + len(same))) else 0


def _base(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _numbers(path: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _DIGITS.findall(path))


def _distinct(places: Sequence[Place]) -> bool:
    return len({_numbers(place.path) for place in places}) == len(places)


def _twice(places: Sequence[Place]) -> tuple[Place, Place]:
    seen: dict[tuple[int, ...], Place] = {}
    for place in places:
        other = seen.setdefault(_numbers(place.path), place)
        if other is not place:
            return other, place
    raise AssertionError("all numbers differ")


def _total(place: Place) -> int | None:
    match = _OF.search(_base(place.path))
    return int(match[2]) if match is not None else None


def _check_total(ordered: Sequence[Place], total: int, asked: str) -> None:
    found = [_OF.search(_base(place.path)) for place in ordered]
    totals = {int(match[2]) for match in found if match is not None}
    numbers = sorted(int(match[1]) for match in found if match is not None)
    if len(totals) > 1:
        raise BadInput(f"{asked} holds files of different sets (of {', '.join(map(str, sorted(totals)))})")
    # 0..N-1, 1..N, and as Pythia's shards are numbered: 0..N.
    if numbers not in ([*range(total)], [*range(1, total + 1)], [*range(total + 1)]):
        missing = [number for number in range(total) if number not in set(numbers)]
        raise BadInput(
            f"{asked} holds {len(numbers)} of {total} files (-of-{total}); missing are number "
            f"{', '.join(map(str, missing[:5]))}{' ...' if len(missing) > 5 else ''}: all are needed, for "
            "ids count from the first"
        )


def _check_gaps(numbers: Sequence[tuple[int, ...]], ordered: Sequence[Place], asked: str) -> None:
    """Raise BadInput unless the first number that varies goes 0, 1, 2 …, and so on within each of them.

    Within each as far as within the others: else one may be missing, and all ids after it be wrong.
    """
    varying = next(i for i in range(len(numbers[0])) if len({one[i] for one in numbers}) > 1)
    values = sorted({one[varying] for one in numbers})
    if values != list(range(len(values))):
        missing = next(number for number in range(len(values) + 1) if number not in set(values))
        raise BadInput(
            f"{asked} holds {_base(ordered[0].path)} to {_base(ordered[-1].path)}, but none of number "
            f"{missing}: ids count from the first, so all are needed; if they are all, number them from 0"
        )
    groups = [[i for i, one in enumerate(numbers) if one[varying] == value] for value in values]
    for inside in groups:
        if len(inside) != len(groups[0]):
            raise BadInput(
                f"{asked} holds {len(groups[0])} files up to {_base(ordered[groups[0][-1]].path)}, but "
                f"{len(inside)} up to {_base(ordered[inside[-1]].path)}: some may be missing; if none is, "
                "number them through, from 0"
            )
        if len(inside) > 1:
            _check_gaps([numbers[i] for i in inside], [ordered[i] for i in inside], asked)
