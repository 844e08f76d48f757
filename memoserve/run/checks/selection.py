"""Is there any sequence to evaluate?"""

from __future__ import annotations

from collections.abc import Sequence

from memoserve.domain import Checkpoint
from memoserve.errors import BadInput
from memoserve.run.plan import wanted_ranges
from memoserve.sequences import Selection, SequenceSource
from memoserve.suites import Suite

_BLOCK = 1 << 16


def refuse_empty_selection(
    suite: Suite,
    checkpoints: Sequence[Checkpoint],
    source: SequenceSource,
    selection: Selection,
    length: int,
    unseen: bool = False,
) -> None:
    """Raise BadInput if a sample, or leaving out those with fewer than `length` tokens, leaves no sequence.

    Looks at blocks of ids until it meets one.
    """
    if selection.fraction == 1.0 and not selection.skip_short:
        return
    spans = sorted({span for one in checkpoints for span in wanted_ranges(suite, one, selection, unseen)})
    sampled = False
    for first, stop in spans:
        for start in range(first, stop, _BLOCK):
            block = start, min(start + _BLOCK, stop)
            sampled = sampled or len(selection.ids(*block)) > 0
            if len(selection.ids_in(source, *block, length)):
                return
    chosen = (
        f"of sequences {selection.first}:{selection.stop}, as far as these checkpoints are evaluated on them"
    )
    if sampled:
        raise BadInput(
            f"no sequence is left {chosen}: all have fewer than {length} tokens. Use a shorter --context"
        )
    raise BadInput(
        f"--sample {selection.fraction:g} with --seed {selection.seed} selects none {chosen}: raise "
        "--sample, widen --sequences, or take another --seed"
    )
