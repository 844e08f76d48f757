"""What two runs must have in common for their scores to stand in one store."""

from __future__ import annotations

from memoserve.domain import CONTINUATION
from memoserve.engines import EngineSettings
from memoserve.sequences import Selection, SequenceSource
from memoserve.suites import Suite


def fingerprint_of(
    suite: Suite,
    source: SequenceSource,
    selection: Selection,
    settings: EngineSettings,
    engine_version: str,
) -> dict[str, str | int | None]:
    """The fingerprint of a run, flat. Weights are not in it: each part names its own.

    The range of ids is not in it either, a store may grow; the sample is, since it decides which
    sequences two checkpoints have in common.
    """
    return {
        "suite": suite.name,
        "eos": suite.eos,
        "eos_token_id": suite.banned_token_id,
        **{f"sequences_{key}": value for key, value in source.identity().items()},
        "sample": selection.sample,
        "short_sequences": "left out" if selection.skip_short else None,
        "context": settings.context,
        "continuation": CONTINUATION,
        "mode": settings.mode,
        "loglik": int(settings.loglik),
        "deterministic": int(settings.deterministic),
        "engine": settings.engine,
        "engine_version": engine_version,
        "dtype": settings.dtype,
    }
