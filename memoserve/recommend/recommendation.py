"""The recommendation: which rule to run for a budget, the runner-up, and what more compute would buy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from memoserve.errors import BadInput
from memoserve.recommend.flagged_sets import Flagging, flags_the_same
from memoserve.recommend.forecast import (
    Backtest,
    Forecast,
    Forecasts,
    Target,
    cheapest_forecast,
    choose_forecast,
    forecast_rules,
)
from memoserve.recommend.law import RULE
from memoserve.recommend.rules import Bounds, Rule, Share, Unit, cheapest, choose, judge, read_rules

if TYPE_CHECKING:
    import duckdb

GRID = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)

_TESTS = 2
"""Budgets for which a forecast says how the same procedure did elsewhere: the asked one and its double."""

Basis = Literal["measured", "forecast"]


@dataclass(frozen=True)
class Recommended:
    """A rule with what to expect of it. `precision` and `recall` never come from the labels that chose it."""

    answer: str
    predictors: str
    rule: str
    training_flops: float
    flops_share: float
    budget_flops: float | None
    budget_share: float | None
    flagged: int | None
    precision: Share
    recall: Share
    choosing_precision: float | None
    choosing_recall: float | None
    interval: str
    basis: Basis

    @property
    def key(self) -> tuple[str, str]:
        """What it is, whatever question it answers."""
        return self.predictors, self.rule


class Advisor:
    """Everything that could be recommended for one target, read once, to ask for any budget.

    With `forecast`, or where the target has no scores, from the law over smaller models; else from the
    target's own scores, chosen on one half of the training order and judged on the other.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        store: str | Path,
        target: Target,
        bounds: Bounds,
        *,
        unit: Unit = "sequences",
        forecast: bool = False,
        seed: int = 0,
    ) -> None:
        self.target, self.bounds, self.unit, self.seed = target, bounds, unit, seed
        self.basis: Basis = "forecast" if forecast or not target.evaluated else "measured"
        self.refused: dict[str, str] = {}
        self.base_rate = 0.0
        self._rules: list[Rule] = []
        self._forecasts: tuple[Forecast, ...] = ()
        self.forecasts: Forecasts | None = None
        self._connection = connection
        if self.basis == "forecast":
            self.forecasts = forecast_rules(connection, store, target, unit)
            self._forecasts, self.refused = self.forecasts.rules, self.forecasts.refused
        else:
            self._rules = read_rules(connection, store, target.suite, target.checkpoint, unit)
            if not self._rules:
                raise BadInput(f"nothing evaluated in this store costs less than {target.checkpoint}")
            self.base_rate = _base_rate(connection, target, unit)

    def cheapest_cost(self) -> tuple[str, float]:
        """(checkpoint, FLOPs) of the cheapest candidate."""
        costs = [(r.training_flops, r.predictors) for r in self._rules]
        costs += [(f.training_flops, f.predictors) for f in self._forecasts]
        flops, name = min(costs)
        return name, flops

    def best(self, budget: float, answer: str = "recommended") -> Recommended | None:
        """The best rule within `budget` FLOPs."""
        if self.basis == "forecast":
            forecast = choose_forecast(self._forecasts, budget, self.bounds)
            return None if forecast is None else self._expect(forecast, answer, budget)
        rule = choose(self._rules, budget, self.bounds)
        return None if rule is None else self._judge(rule, answer, budget)

    def runner_up(self, budget: float) -> Recommended | None:
        """The best rule within `budget` FLOPs of other predictors than the best, that flags another set.

        Two rules may flag the very same sequences: a union whose second member adds nothing to the first,
        two checkpoints that memorized the same.
        """
        if self.basis == "forecast":
            best = choose_forecast(self._forecasts, budget, self.bounds)
            if best is None:
                return None
            forecasts = list(self._forecasts)
            others = frozenset({best.predictors})
            while (found := choose_forecast(forecasts, budget, self.bounds, without=others)) is not None:
                if not self._flags_the_same(_flagging(best), _flagging(found)):
                    return self._expect(found, "runner-up", budget)
                forecasts.remove(found)
            return None
        chosen = choose(self._rules, budget, self.bounds)
        if chosen is None:
            return None
        rules = list(self._rules)
        others = frozenset({chosen.predictors})
        while (rule := choose(rules, budget, self.bounds, without=others)) is not None:
            # Counting is cheaper than comparing.
            if rule.flagged != chosen.flagged or not self._flags_the_same(
                Flagging(chosen.predictors, chosen.signal, chosen.tau),
                Flagging(rule.predictors, rule.signal, rule.tau),
            ):
                return self._judge(rule, "runner-up", budget)
            rules = [other for other in rules if other is not rule]
        return None

    def _flags_the_same(self, one: Flagging, other: Flagging) -> bool:
        target = self.target
        return flags_the_same(
            self._connection, target.suite, target.checkpoint, self.unit, one, other,
            evaluated=self.basis == "measured",
        )  # fmt: skip

    def papers(self, budget: float) -> Recommended | None:
        """The best within the budget by the paper's rule: one checkpoint, what it memorized."""
        if self.basis == "forecast":
            paper = [f for f in self._forecasts if f.line.is_papers]
            forecast = choose_forecast(paper, budget, self.bounds)
            return None if forecast is None else self._expect(forecast, "paper's rule", budget)
        rule = choose([r for r in self._rules if r.is_papers], budget, self.bounds)
        return None if rule is None else self._judge(rule, "paper's rule", budget)

    def cheapest(self, recall: float) -> Recommended | None:
        """The cheapest rule that reaches a recall."""
        answer = f"cheapest for recall {recall:g}"
        if self.basis == "forecast":
            forecast = cheapest_forecast(self._forecasts, recall, self.bounds)
            return None if forecast is None else self._expect(forecast, answer, None)
        rule = cheapest(self._rules, recall, self.bounds)
        return None if rule is None else self._judge(rule, answer, None)

    def backtest(self, share: float) -> Backtest | None:
        """The same choice for the largest target that has scores, as if it had none."""
        if self.forecasts is None or self.forecasts.rehearsal is None:
            return None
        return self.forecasts.rehearsal.choose(share, self.bounds)

    def grid(self, shares: tuple[float, ...] = GRID) -> list[tuple[float, Recommended | None]]:
        """(budget as a share of the target's compute, the best rule within it)."""
        return [(share, self.best(share * self.target.training_flops, f"{share:.0%}")) for share in shares]

    def _judge(self, rule: Rule, answer: str, budget: float | None) -> Recommended:
        precision, recall = judge(rule, self.seed)
        return Recommended(
            answer,
            rule.predictors,
            rule.line,
            rule.training_flops,
            rule.training_flops / self.target.training_flops,
            budget,
            None if budget is None else budget / self.target.training_flops,
            rule.flagged,
            precision,
            recall,
            rule.choosing.precision,
            rule.choosing.recall,
            "Wilson, by window" if rule.is_papers else "bootstrap, by block",
            "measured",
        )

    def _expect(self, rule: Forecast, answer: str, budget: float | None) -> Recommended:
        return Recommended(
            answer,
            rule.predictors,
            str(rule.line),
            rule.training_flops,
            rule.training_flops / self.target.training_flops,
            budget,
            None if budget is None else budget / self.target.training_flops,
            rule.flagged,
            rule.precision,
            rule.recall,
            None,
            None,
            "prediction, both parts at their ends"
            if rule.line.operation == "union"
            else "prediction, by pair of models",
            "forecast",
        )


def _flagging(forecast: Forecast) -> Flagging:
    return Flagging(forecast.predictors, forecast.line.signal, forecast.line.tau)


def _base_rate(connection: duckdb.DuckDBPyConnection, target: Target, unit: Unit) -> float:
    """Share of what the target has seen and was evaluated on that it memorized."""
    item = "s.sequence_id" if unit == "sequences" else "w.window_id"
    joined = "" if unit == "sequences" else "JOIN sequences w USING (suite, sequence_id)"
    (rate,) = connection.execute(
        f"""
        SELECT count(DISTINCT {item}) FILTER (coalesce(s.matched_prefix, s.matches) = 32)
               / count(DISTINCT {item})
        FROM scores s {joined} JOIN checkpoints c USING (suite, model, step)
        WHERE suite = $suite AND model = $model AND step = $step
          AND s.sequence_id < least(c.sequences_seen, c.trained)
        """,
        {"suite": target.suite, "model": target.model, "step": target.step},
    ).fetchone() or (0.0,)
    return float(rate or 0.0)


def find_target(connection: duckdb.DuckDBPyConnection, suite: str | None, checkpoint: str | None) -> Target:
    """The target, evaluated or not; by default the last evaluated step of the largest evaluated model.

    Raises BadInput, listing checkpoints, for one that the suite doesn't have.
    """
    suites = [
        name
        for (name,) in connection.execute(
            "SELECT suite FROM checkpoints GROUP BY suite ORDER BY max(evaluated) = 0, suite"
        ).fetchall()
    ]
    if not suites:
        raise BadInput("this store is empty: run memoserve run first")
    if suite is not None and suite not in suites:
        raise BadInput(f"suite {suite!r} is not in this store; it holds {', '.join(suites)}")
    chosen = suite or suites[0]
    rows = connection.execute(
        """
        SELECT suite, checkpoint, model, step, model_order, parameters, training_flops, evaluated
        FROM checkpoints WHERE suite = $suite AND (same_weights_as IS NULL OR checkpoint = $checkpoint)
        ORDER BY model_order, step
        """,
        {"suite": chosen, "checkpoint": checkpoint},
    ).fetchall()
    targets = [Target(*row) for row in rows]
    if checkpoint is None:
        evaluated = [target for target in targets if target.evaluated]
        if not evaluated:
            raise BadInput(f"nothing of suite {chosen} is evaluated in this store")
        found = evaluated[-1]
    else:
        named = [target for target in targets if target.checkpoint == checkpoint]
        if not named:
            last = list({target.model: target.checkpoint for target in targets}.values())
            raise BadInput(
                f"--target {checkpoint}: suite {chosen} has no such checkpoint; its models' last ones are "
                + ", ".join(last)
            )
        found = named[0]
    if found.training_flops <= 0:
        raise BadInput(f"--target {found.checkpoint} took no training compute, so nothing is cheaper")
    return found


def parse_budget(text: str, target: Target) -> float:
    """A budget in FLOPs, from a number of FLOPs or a percentage of the target's own compute."""
    number = text.strip()
    share = number.endswith("%")
    try:
        value = float(number.removesuffix("%"))
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise BadInput(
            f"--budget takes FLOPs, such as 1e21, or a share of the target's, such as 10%; not {text!r}"
        )
    return value / 100 * target.training_flops if share else value


def recommend(
    advisor: Advisor, budget: float | None, recall: float | None
) -> tuple[list[Recommended], list[str]]:
    """The answers, and what to say about them. Raises BadInput if nothing keeps to budget and bounds."""
    answers: list[Recommended] = []
    said: list[str] = []
    target = advisor.target.checkpoint
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
        papers = advisor.papers(budget)
        doubled = advisor.best(2 * budget, "doubled budget")
        answers += [best, *(a for a in (second, papers, doubled) if a is not None)]
        said += _reasons(advisor, best, second, papers, doubled)
    if recall is not None:
        cheap = advisor.cheapest(recall)
        if cheap is None:
            said.append(f"No candidate reaches a recall of {recall:g} with {advisor.bounds}.")
        else:
            answers.append(cheap)
            said.append(
                f"The cheapest that reaches a recall of {recall:g}{_where(advisor)} is {_name(cheap)}, for "
                f"{cheap.flops_share:.1%} of the target's compute: recall {_share(cheap.recall)}, "
                f"precision {_share(cheap.precision)}."
            )
    return answers, said + _caveats(advisor, answers)


def grid_answers(advisor: Advisor) -> tuple[list[Recommended], list[str]]:
    """The best for each of a grid of budgets, and where the best changes."""
    rows = advisor.grid()
    answers = [row for _, row in rows if row is not None]
    none = [f"{share:.0%}" for share, row in rows if row is None]
    said = (
        [f"Nothing within {', '.join(none)} of the target's compute keeps to {advisor.bounds}."]
        if none
        else []
    )
    changes: list[tuple[float, Recommended]] = []
    for share, row in rows:
        if row is not None and (not changes or changes[-1][1].predictors != row.predictors):
            changes.append((share, row))
    if changes:
        said.append(
            "The best predictor by budget: "
            + ", ".join(f"from {share:.0%} {row.predictors}" for share, row in changes)
            + "."
        )
    return answers, said + _caveats(advisor, answers)


@dataclass(frozen=True)
class Advice:
    """What was recommended for a target, and what to say about it."""

    target: Target
    unit: Unit
    answers: list[Recommended]
    said: list[str]

    def table(self) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
        """(columns, rows) of the answers."""
        return as_rows(self.answers, self.target, self.unit)


def advise(
    connection: duckdb.DuckDBPyConnection,
    store: str | Path,
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

    A precision of 0.8 is wanted where nothing else bounds what is flagged. Raises BadInput if nothing keeps
    to budget and bounds.
    """
    if min_precision is None and max_flagged is None:
        min_precision = Bounds().min_precision
    chosen = find_target(connection, suite, target)
    flops = None if budget is None else parse_budget(budget, chosen)
    advisor = Advisor(
        connection, store, chosen, Bounds(min_precision, max_flagged), unit=unit, forecast=forecast, seed=seed
    )
    answers, said = ([], []) if flops is None and recall is None else recommend(advisor, flops, recall)
    if grid:
        rows, more = grid_answers(advisor)
        answers, said = [*answers, *rows], list(dict.fromkeys([*said, *more]))
    return Advice(chosen, unit, answers, said)


def _reasons(
    advisor: Advisor,
    best: Recommended,
    second: Recommended | None,
    papers: Recommended | None,
    doubled: Recommended | None,
) -> list[str]:
    verb = "is forecast to find" if advisor.basis == "forecast" else "finds"
    said = [
        f"Run {_name(best)}: for {best.flops_share:.1%} of the compute of {advisor.target.checkpoint} "
        f"it {verb} {_share(best.recall)} of what that memorizes at a precision of {_share(best.precision)}"
        + (f", where the runner-up, {_name(second)}, finds {_share(second.recall)}." if second else
           ", and nothing else within the budget keeps to the bound.")
    ]  # fmt: skip
    if papers is not None and papers.key != best.key:
        said.append(
            f"By the paper's rule alone the best is {papers.predictors}: recall {_share(papers.recall)}, "
            f"precision {_share(papers.precision)}."
        )
    if doubled is not None:
        said.append(
            "Doubling the budget changes nothing."
            if doubled.key == best.key
            else f"Doubling the budget buys {_name(doubled)}: recall {_share(doubled.recall)}, "
            f"precision {_share(doubled.precision)}."
        )
    return said


def _caveats(advisor: Advisor, answers: list[Recommended]) -> list[str]:
    bound = f"Bound: {advisor.bounds}"
    if advisor.basis == "forecast":
        said = [
            f"{bound}, as forecast.",
            f"This is a forecast: no score of {advisor.target.model} enters, only how smaller models predict "
            f"each other (memoserve scaling shows the law and its error). Rule of support: {RULE}. "
            "A threshold or a union must keep the precision with its forecast's lower limit, one-sided 90%.",
        ]
        said += _tested(advisor, answers) + _implied(answers, advisor.unit)
        if advisor.forecasts is not None and advisor.forecasts.without_law:
            lines = ", ".join(advisor.forecasts.without_law)
            said.append(f"Too little is evaluated for a law of its own: {lines}.")
        if advisor.refused:
            why = next(iter(advisor.refused.values()))
            said.append(f"No forecast for {len(advisor.refused)} candidates without support ({why}).")
        return said
    said = [
        f"{bound}, kept on the even blocks of the training order, which choose (a threshold must keep the "
        "precision with its lower limit, one-sided 90%); figures are of the odd blocks, which share no "
        f"window with them. Flagging all {advisor.unit} would have a precision of {advisor.base_rate:.3f}."
    ]
    least = advisor.bounds.min_precision
    short = [
        a
        for a in answers
        if least is not None and a.precision.value is not None and a.precision.value < least
    ]
    if short:
        names = "; ".join(dict.fromkeys(f"{_name(a)} ({a.precision.value:.3f})" for a in short))
        said.append(f"On the judging blocks the precision falls below the bound for {names}.")
    return said


def _tested(advisor: Advisor, answers: list[Recommended]) -> list[str]:
    """What the same procedure would have said of the largest target whose scores are known."""
    shares = list(dict.fromkeys(a.budget_share for a in answers if a.budget_share and a.budget_share <= 1))
    tests = [test for test in map(advisor.backtest, shares[:_TESTS]) if test is not None]
    if not tests:
        return [
            "How well this procedure chooses is unknown here: with one more size hidden, too few are left to "
            "fit a law to."
        ]
    return [said_of(test) for test in tests]


def _implied(answers: list[Recommended], unit: Unit) -> list[str]:
    """How many the target would memorize by each forecast: flagged x precision / recall."""
    implied = {
        _name(a): a.flagged * a.precision.value / a.recall.value
        for a in answers
        if a.flagged and a.precision.value and a.recall.value
    }
    if len(implied) < 2:
        return []
    low, high = min(implied.values()), max(implied.values())
    return [
        f"Recall, precision and what is flagged hang together: by these forecasts the target memorizes "
        f"{low:,.0f} to {high:,.0f} {unit}, which is one number in truth, so their spread is error."
    ]


def said_of(test: Backtest) -> str:
    """A backtest in a sentence."""
    start = f"Tested on {test.target} with its scores hidden, at {test.share:.0%} of its compute: "
    if test.chosen is None or test.found is None:
        return (
            f"{start}nothing would have been recommended; in hindsight a recall of {test.best:.3f} was there."
        )
    recall, precision = Share(test.found.recall), Share(test.found.precision)
    return (
        f"{start}{test.chosen.predictors} ({test.chosen.line}) would have been recommended, forecast recall "
        f"{_share(test.chosen.recall)}, precision {_share(test.chosen.precision)}; it had {_share(recall)} "
        f"and {_share(precision)}. The best in hindsight had a recall of {test.best:.3f}."
    )


def _where(advisor: Advisor) -> str:
    return " by the forecast" if advisor.basis == "forecast" else " on the choosing blocks"


def _name(answer: Recommended) -> str:
    return f"{answer.predictors} ({answer.rule})"


def _share(share: Share) -> str:
    if share.value is None:
        return "unknown"
    if share.low is None or share.high is None:
        return f"{share.value:.3f}"
    return f"{share.value:.3f} ({share.low:.3f} to {share.high:.3f})"


_SHARES: tuple[tuple[str, Callable[[Recommended], Share]], ...] = (
    ("precision", lambda a: a.precision),
    ("recall_corpus", lambda a: a.recall),
)


def as_rows(
    answers: list[Recommended], target: Target, unit: Unit
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
            target.checkpoint, unit, a.basis, a.answer, a.budget_flops, a.budget_share, a.predictors, a.rule,
            a.training_flops, a.flops_share, a.flagged, *shares, a.choosing_precision, a.choosing_recall,
            a.interval,
        ))  # fmt: skip
    return columns, rows
