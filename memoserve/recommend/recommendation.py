"""The recommendation: which rule to run for a budget, the runner-up, and what more compute would buy."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from memoserve.catalog import Catalog, StoredCheckpoint
from memoserve.errors import BadInput
from memoserve.recommend.advisor import Advisor, Recommended
from memoserve.recommend.rules import Bounds, Share, Unit
from memoserve.recommend.sentences import caveats, name_of, reasons, share_text, where_reached
from memoserve.recommend.target import find_target, parse_budget


def recommend(
    advisor: Advisor, budget: float | None, recall: float | None
) -> tuple[list[Recommended], list[str]]:
    """The answers, and what to say about them. Raises BadInput if nothing keeps to budget and bounds."""
    answers: list[Recommended] = []
    sentences: list[str] = []
    target = advisor.target.name
    if budget is not None:
        best = advisor.best(budget)
        if best is None:
            name, flops = advisor.cheapest_cost()
            share = flops / advisor.target.training_flops
            if budget < flops:
                raise BadInput(
                    f"the budget of {budget:.3g} FLOPs is below the cheapest candidate, {name} "
                    f"({flops:.3g} FLOPs, {share:.3g} of {target}'s compute)"
                )
            raise BadInput(
                f"no candidate within {budget:.3g} FLOPs finds anything and keeps to {advisor.bounds}: "
                "raise the budget, or lower the bound"
            )
        second = advisor.runner_up(budget)
        paper_rule = advisor.paper_rule(budget)
        doubled = advisor.best(2 * budget, "doubled budget")
        answers += [best, *(a for a in (second, paper_rule, doubled) if a is not None)]
        sentences += reasons(advisor, best, second, paper_rule, doubled)
    if recall is not None:
        cheap = advisor.cheapest(recall)
        if cheap is None:
            sentences.append(f"No candidate reaches a recall of {recall:g} with {advisor.bounds}.")
        else:
            answers.append(cheap)
            sentences.append(
                f"The cheapest that reaches a recall of {recall:g}{where_reached(advisor)} is "
                f"{name_of(cheap)}, for {cheap.flops_share:.1%} of the target's compute: recall "
                f"{share_text(cheap.recall)}, precision {share_text(cheap.precision)}."
            )
    return answers, sentences + caveats(advisor, answers)


def grid_answers(advisor: Advisor) -> tuple[list[Recommended], list[str]]:
    """The best for each of a grid of budgets, and where the best changes."""
    rows = advisor.grid()
    answers = [row for _, row in rows if row is not None]
    none = [f"{share:.0%}" for share, row in rows if row is None]
    sentences = (
        [f"Nothing within {', '.join(none)} of the target's compute keeps to {advisor.bounds}."]
        if none
        else []
    )
    changes: list[tuple[float, Recommended]] = []
    for share, row in rows:
        if row is not None and (not changes or changes[-1][1].predictors != row.predictors):
            changes.append((share, row))
    if changes:
        sentences.append(
            "The best predictor by budget: "
            + ", ".join(f"from {share:.0%} {row.predictors}" for share, row in changes)
            + "."
        )
    return answers, sentences + caveats(advisor, answers)


@dataclass(frozen=True)
class Advice:
    """What was recommended for a target, and what to say about it. `budget`: in FLOPs, None without one."""

    target: StoredCheckpoint
    unit: Unit
    answers: list[Recommended]
    sentences: list[str]
    budget: float | None

    @property
    def title(self) -> str:
        """What the answers are about."""
        return f"What to run to know what {self.target.name} memorizes"

    def table(self) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        """(columns, rows) of the answers."""
        return as_rows(self.answers, self.target, self.unit)


def advise(
    catalog: Catalog,
    *,
    suite: str | None = None,
    target: str | None = None,
    budget: str | None = None,
    recall: float | None = None,
    grid: bool = False,
    min_precision: float | None = None,
    max_flagged: int | None = None,
    unit: Unit = "sequences",
    forecast: bool = False,
    seed: int = 0,
) -> Advice:
    """What to run within `budget` (as parse_budget reads it), to reach `recall`, for a `grid` of budgets.

    One of the three has to be asked for. A precision of 0.8 is wanted where nothing else bounds what is
    flagged. Raises BadInput if nothing keeps to budget and bounds.
    """
    if budget is None and recall is None and not grid:
        raise BadInput("specify --budget (such as 10%), --recall (such as 0.9) or --grid")
    if min_precision is None and max_flagged is None:
        min_precision = Bounds().min_precision
    chosen = find_target(catalog, suite, target)
    flops = None if budget is None else parse_budget(budget, chosen)
    advisor = Advisor(
        catalog, chosen, Bounds(min_precision, max_flagged), unit=unit, forecast=forecast, seed=seed
    )
    answers, sentences = ([], []) if flops is None and recall is None else recommend(advisor, flops, recall)
    if grid:
        rows, more = grid_answers(advisor)
        answers, sentences = [*answers, *rows], list(dict.fromkeys([*sentences, *more]))
    return Advice(chosen, unit, answers, sentences, flops)


def export_hint(advice: Advice, store: str | Path) -> list[str]:
    """The command that lists what the rule for a budget flags, as a sentence; none without one."""
    if advice.budget is None or advice.answers[0].flagged is None:
        return []
    best = advice.answers[0]
    words = [str(store), "--predictor", best.predictors]
    signal, line, tau = best.rule.partition(" >= ")
    if line:
        words += ["--signal", signal, "--threshold", tau]
    command = shlex.join([*words, "-o", "to-remove.parquet"])
    return [f"To list what it flags: memoserve export {command}"]


_SHARES: tuple[tuple[str, Callable[[Recommended], Share]], ...] = (
    ("precision", lambda a: a.precision),
    ("recall_corpus", lambda a: a.recall),
)


def as_rows(
    answers: list[Recommended], target: StoredCheckpoint, unit: Unit
) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    """(columns, rows) for printing."""
    columns = (
        "target", "unit", "basis", "answer", "budget_flops", "budget_share", "predictors", "rule",
        "training_flops", "flops_share", "flagged",
        *(f"{name}{end}" for name, _ in _SHARES for end in ("", "_low", "_high")),
        "choosing_precision", "choosing_recall", "interval",
    )  # fmt: skip
    rows: list[tuple[object, ...]] = []
    for a in answers:
        shares = [v for _, of in _SHARES for v in (of(a).value, of(a).low, of(a).high)]
        rows.append((
            target.name, unit, a.basis, a.answer, a.budget_flops, a.budget_share, a.predictors, a.rule,
            a.training_flops, a.flops_share, a.flagged, *shares, a.choosing_precision, a.choosing_recall,
            a.interval,
        ))  # fmt: skip
    return columns, rows
