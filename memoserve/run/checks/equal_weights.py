"""Which checkpoints have the weights of another one, whole or in part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from memoserve.checks import Check, CheckResult
from memoserve.domain import Checkpoint
from memoserve.suites import Suite

OWN = "own weights"
"""The name of these checks."""


class Comparable(Protocol):
    """What is known of some weights: their values, or (on the hub) digests of files.

    kind: weights of unlike kinds are never the same; pieces: (name, content) of the matrices or files, and
    each one's share of the whole; computes_as: whether the configurations make the same of equal weights.
    """

    @property
    def kind(self) -> object: ...

    @property
    def pieces(self) -> Mapping[tuple[str, object], float]: ...

    def same_as(self, other: Any, /) -> bool: ...

    def computes_as(self, other: Any, /) -> bool: ...


@dataclass(frozen=True, eq=False)
class Held:
    """Weights that are compared.

    label: how a user names them; chosen: they are to be evaluated; stored: a store has their scores; latest:
    those of the finished model, which stand after every step.
    """

    checkpoint: Checkpoint
    label: str
    contents: Comparable
    chosen: bool = False
    stored: bool = False
    latest: bool = False

    @property
    def rank(self) -> tuple[bool, int]:
        return self.latest, self.checkpoint.step


def compare(
    suite: Suite, held: Sequence[Held], how: str
) -> tuple[tuple[Check, ...], dict[Checkpoint, Checkpoint]]:
    """Checks of the chosen and stored ones, and which have the weights of a later step of their model.

    Of equal steps the latest keeps its weights: what is known to happen is that early branches serve late
    weights, and less training than the weights had would make a run look cheap. `how`: by what they were
    compared, for people. Raises OSError.
    """
    checks: list[Check] = []
    same_as: dict[Checkpoint, Checkpoint] = {}
    groups = _groups(held)
    for group in groups:
        for one in group:
            if one.chosen or one.stored:
                found = _of_one(suite, one, group, same_as)
                checks += found or _no_twin(one, held, how)
    alone = {one for group in groups for one in group if one.checkpoint not in same_as}
    checks += _in_part([one for one in held if one in alone], groups)
    order = {str(one.checkpoint): rank for rank, one in enumerate(held)}
    return tuple(sorted(checks, key=lambda check: order[check.subject])), same_as


def _groups(held: Iterable[Held]) -> list[list[Held]]:
    """Those with the same values together."""
    groups: dict[object, list[list[Held]]] = defaultdict(list)
    for one in held:
        for group in groups[one.contents.kind]:
            if group[0].contents.same_as(one.contents):
                group.append(one)
                break
        else:
            groups[one.contents.kind].append([one])
    return [sorted(group, key=lambda one: one.rank) for kind in groups.values() for group in kind]


def _of_one(
    suite: Suite, one: Held, group: Sequence[Held], same_as: dict[Checkpoint, Checkpoint]
) -> list[Check]:
    """What there is to say of one of a group of equal weights; adds to `same_as`."""
    checkpoint, model = one.checkpoint, one.checkpoint.model
    checks = []
    steps = [other for other in group if other.checkpoint.model == model and other is not one]
    twins = [other for other in steps if one.contents.computes_as(other.contents)]
    undeclared = [
        other for other in twins if not suite.declared_equal(model, checkpoint.step, other.checkpoint.step)
    ]
    later = [o for o in undeclared if o.rank > one.rank and o.checkpoint != checkpoint]
    if later:
        same_as[checkpoint] = later[-1].checkpoint
        checks.append(_check(one, "failed", _weights_of_another(one, later[-1]), len(later)))
    elif twins and one.chosen:
        others = ", ".join(other.label for other in twins)
        why = "the latest of them counts" if undeclared else "the suite declares these steps equal"
        checks.append(_check(one, "passed", f"{one.label} has the weights of {others}: {why}", len(twins)))
    if not one.chosen:
        return checks
    if unlike := [other for other in steps if other not in twins]:
        others = ", ".join(other.label for other in unlike)
        detail = f"{one.label} has the weights of {others}, with another config.json: is that meant?"
        checks.append(_check(one, "warning", detail, len(unlike)))
    if strangers := [other for other in group if other.checkpoint.model != model]:
        others = ", ".join(other.label for other in strangers)
        detail = f"{one.label} has the weights of another model, {others}: is that meant?"
        checks.append(_check(one, "warning", detail, len(strangers)))
    return checks


def _weights_of_another(one: Held, holder: Held) -> str:
    if one.stored and not one.chosen:
        return (
            f"the store's scores of {one.label} were made with the weights of {holder.label}: don't use them"
        )
    return (
        f"{one.label} has the weights of {holder.label} and is left out, as of equal steps the latest counts;"
        " get its own weights, or let the suite's equal_steps declare that the two are equal"
    )


def _no_twin(one: Held, held: Sequence[Held], how: str) -> list[Check]:
    if not one.chosen:
        return []
    model = one.checkpoint.model
    others = sum(other.checkpoint.model == model and other.checkpoint != one.checkpoint for other in held)
    if not others:
        detail = f"no other step of {model.name} is there to compare {one.label} with"
        return [_check(one, "not checked", detail)]
    return [_check(one, "passed", f"unlike {others} other steps of its model, by {how}", others)]


def _in_part(held: Sequence[Held], groups: Sequence[Sequence[Held]]) -> list[Check]:
    """Of the chosen ones, what they share with another chosen step, or with the latest there is."""
    group_of = {one: number for number, group in enumerate(groups) for one in group}
    latest: dict[str, Held] = {}
    for one in sorted(held, key=lambda one: one.rank):
        latest[one.checkpoint.model.name] = one
    owners: dict[tuple[str, tuple[str, object]], list[Held]] = defaultdict(list)
    for one in held:
        if one.chosen or one is latest[one.checkpoint.model.name]:
            for piece in one.contents.pieces:
                owners[one.checkpoint.model.name, piece].append(one)
    checks = []
    for one in held:
        if not one.chosen:
            continue
        shared: dict[Held, list[str]] = defaultdict(list)
        share: dict[Held, float] = defaultdict(float)
        for piece, part in one.contents.pieces.items():
            for other in owners[one.checkpoint.model.name, piece]:
                if group_of[other] != group_of[one]:
                    shared[other].append(piece[0])
                    share[other] += part
        if share:
            other = max(share, key=lambda other: (share[other], other.rank))
            names = sorted(shared[other])
            detail = (
                f"{share[other]:.1%} of {one.label} is as in {other.label}: {', '.join(names[:3])}"
                + (f" and {len(names) - 3} more" if len(names) > 3 else "")
                + ". Right if these were frozen, or hardly trained yet; else files of two steps are mixed"
            )
            checks.append(_check(one, "warning", detail, share[other]))
    return checks


def _check(one: Held, result: CheckResult, detail: str, figure: float | None = None) -> Check:
    checkpoint = one.checkpoint
    return Check(OWN, str(checkpoint), result, detail, figure, checkpoint.model.name, checkpoint.step)
