"""Which smaller targets teach a forecast, what predicts them, and what all of these runs cost together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from memoserve.catalog import StoredCheckpoint

Basis = Literal["features", "signals", "both"]
BASES: tuple[Basis, ...] = ("features", "signals", "both")

LEAST_ROLES = 2
"""Of fewer, nothing tells how the answer changes with scale."""
MOST_MODELS = 4
"""More teach little that these don't, and each costs its training and a pass over its scores."""


@dataclass(frozen=True)
class Role:
    """A target, and the checkpoint whose signals predict it; None from features alone.

    `earlier` is a checkpoint of the predictor's own model, about half as far trained: it costs nothing more.
    """

    target: StoredCheckpoint
    predictor: StoredCheckpoint | None = None
    earlier: StoredCheckpoint | None = None

    def __str__(self) -> str:
        return self.target.name if self.predictor is None else f"{self.predictor.name} -> {self.target.name}"

    @property
    def runs(self) -> tuple[StoredCheckpoint, ...]:
        """Every checkpoint whose scores it needs, the target's among them."""
        return tuple(run for run in (self.target, self.predictor, self.earlier) if run is not None)


@dataclass(frozen=True)
class Plan:
    """A forecast before it is made: the role to forecast, and the smaller roles that it is learned from.

    `suite`: of the roles, where that is another one than the target's: what is paid already.
    """

    basis: Basis
    role: Role
    teachers: tuple[Role, ...]
    suite: str | None = None

    @property
    def predictors(self) -> tuple[StoredCheckpoint, ...]:
        """The checkpoints of the target's own suite whose scores predict."""
        return tuple(run for run in self.role.runs if run is not self.role.target)

    @property
    def paid(self) -> tuple[StoredCheckpoint, ...]:
        """Every checkpoint whose scores or labels it uses and that has to be paid for."""
        taught = () if self.suite is not None else tuple(run for role in self.teachers for run in role.runs)
        return tuple(dict.fromkeys((*self.predictors, *taught)))

    @property
    def training_flops(self) -> float:
        """What it costs: checkpoints of one model what the costliest of them does, models together."""
        return cost(self.paid)


def cost(runs: Iterable[StoredCheckpoint]) -> float:
    """The training compute of runs in FLOPs: of each model what its latest checkpoint took, added up."""
    latest: dict[tuple[str, str], float] = {}
    for run in runs:
        key = run.suite, run.model
        latest[key] = max(latest.get(key, 0.0), run.training_flops)
    return sum(latest.values())


def plans(
    target: StoredCheckpoint,
    runs: Sequence[StoredCheckpoint],
    basis: Basis,
    *,
    elsewhere: tuple[Role, ...] | None = None,
    suite: str | None = None,
) -> list[Plan]:
    """Every way to forecast a target from evaluated smaller models, cheapest first.

    Each set of two to four smaller models, at their last evaluated step up to the target's, may teach: each
    of them as the target of every smaller one of the set. The largest of the set predicts the target itself.
    Never contains a checkpoint of the target's model, nor of one as large. With roles of another `suite`
    (`elsewhere`), which are paid, only what predicts is chosen.
    """
    last, all_of = _evaluated(target, runs)
    found = []
    if elsewhere is not None:
        alone = [Role(target)] if basis == "features" else [
            Role(target, run, half_as_far(run, all_of[run.model])) for run in last
        ]  # fmt: skip
        found = [Plan(basis, role, elsewhere, suite) for role in alone if len(elsewhere) >= LEAST_ROLES]
        return sorted(found, key=lambda plan: plan.training_flops)
    for count in range(LEAST_ROLES, min(len(last), MOST_MODELS) + 1):
        for chosen in combinations(last, count):
            plan = _plan(target, chosen, all_of, basis)
            if len(plan.teachers) >= LEAST_ROLES:
                found.append(plan)
    return sorted(found, key=lambda plan: plan.training_flops)


def taught_elsewhere(runs: Sequence[StoredCheckpoint], step: int, basis: Basis) -> tuple[Role, ...]:
    """Every role that a suite's evaluated models can play, the largest's too, at their last such step."""
    of_model: dict[str, list[StoredCheckpoint]] = {}
    for run in sorted(runs, key=lambda run: (run.order, run.step)):
        if run.evaluated and run.step <= step:
            of_model.setdefault(run.model, []).append(run)
    last = [several[-1] for several in of_model.values()][-MOST_MODELS:]
    return teachers(last, basis, {run.name: half_as_far(run, of_model[run.model]) for run in last})


def last_smaller(target: StoredCheckpoint, runs: Sequence[StoredCheckpoint]) -> list[StoredCheckpoint]:
    """The last evaluated checkpoint up to the target's step of each smaller model, ascending by size."""
    return _evaluated(target, runs)[0]


def teachers(
    runs: Sequence[StoredCheckpoint], basis: Basis, earlier: dict[str, StoredCheckpoint | None]
) -> tuple[Role, ...]:
    """The roles among runs of different models, ascending by size; `earlier` by the predictor's name."""
    if basis == "features":
        return tuple(Role(run) for run in runs)
    return tuple(Role(run, smaller, earlier.get(smaller.name)) for smaller, run in combinations(runs, 2))


def choose(found: Sequence[Plan], budget: float) -> Plan | None:
    """The plan within a budget (FLOPs) that no label of the target chose.

    Of the largest predictor (from features alone: the largest role), then of the most roles, then of the
    costliest: what lies nearest to the target extrapolates least.
    """
    return max(
        (plan for plan in found if plan.training_flops <= budget),
        key=lambda plan: (
            max(role.target.order for role in plan.teachers)
            if plan.role.predictor is None
            else plan.role.predictor.order,
            len(plan.teachers),
            plan.training_flops,
        ),
        default=None,
    )


def too_little(
    target: StoredCheckpoint, runs: Sequence[StoredCheckpoint], basis: Basis, suite: str | None = None
) -> str:
    """Why no plan exists, and what to run, in words."""
    if suite is not None:
        return f"a forecast from {describe(basis)} needs at least {LEAST_ROLES} roles in suite {suite}" + (
            "" if basis == "features" else f", and an evaluated model that is smaller than {target.model}"
        )
    last, _ = _evaluated(target, runs)
    needed = LEAST_ROLES if basis == "features" else LEAST_ROLES + 1
    names = ", ".join(run.name for run in last) or "none"
    return (
        f"a forecast from {describe(basis)} needs {needed} evaluated models that are smaller than "
        f"{target.model}, to learn from how they play its role; evaluated are {names}. Evaluate more of them "
        "(memoserve run), or learn from another store (--fit-on)"
    )


def describe(basis: Basis) -> str:
    """A basis in words."""
    return {
        "features": "features alone",
        "signals": "signals of cheap runs alone",
        "both": "features and signals",
    }[basis]


def _evaluated(
    target: StoredCheckpoint, runs: Iterable[StoredCheckpoint]
) -> tuple[list[StoredCheckpoint], dict[str, list[StoredCheckpoint]]]:
    """(of each smaller model the last evaluated checkpoint up to the target's step; all of each)."""
    all_of: dict[str, list[StoredCheckpoint]] = {}
    for run in sorted(runs, key=lambda run: (run.order, run.step)):
        if (
            run.evaluated
            and run.order < target.order
            and run.parameters < target.parameters
            and run.step <= target.step
        ):
            all_of.setdefault(run.model, []).append(run)
    return [of_model[-1] for of_model in all_of.values()], all_of


def half_as_far(run: StoredCheckpoint, of_model: Sequence[StoredCheckpoint]) -> StoredCheckpoint | None:
    """The evaluated checkpoint of the same model that is nearest to half of a run's steps, and before it."""
    before = [other for other in of_model if 0 < other.step < run.step]
    return min(before, key=lambda other: abs(other.step - run.step / 2), default=None)


def _plan(
    target: StoredCheckpoint,
    chosen: Sequence[StoredCheckpoint],
    all_of: dict[str, list[StoredCheckpoint]],
    basis: Basis,
) -> Plan:
    earlier = {run.name: half_as_far(run, all_of[run.model]) for run in chosen}
    taught = teachers(chosen, basis, earlier)
    if basis == "features":
        return Plan(basis, Role(target), taught)
    return Plan(basis, Role(target, chosen[-1], earlier[chosen[-1].name]), taught)
