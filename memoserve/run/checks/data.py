"""The sequences, held against what a suite says of them."""

from __future__ import annotations

from memoserve.checks import Check
from memoserve.domain import CONTINUATION
from memoserve.run.checks.training_length import check_training_length
from memoserve.sequences import SequenceSource, check_sequences
from memoserve.suites import Suite


def check_data(
    suite: Suite,
    source: SequenceSource,
    context: int,
    vocabulary_size: int | None,
    *,
    partial: bool = False,
    skip_short: bool = False,
) -> tuple[Check, ...]:
    """Check the training length that a suite states, and the sequences that are to be evaluated after
    `context` tokens. `partial`, `skip_short`, and what is raised: see check_sequences.
    """
    sequences = check_sequences(
        source,
        trained=suite.sequences.trained,
        control=suite.sequences.control,
        sequence_length=suite.sequence_length,
        vocabulary_size=vocabulary_size,
        length=context + CONTINUATION,
        subject="sequences",
        partial=partial,
        skip_short=skip_short,
    )
    return check_training_length(suite), *sequences
