"""The field's words, as every package means them: this is the floor that all of them stand on."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:  # `memoserve suite list` has no need of it
    import numpy as np
    from numpy.typing import NDArray

CONTINUATION = 32
"""Tokens of a continuation: a window is the context (32 tokens unless asked otherwise) and these."""


@dataclass(frozen=True)
class Weights:
    """Where one checkpoint's weights are: a local folder, or a hub repository and revision."""

    folder: Path | None = None
    hub: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return str(self.folder) if self.folder is not None else f"{self.hub}@{self.revision}"


@dataclass(frozen=True)
class Model:
    """One model of a suite. `order` is its rank by size, 0 the smallest."""

    name: str
    order: int
    parameters: int
    parameters_without_embeddings: int


@dataclass(frozen=True)
class Checkpoint:
    """One model at one training step.

    `sequences_seen` and `tokens_seen` are what training had read by then (step x batch size, and that
    many tokens of input); `training_flops` is 6 x parameters x tokens_seen, embeddings counted, the
    paper's convention; `training_flops_without_embeddings` leaves them out.
    """

    suite: str
    model: Model
    step: int
    sequences_seen: int
    tokens_seen: int
    weights: Weights

    @property
    def training_flops(self) -> int:
        return 6 * self.model.parameters * self.tokens_seen

    @property
    def training_flops_without_embeddings(self) -> int:
        return 6 * self.model.parameters_without_embeddings * self.tokens_seen

    def __str__(self) -> str:
        return f"{self.model.name}@{self.step}"


class SuiteFacts(Protocol):
    """What a store keeps of a suite: its name, its checkpoints, and how many sequences training read."""

    @property
    def name(self) -> str: ...
    @property
    def trained(self) -> int: ...
    def all_checkpoints(self) -> tuple[Checkpoint, ...]: ...


@dataclass(frozen=True)
class Matches:
    """One entry per window, in the order of the windows.

    matched_prefix: u8[n], leading matches, 0 to 32. match_mask: u32[n], bit i set if generation[i] equals
    continuation[i], or None in `extract` mode. continuation_ll: f32[n], nats, or None unless asked for.
    """

    matched_prefix: NDArray[np.uint8]
    match_mask: NDArray[np.uint32] | None = None
    continuation_ll: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.matched_prefix)

    @property
    def matches(self) -> NDArray[np.uint8] | None:
        """u8[n], how many of the 32 tokens match, or None without masks."""
        import numpy as np

        return None if self.match_mask is None else np.bitwise_count(self.match_mask)

    def take(self, rows: NDArray[np.int64]) -> Matches:
        """The matches of `rows`, in that order; a row may come more than once."""
        return Matches(**{name: array[rows] for name, array in vars(self).items() if array is not None})

    @staticmethod
    def names() -> tuple[str, ...]:
        """What an engine says of a window: by these names stores keep it."""
        return tuple(field.name for field in fields(Matches))
