"""Rules that predict what a target memorizes, and what they found where they were chosen and where judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from memoserve.catalog import Catalog
from memoserve.errors import BadInput

Unit = Literal["sequences", "windows"]

REPLICATES = 2000
_Z = 1.959963984540054
_Z90 = 1.2815515655446004


@dataclass(frozen=True)
class RuleCounts:
    """What a rule did on one half of the training order."""

    flagged: int
    memorized: int
    hits: int

    @property
    def precision(self) -> float | None:
        """Share of what was flagged that the target memorized."""
        return self.hits / self.flagged if self.flagged else None

    @property
    def recall(self) -> float | None:
        """recall_corpus: share of all that the target memorized that was flagged."""
        return self.hits / self.memorized if self.memorized else None


@dataclass(frozen=True)
class Share:
    """A share with its 95% interval, each None where there was nothing to judge by."""

    value: float | None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Rule:
    """What is predicted: what `predictors` memorized, or (with `tau`) what has a signal of at least tau.

    `choosing` and `judging` count on two halves of the training order without a common window.
    """

    predictors: str
    operation: str
    signal: str
    tau: float | None
    training_flops: float
    choosing: RuleCounts
    judging: RuleCounts
    choosing_effective: float | None = None
    choosing_memorized_effective: float | None = None
    flagged_effective: float | None = None
    memorized_effective: float | None = None
    # i64[blocks, 3]: flagged, memorized, hits of each judging block that has any.
    blocks: NDArray[np.int64] | None = None

    @property
    def is_paper_rule(self) -> bool:
        """Whether this is the paper's rule: one checkpoint, what it memorized."""
        return self.operation == "alone" and self.tau is None

    @property
    def precision_lower_bound(self) -> float:
        """What the bound is held against: the choosing half's precision; for a line, which was fitted to it,
        Wilson's lower limit (one-sided 90%), else the best of many lines would tend to fall short.
        """
        if self.tau is None:
            return self.choosing.precision or 0.0
        return wilson(self.choosing.precision, self.choosing_effective or 0, _Z90).low or 0.0

    @property
    def flagged(self) -> int:
        """How many the rule flags on both halves together; no label is needed to know it."""
        return self.choosing.flagged + self.judging.flagged

    @property
    def line(self) -> str:
        """In words: memorized, memorized by either, matches >= 28."""
        if self.tau is not None:
            return f"{self.signal} >= {self.tau:g}"
        return "memorized by either" if self.operation == "union" else "memorized"


@dataclass(frozen=True)
class Bounds:
    """What a rule must keep to besides the budget, as far as the choosing half can tell."""

    min_precision: float | None = 0.8
    max_flagged: int | None = None

    def __str__(self) -> str:
        bounds = []
        if self.min_precision is not None:
            bounds.append(f"a precision of at least {self.min_precision:g}")
        if self.max_flagged is not None:
            bounds.append(f"at most {self.max_flagged:,} flagged")
        return " and ".join(bounds)


class NoWindows(BadInput):
    """The store doesn't number the windows of a suite."""


def read_rules(
    catalog: Catalog, suite: str, target: str, unit: Unit, *, blocks: int | None = None
) -> list[Rule]:
    """Every candidate rule for an evaluated target, from the query recommend_candidates.

    The training order is cut into `blocks`; with one, the choosing half is all there is. Raises NoWindows
    if the store doesn't number windows and they are asked for.
    """
    values: dict[str, object] = {"suite": suite, "target": target}
    if blocks is not None:
        values["blocks"] = blocks
    rows = catalog.records("recommend_candidates", **values)
    if rows and unit not in {row["unit"] for row in rows}:
        raise NoWindows(
            f"suite {suite} has no window numbers in this store (imported?): use --unit sequences"
        )
    return [_rule(row) for row in rows if row["unit"] == unit]


def _rule(row: dict[str, Any]) -> Rule:
    def half(name: str) -> RuleCounts:
        return RuleCounts(row[f"{name}_flagged"], row[f"{name}_target_memorized"], row[f"{name}_hits"])

    blocks = [row["block_flagged"], row["block_target_memorized"], row["block_hits"]]
    return Rule(
        row["predictors"],
        row["operation"],
        row["signal"],
        row["tau"],
        row["training_flops"],
        half("choosing"),
        half("judging"),
        row["choosing_flagged_effective"],
        row["choosing_target_memorized_effective"],
        row["flagged_effective"],
        row["target_memorized_effective"],
        np.array(blocks, np.int64).T.reshape(-1, 3),
    )


def choose(
    rules: Sequence[Rule], budget: float, bounds: Bounds, *, without: frozenset[str] = frozenset()
) -> Rule | None:
    """The rule of the highest recall on the choosing half that keeps to the budget (FLOPs) and the bounds.

    Of equals the cheaper, then the paper's, then the stricter. Never looks at the judging half's labels.
    `without` names predictors to leave out.
    """
    return max(
        (r for r in _allowed(rules, budget, bounds) if r.predictors not in without),
        key=lambda r: (r.choosing.recall or 0.0, -r.training_flops, r.is_paper_rule, -r.choosing.flagged),
        default=None,
    )


def cheapest(rules: Sequence[Rule], recall: float, bounds: Bounds) -> Rule | None:
    """The cheapest rule that reaches `recall` on the choosing half within the bounds; of equals the best."""
    return min(
        (r for r in _allowed(rules, math.inf, bounds) if (r.choosing.recall or 0.0) >= recall),
        key=lambda r: (
            r.training_flops,
            -(r.choosing.recall or 0.0),
            not r.is_paper_rule,
            r.choosing.flagged,
        ),
        default=None,
    )


def _allowed(rules: Sequence[Rule], budget: float, bounds: Bounds) -> list[Rule]:
    return [
        rule
        for rule in rules
        if rule.training_flops <= budget
        and rule.choosing.hits > 0
        and (bounds.min_precision is None or rule.precision_lower_bound >= bounds.min_precision)
        and (bounds.max_flagged is None or rule.flagged <= bounds.max_flagged)
    ]


def judge(rule: Rule, seed: int) -> tuple[Share, Share]:
    """(precision, recall_corpus) on the judging half.

    The paper's rule gets Wilson's interval with equal windows as one cluster; unions and thresholds get the
    percentiles of a bootstrap over training-order blocks. Where every block agrees, and so every replicate
    would, it is Wilson's with a block as one trial.
    """
    counts = rule.judging
    if rule.is_paper_rule:
        return (
            wilson(counts.precision, rule.flagged_effective or 0),
            wilson(counts.recall, rule.memorized_effective or 0),
        )
    blocks = rule.blocks if rule.blocks is not None else np.zeros((0, 3), np.int64)
    if not len(blocks):
        return Share(counts.precision), Share(counts.recall)
    weights = np.random.default_rng(seed).multinomial(
        len(blocks), np.full(len(blocks), 1 / len(blocks)), REPLICATES
    )
    drawn = weights @ blocks
    return (
        _bootstrapped(counts.precision, drawn[:, 2], drawn[:, 0], int(np.count_nonzero(blocks[:, 0]))),
        _bootstrapped(counts.recall, drawn[:, 2], drawn[:, 1], int(np.count_nonzero(blocks[:, 1]))),
    )


def _bootstrapped(
    value: float | None, hits: NDArray[np.int64], whole: NDArray[np.int64], trials: int
) -> Share:
    if value is None or value in (0.0, 1.0):
        return wilson(value, trials)
    there = whole > 0
    low, high = np.quantile(hits[there] / whole[there], (0.025, 0.975))
    return Share(value, min(float(low), value), max(float(high), value))


def wilson(value: float | None, trials: float, z: float = _Z) -> Share:
    """Wilson's interval (95% by default) of a share of an (effective) number of trials."""
    if value is None or trials <= 0:
        return Share(value)
    center = value + z**2 / (2 * trials)
    spread = z * math.sqrt(max(0.0, value * (1 - value)) / trials + z**2 / (4 * trials**2))
    scale = 1 + z**2 / trials
    low = 0.0 if value <= 0 else max(0.0, (center - spread) / scale)
    high = 1.0 if value >= 1 else min(1.0, (center + spread) / scale)
    return Share(value, low, high)
