"""The window ids of a store's sequences, and the lists beside its parts: what is made without an engine."""

from __future__ import annotations

from memoserve.checks import Check, failures
from memoserve.domain import CONTINUATION
from memoserve.errors import BadInput, EngineFailed
from memoserve.run.events import Checked, Indexing, OnEvent
from memoserve.run.plan import Plan
from memoserve.run.windows import window_ids
from memoserve.run.worker import Fetch, WorkerSetup, read
from memoserve.sequences import SequenceSource, check_sequences, check_tokens
from memoserve.store import Store


def make_lists(plan: Plan, store: Store) -> None:
    """Make the lists beside parts that are whole, should a run have ended before it came to that, or one have
    been damaged.
    """
    if not plan.index:
        store.index_repeats(plan.suite.name)
    for item in plan.checkpoints:
        if not item.missing:
            checkpoint = item.checkpoint
            store.list_memorized(checkpoint.suite, checkpoint.model.name, checkpoint.step)


def index(plan: Plan, setup: WorkerSetup, on_event: OnEvent) -> None:
    """Write the window id of every sequence, and with that read each one before an engine starts."""
    source, store = setup.source, setup.store
    vocabulary = _vocabulary(plan, setup.fetch) if plan.index else None
    length = setup.settings.context + CONTINUATION
    if vocabulary is not None and any(item.checkpoint.weights.hub for item in plan.todo):
        _check_vocabulary(source, vocabulary, length)  # of models that are here this was done before
    selected = kept = done = 0
    total = sum(stop - first for first, stop in plan.index)
    for first, stop in plan.index:
        ids = plan.selection.ids_in(source, first, stop, length)
        selected, kept = selected + len(plan.selection.ids(first, stop)), kept + len(ids)
        windows = read(source, ids, length)
        if vocabulary is not None:
            check_tokens(windows, ids, vocabulary, source.description)
        store.write_sequences(plan.suite.name, first, stop, ids, window_ids(windows))
        done += stop - first
        on_event(Indexing(done, total))
    store.index_repeats(plan.suite.name)
    if kept < selected:
        span = f"sequences {plan.index[0][0]}:{plan.index[-1][1]}"
        detail = f"{selected - kept:,} of {selected:,} have fewer than {length} tokens, and are left out"
        short = Check("short sequences", span, "warning", detail, float(selected - kept))
        store.write_checks(plan.suite.name, (short,))
        on_event(Checked(short))


def _check_vocabulary(source: SequenceSource, vocabulary: int, length: int) -> None:
    """Raise BadInput if the data's token type, or the ids in it, don't fit the vocabulary."""
    checks = check_sequences(
        source,
        trained=None,
        control=None,
        sequence_length=None,
        vocabulary_size=vocabulary,
        length=length,
        skip_short=True,
    )
    if wrong := failures(checks):
        raise BadInput("\n".join(f"{check.name}: {check.detail}" for check in wrong))


def _vocabulary(plan: Plan, fetch: Fetch) -> int | None:
    """The vocabulary of the first checkpoint whose weights can be had."""
    for item in plan.todo:
        try:
            return fetch(item.checkpoint).vocabulary_size
        except EngineFailed:
            continue  # reported when its turn comes
    return None
