"""All that a suite says, held against its weights and data, without an engine."""

from __future__ import annotations

from collections.abc import Sequence

from memoserve.checks import Check
from memoserve.domain import Checkpoint
from memoserve.errors import BadInput, StorageFailed
from memoserve.run.checks.data import check_data
from memoserve.run.checks.described_weights import Use
from memoserve.run.checks.hub import hub_revisions
from memoserve.run.checks.training_length import check_training_length
from memoserve.run.checks.weights import StoredIdentities, WeightsReport, check_weights
from memoserve.sequences import open_sequences
from memoserve.suites import Suite


def what_is_read(
    suite: Suite, checkpoints: Sequence[Checkpoint], *, data: str | None = None, all_steps: bool = False
) -> tuple[str, ...]:
    """What check_suite will read and ask of others, a line each, for people."""
    lines = []
    local = [checkpoint for checkpoint in checkpoints if checkpoint.weights.folder is not None]
    if local:
        models = len({checkpoint.model for checkpoint in local})
        lines.append(
            f"reads headers and sampled blocks of the weights of {len(local)} checkpoints, and of the other"
            f" steps of their {models} models that are here; whole files only where two seem equal"
        )
    asked = hub_revisions(suite, checkpoints, all_steps)
    if asked:
        repositories = len({revision.hub for revision in asked})
        lines.append(
            f"asks the hub what {len(asked)} revisions of {repositories} repositories hold, a request or two"
            " each; downloads no weights"
        )
    if path := data or suite.sequences.path:
        lines.append(f"reads the index and a sample of {path}")
    return tuple(lines)


def check_suite(
    suite: Suite,
    checkpoints: Sequence[Checkpoint],
    *,
    use: Use,
    data: str | None = None,
    tokenizer: str | None = None,
    allow_pickle: bool = False,
    all_steps: bool = False,
    stored: StoredIdentities | None = None,
) -> tuple[Check, ...]:
    """Check weights and data of `checkpoints`, of `suite`, for what they are wanted for.

    data and tokenizer: instead of the suite's own; all_steps: also compare with all steps that are on the
    hub. Nothing that can't be read or reached raises: it is a check that failed, or wasn't made.
    """
    report = check_weights(
        suite, checkpoints, use=use, allow_pickle=allow_pickle, all_steps=all_steps, stored=stored
    )
    path = data or suite.sequences.path
    if path is None:
        detail = "the suite doesn't say where its sequences are: give --data"
        return _without_data(suite, report, Check("sequences", suite.name, "not checked", detail))
    try:
        source = open_sequences(path, tokenizer or suite.sequences.tokenizer, suite.sequences.column)
        return (*report.checks, *check_data(suite, source, use.context, report.vocabulary_size))
    except BadInput as error:
        return _without_data(suite, report, Check("sequences", path, "failed", str(error)))
    except StorageFailed as error:
        return _without_data(suite, report, Check("sequences", path, "not checked", str(error)))


def _without_data(suite: Suite, report: WeightsReport, why: Check) -> tuple[Check, ...]:
    return (*report.checks, check_training_length(suite), why)
