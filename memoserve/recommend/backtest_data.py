"""What rules did for smaller targets, whose scores are known: what forecasts are fitted to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from memoserve.catalog import Catalog, StoredCheckpoint
from memoserve.recommend.law import Observation
from memoserve.recommend.rules import NoWindows, Rule, RuleCounts, Unit, read_rules

# Each line has a law of its own, so few lines.
TAUS: Mapping[str, tuple[float, ...]] = {
    "matched_prefix": (1, 2, 4, 8, 12, 16, 20, 24, 28),
    "matches": (4, 8, 12, 16, 20, 24, 28),
    "continuation_ll": (-32, -24, -16, -12, -8, -6, -4, -3, -2, -1, -0.5),
}
UNION = "union"


@dataclass(frozen=True, order=True)
class Line:
    """What is predicted of a run: what it memorized, or (with `tau`) what has a signal of at least tau.

    `operation` is alone, or union: of what two runs of different models memorized.
    """

    operation: str
    signal: str
    tau: float | None

    def __str__(self) -> str:
        if self.tau is not None:
            return f"{self.signal} >= {self.tau:g}"
        return "memorized by either" if self.operation == UNION else "memorized"

    @property
    def is_paper_rule(self) -> bool:
        """Whether this is the paper's rule."""
        return self.operation == "alone" and self.tau is None


PAPER_RULE = Line("alone", "memorized", None)
EITHER = Line(UNION, "memorized", None)


@dataclass(frozen=True)
class RuleResult:
    """A line of a run (of two, the costlier first) that predicted a target with scores.

    Trials are effective numbers, equal windows as one cluster; None: unknown.
    """

    target: StoredCheckpoint
    runs: tuple[StoredCheckpoint, ...]
    line: Line
    counts: RuleCounts
    flagged_trials: float | None
    memorized_trials: float | None

    @property
    def training_flops(self) -> float:
        """What the runs cost together: they are of different models."""
        return sum(run.training_flops for run in self.runs)


def read_runs(catalog: Catalog, suite: str) -> dict[str, StoredCheckpoint]:
    """Every checkpoint of the suite that took compute and has weights of its own, by name."""
    return {
        one.name: one
        for one in catalog.checkpoints()
        if one.suite == suite and one.training_flops > 0 and one.same_weights_as is None
    }


def read_rule_results(
    catalog: Catalog,
    suite: str,
    runs: Mapping[str, StoredCheckpoint],
    unit: Unit,
    *,
    below: int,
    step: int,
) -> list[RuleResult]:
    """Each model of an order below `below` as target, at its last evaluated step up to `step`.

    By the query recommend_candidates, of everything up to the target's size that costs less than it.
    """
    last: dict[str, StoredCheckpoint] = {}
    for run in runs.values():
        if run.evaluated and run.order < below and run.step <= step:
            last[run.model] = run
    found = []
    for target in last.values():
        try:
            rules = read_rules(catalog, suite, target.name, unit, blocks=1)
        except NoWindows:
            # Asked of each target; whoever finds nothing raises it.
            continue
        found += list(_results_of(target, rules, runs))
    return found


def _results_of(
    target: StoredCheckpoint, rules: Iterable[Rule], runs: Mapping[str, StoredCheckpoint]
) -> Iterable[RuleResult]:
    lines: dict[tuple[StoredCheckpoint, str], dict[float, Rule]] = {}
    for rule in rules:
        predictors = [runs[name] for name in rule.predictors.split(" + ") if name in runs]
        if len(predictors) != rule.predictors.count(" + ") + 1 or any(
            run.order > target.order for run in predictors
        ):
            continue
        if rule.tau is not None:
            lines.setdefault((predictors[0], rule.signal), {})[rule.tau] = rule
        elif len(predictors) == 1:
            yield _one(target, (predictors[0],), PAPER_RULE, rule)
        elif len({run.model for run in predictors}) == len(predictors):
            dear_first = sorted(predictors, key=lambda run: (-run.training_flops, run.order, run.step))
            yield _one(target, tuple(dear_first), EITHER, rule)
    for (run, signal), by_tau in lines.items():
        for tau in TAUS[signal]:
            # Of a value that no sequence has, the next above flags the same.
            if above := [value for value in by_tau if value >= tau]:
                yield _one(target, (run,), Line("alone", signal, tau), by_tau[min(above)])


def _one(target: StoredCheckpoint, runs: tuple[StoredCheckpoint, ...], line: Line, rule: Rule) -> RuleResult:
    return RuleResult(
        target, runs, line, rule.choosing, rule.choosing_effective, rule.choosing_memorized_effective
    )


def observed(result: RuleResult) -> Observation:
    """A line of one run as an observation of the law."""
    run, target, counts = result.runs[0], result.target, result.counts
    return Observation(
        target.name, target.model, target.order, target.training_flops, run.name, run.model,
        run.training_flops / target.training_flops, run.parameters / target.parameters,
        counts.recall, result.memorized_trials or 0.0, counts.precision, result.flagged_trials or 0.0,
    )  # fmt: skip


def union_gain(both: RuleResult, alone: Mapping[tuple[str, str], RuleResult]) -> Observation | None:
    """What the cheaper run of a union adds to the costlier, as an observation of a law.

    In place of recall, the share that it finds of what the costlier missed; in place of precision, the share
    of what it adds that the target memorized; compute and size are ratios to the costlier's. None where the
    two were not evaluated on the same sequences, or where nothing is missed. `alone`: the paper's rule, by
    names of target and run.
    """
    dear, cheap = both.runs
    first, second = (alone.get((both.target.name, run.name)) for run in (dear, cheap))
    if first is None or second is None or first.counts.memorized != both.counts.memorized:
        return None
    missed = first.counts.memorized - first.counts.hits
    added = both.counts.flagged - first.counts.flagged
    hits = both.counts.hits - first.counts.hits
    if missed <= 0 or added < 0:
        return None
    # Of parts of what was counted, the effective numbers are taken in proportion.
    per_miss = (first.memorized_trials or 0.0) / first.counts.memorized
    per_flag = (second.flagged_trials or 0.0) / second.counts.flagged if second.counts.flagged else 0.0
    target = both.target
    return Observation(
        target.name, target.model, target.order, target.training_flops,
        f"{dear.name} + {cheap.name}", f"{dear.model} + {cheap.model}",
        cheap.training_flops / dear.training_flops, cheap.parameters / dear.parameters,
        hits / missed, missed * per_miss, hits / added if added else None, added * per_flag,
    )  # fmt: skip
