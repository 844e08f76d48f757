"""All that a suite says, held against its weights and data, without an engine."""

from __future__ import annotations

from collections.abc import Sequence

from memoserve.checks import Check
from memoserve.definitions import CONTINUATION
from memoserve.errors import BadInput, StorageFailed
from memoserve.run.checks.described_weights import Use
from memoserve.run.checks.hub import hub_revisions
from memoserve.run.checks.training_length import check_training_length
from memoserve.run.checks.weights import StoredIdentities, check_weights
from memoserve.sequences import check_sequences, open_sequences
from memoserve.suites import Checkpoint, Suite


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
    sequences = _check_data(
        suite,
        data or suite.sequences.path,
        tokenizer or suite.sequences.tokenizer,
        use,
        report.vocabulary_size,
    )
    return (*report.checks, check_training_length(suite), *sequences)


def _check_data(
    suite: Suite, path: str | None, tokenizer: str | None, use: Use, vocabulary_size: int | None
) -> tuple[Check, ...]:
    if path is None:
        detail = "the suite doesn't say where its sequences are: give --data"
        return (Check("sequences", suite.name, "not checked", detail),)
    try:
        return check_sequences(
            open_sequences(path, tokenizer, suite.sequences.column),
            trained=suite.sequences.trained,
            control=suite.sequences.control,
            sequence_length=suite.sequence_length,
            vocabulary_size=vocabulary_size,
            length=use.context + CONTINUATION,
            subject="sequences",
        )
    except BadInput as error:
        return (Check("sequences", path, "failed", str(error)),)
    except StorageFailed as error:
        return (Check("sequences", path, "not checked", str(error)),)
