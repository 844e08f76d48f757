"""What a run reads, held against everything else that says something about it, before an engine starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from memoserve.checks import Check, failures
from memoserve.domain import Checkpoint
from memoserve.engines import EngineSettings
from memoserve.errors import BadInput
from memoserve.run.checks.data import check_data
from memoserve.run.checks.described_weights import LONGEST, Use
from memoserve.run.checks.weights import WeightsReport
from memoserve.sequences import SequenceSource
from memoserve.store import Store
from memoserve.suites import Suite

CheckWeights = Callable[..., WeightsReport]
"""memoserve.run.check_weights, here or on a node of a cluster."""


@dataclass(frozen=True)
class Inputs:
    """What came of it.

    weights: of the chosen checkpoints; checks: all of them, weights and data; chosen: the checkpoints that
    are left, those without the weights of another one.
    """

    weights: WeightsReport
    checks: tuple[Check, ...]
    chosen: tuple[Checkpoint, ...]

    @property
    def notes(self) -> dict[tuple[str, int], tuple[str | None, str | None]]:
        """What a store keeps of checkpoints' weights, see Store.note_weights."""
        notes: dict[tuple[str, int], tuple[str | None, str | None]] = {
            (one.model.name, one.step): (identity, None)
            for one, identity in self.weights.identities.items()
            if one not in self.weights.refused
        }
        for one, other in self.weights.same_as.items():
            notes[one.model.name, one.step] = self.weights.identities.get(one), str(other)
        return notes


def check_inputs(
    suite: Suite,
    chosen: Sequence[Checkpoint],
    source: SequenceSource,
    settings: EngineSettings,
    store: Store | None,
    *,
    check_weights: CheckWeights,
    partial: bool = False,
    skip_short: bool = False,
) -> Inputs:
    """Check the weights of the chosen checkpoints and the sequences that they are to be evaluated on.

    `store`: with what it holds, weights are compared too. `partial`, `skip_short`: see check_data.
    Raises BadInput, naming all that is wrong, for what stops the whole run; what is wrong with one checkpoint
    is in the result.
    """
    stored = {} if store is None else stored_identities(suite, store)
    weights = check_weights(
        suite,
        chosen,
        use=Use(settings.engine, settings.device, settings.context),
        allow_pickle=settings.allow_pickle,
        stored=stored,
    )
    for checkpoint, identity in weights.identities.items():
        if store is None or (checkpoint.model.name, checkpoint.step) not in stored:
            continue
        if changed := other_weights(checkpoint, identity, store):
            weights.refused[checkpoint] = changed
            weights.same_as.pop(checkpoint, None)
            weights.say("weights as before", checkpoint, "failed", changed)
    data = check_data(
        suite, source, settings.context, weights.vocabulary_size, partial=partial, skip_short=skip_short
    )
    wrong = [
        *weights.stops,
        *_context_too_long(chosen, weights),
        *(f"{check.name}: {check.detail}" for check in failures(data)),
    ]
    if wrong:
        raise BadInput("\n".join(wrong))
    own = tuple(one for one in chosen if one not in weights.same_as)
    return Inputs(weights, (*weights.checks, *data), own)


def _context_too_long(chosen: Sequence[Checkpoint], weights: WeightsReport) -> list[str]:
    """What is wrong with --context, if no chosen checkpoint takes it: then no checkpoint is to blame."""
    details = {
        (check.model, check.step): check.detail for check in failures(weights.checks) if check.name == LONGEST
    }
    if not all((one.model.name, one.step) in details for one in chosen):
        return []
    return [f"{one}: {detail}" for one in chosen[-1:] if (detail := details[one.model.name, one.step])]


def stored_identities(suite: Suite, store: Store) -> dict[tuple[str, int], str]:
    """The identity of the weights that each checkpoint with scores in a store was evaluated with.

    What is damaged says nothing: a run moves it aside before anything else.
    """
    noted = {}
    with suppress(BadInput):
        noted = store.noted_weights(suite.name)
    found = {}
    evaluated = store.evaluated(suite.name)
    for checkpoint in suite.all_checkpoints():
        name = checkpoint.model.name, checkpoint.step
        if name in evaluated:
            identity = noted.get(name, (None, None))[0] or _stored_weights(checkpoint, store)
            if identity is not None:
                found[name] = identity
    return found


def other_weights(checkpoint: Checkpoint, identity: str, store: Store) -> str | None:
    """What is wrong if a checkpoint that a store has parts of was begun with other weights than these."""
    stored = _stored_weights(checkpoint, store)
    if stored is None or stored == identity:
        return None
    directory = store.scores_dir(checkpoint.suite, checkpoint.model.name, checkpoint.step)
    return (
        f"{checkpoint}: the store has parts made with weights {stored}, these are {identity}: use another "
        f"store, or delete {directory}"
    )


def _stored_weights(checkpoint: Checkpoint, store: Store) -> str | None:
    with suppress(BadInput):
        return store.weights_of(checkpoint)
    return None
