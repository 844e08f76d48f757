"""Which checkpoints have scores in doubt."""

from __future__ import annotations

from memoserve.checks import Check, failures
from memoserve.run.checks import proof
from memoserve.run.plan import Plan
from memoserve.store import Store


def doubtful(plan: Plan, store: Store) -> tuple[Check, ...]:
    """Which of a plan's checkpoints have scores in doubt: held against token frequencies, and beside each
    other, which is done here with all figures that the store has. Raises BadInput for damaged checks.
    """
    suite = plan.suite.name
    found = {
        (check.name, check.model, check.step): check
        for check, _ in store.read_checks(suite)
        if check.name in proof.IMPLAUSIBLE
    }
    figures = {
        item: check.figure
        for item in plan.suite.all_checkpoints()
        if (check := found.get((proof.PLAUSIBLE, item.model.name, item.step))) and check.figure is not None
    }
    wanted = {item.checkpoint for item in plan.checkpoints}
    together = [
        check
        for item, check in proof.plausible_together(figures).items()
        if item in wanted and found.get((check.name, check.model, check.step)) != check
    ]
    store.write_checks(suite, together)
    found |= {(check.name, check.model, check.step): check for check in together}
    chosen = {(item.model.name, item.step) for item in wanted}
    return tuple(check for check in failures(found.values()) if (check.model, check.step) in chosen)
