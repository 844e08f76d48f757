"""A recommendation in sentences: why, what next, and how far to trust it."""

from __future__ import annotations

from memoserve.recommend.advisor import Advisor, Recommended
from memoserve.recommend.law import RULE
from memoserve.recommend.rehearsal import Backtest
from memoserve.recommend.rules import Share, Unit

_TESTS = 2
"""Budgets for which a forecast says how the same procedure did elsewhere: the asked one and its double."""


def reasons(
    advisor: Advisor,
    best: Recommended,
    second: Recommended | None,
    paper_rule: Recommended | None,
    doubled: Recommended | None,
) -> list[str]:
    verb = "is forecast to find" if advisor.basis == "forecast" else "finds"
    sentences = [
        f"Run {name_of(best)}: for {best.flops_share:.1%} of the compute of {advisor.target.name} "
        f"it {verb} {share_text(best.recall)} of what that memorizes at a precision of "
        f"{share_text(best.precision)}"
        + (f", where the runner-up, {name_of(second)}, finds {share_text(second.recall)}." if second else
           ", and nothing else within the budget keeps to the bound.")
    ]  # fmt: skip
    if paper_rule is not None and paper_rule.key != best.key:
        sentences.append(
            f"By the paper's rule alone the best is {paper_rule.predictors}: "
            f"recall {share_text(paper_rule.recall)}, precision {share_text(paper_rule.precision)}."
        )
    if doubled is not None:
        sentences.append(
            "Doubling the budget changes nothing."
            if doubled.key == best.key
            else f"Doubling the budget buys {name_of(doubled)}: recall {share_text(doubled.recall)}, "
            f"precision {share_text(doubled.precision)}."
        )
    return sentences


def caveats(advisor: Advisor, answers: list[Recommended]) -> list[str]:
    bound = f"Bound: {advisor.bounds}"
    if advisor.basis == "forecast":
        sentences = [
            f"{bound}, as forecast.",
            f"This is a forecast: no score of {advisor.target.model} enters, only how smaller models predict "
            f"each other (memoserve scaling shows the law and its error). Extrapolation limits: {RULE}. "
            "A threshold or a union must keep the precision with its forecast's lower limit, one-sided 90%.",
        ]
        sentences += _tested(advisor, answers) + _implied(answers, advisor.unit)
        if advisor.forecasts is not None and advisor.forecasts.without_law:
            lines = ", ".join(advisor.forecasts.without_law)
            sentences.append(f"Too little is evaluated for a law of its own: {lines}.")
        if advisor.refused:
            why = next(iter(advisor.refused.values()))
            sentences.append(f"No forecast for {len(advisor.refused)} candidates without support ({why}).")
        return sentences
    sentences = [
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
        names = "; ".join(dict.fromkeys(f"{name_of(a)} ({a.precision.value:.3f})" for a in short))
        sentences.append(f"On the judging blocks the precision falls below the bound for {names}.")
    return sentences


def _tested(advisor: Advisor, answers: list[Recommended]) -> list[str]:
    """What the same procedure would have recommended for the largest target whose scores are known."""
    shares = list(dict.fromkeys(a.budget_share for a in answers if a.budget_share and a.budget_share <= 1))
    tests = [test for test in map(advisor.backtest, shares[:_TESTS]) if test is not None]
    if not tests:
        return [
            "How well this procedure chooses is unknown here: with one more size hidden, too few are left to "
            "fit a law to."
        ]
    return [backtest_sentence(test) for test in tests]


def _implied(answers: list[Recommended], unit: Unit) -> list[str]:
    """How many the target would memorize by each forecast: flagged x precision / recall."""
    implied = {
        name_of(a): a.flagged * a.precision.value / a.recall.value
        for a in answers
        if a.flagged and a.precision.value and a.recall.value
    }
    if len(implied) < 2:
        return []
    low, high = min(implied.values()), max(implied.values())
    return [
        f"Recall, precision and what is flagged are linked: by these forecasts the target memorizes "
        f"{low:,.0f} to {high:,.0f} {unit}, which is one number in truth, so their spread is error."
    ]


def backtest_sentence(test: Backtest) -> str:
    """A backtest in a sentence."""
    start = f"Tested on {test.target} with its scores hidden, at {test.share:.0%} of its compute: "
    if test.chosen is None or test.found is None:
        return (
            f"{start}nothing would have been recommended; in hindsight a recall of {test.best:.3f} was there."
        )
    recall, precision = Share(test.found.recall), Share(test.found.precision)
    return (
        f"{start}{test.chosen.predictors} ({test.chosen.line}) would have been recommended, forecast recall "
        f"{share_text(test.chosen.recall)}, precision {share_text(test.chosen.precision)}; it had "
        f"{share_text(recall)} and {share_text(precision)}. "
        f"The best in hindsight had a recall of {test.best:.3f}."
    )


def where_reached(advisor: Advisor) -> str:
    return " by the forecast" if advisor.basis == "forecast" else " on the choosing blocks"


def name_of(answer: Recommended) -> str:
    return f"{answer.predictors} ({answer.rule})"


def share_text(share: Share) -> str:
    if share.value is None:
        return "unknown"
    if share.low is None or share.high is None:
        return f"{share.value:.3f}"
    return f"{share.value:.3f} ({share.low:.3f} to {share.high:.3f})"
