"""Checkpoints on the hub, compared by what the hub says that they hold."""

from __future__ import annotations

from collections.abc import Iterable

from memoserve.domain import Checkpoint
from memoserve.engines.weights.hub_client import HubFailed
from memoserve.engines.weights.hub_listing import HubContents, Revision, list_revisions
from memoserve.run.checks.equal_weights import Held
from memoserve.suites import Suite

LATEST = "main"
"""The branch of the finished model."""


def revision_of(checkpoint: Checkpoint) -> Revision | None:
    """Where a checkpoint is on the hub, if it is there."""
    weights = checkpoint.weights
    return Revision(weights.hub, weights.revision) if weights.hub and weights.revision else None


def hub_revisions(
    suite: Suite, chosen: Iterable[Checkpoint], all_steps: bool = False
) -> dict[Revision, Checkpoint]:
    """What is asked of the hub: the chosen checkpoints there, and what each model's are compared with.

    That is its last step, `main`, which goes by the last step, and the steps whose weights others reported
    them to have; `all_steps`: every step of it.
    """
    wanted: dict[Revision, Checkpoint] = {}

    def add(checkpoint: Checkpoint) -> None:
        if revision := revision_of(checkpoint):
            wanted.setdefault(revision, checkpoint)

    those = [checkpoint for checkpoint in chosen if checkpoint.weights.hub]
    for checkpoint in those:
        add(checkpoint)
        for defect in suite.defects:
            if defect.names(checkpoint):
                for step in (defect.of, *(defect.steps if defect.kind == "equal steps" else ())):
                    if isinstance(step, int):
                        add(suite.checkpoint(checkpoint.model, step))
    for model in dict.fromkeys(checkpoint.model for checkpoint in those):
        for step in suite.steps if all_steps else suite.steps[-1:]:
            add(suite.checkpoint(model, step))
        last = suite.checkpoint(model, suite.steps[-1])
        wanted.setdefault(Revision(str(last.weights.hub), LATEST), last)
    return wanted


def held_on_hub(
    suite: Suite,
    chosen: Iterable[Checkpoint],
    allow_pickle: bool,
    all_steps: bool,
    stored: Iterable[tuple[str, int]],
) -> tuple[list[Held], dict[Checkpoint, HubContents | HubFailed]]:
    """What is compared, and what was found out about each of the chosen checkpoints."""
    those = [checkpoint for checkpoint in chosen if checkpoint.weights.hub]
    models = {checkpoint.model.name: checkpoint.model for checkpoint in those}
    scored = [
        suite.checkpoint(models[name], step)
        for name, step in stored
        if name in models and step in suite.steps
    ]
    wanted = hub_revisions(suite, [*those, *scored], all_steps)
    found = list_revisions(wanted, allow_pickle)
    held = []
    for revision, checkpoint in wanted.items():
        contents = found[revision]
        if isinstance(contents, HubContents):
            latest = revision != revision_of(checkpoint)
            held.append(
                Held(
                    checkpoint,
                    str(revision) if latest else str(checkpoint),
                    contents,
                    chosen=not latest and checkpoint in those,
                    stored=not latest and checkpoint in scored,
                    latest=latest,
                )
            )
    of_chosen = {}
    for checkpoint in those:
        revision_ = revision_of(checkpoint)
        assert revision_ is not None
        of_chosen[checkpoint] = found[revision_]
    return held, of_chosen
