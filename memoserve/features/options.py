"""What features are asked for, what that costs, and what was done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The options of `memoserve features`, whose help says what each one means.

    sample, seed, skip_short, context: None for what the store's runs were asked for, else all, 0, False, 32.
    memory: bytes for what one pass counts, None for half of what is free.
    """

    suite: str = "mini"
    out: str = "memoserve-out"
    data: str | None = None
    tokenizer: str | None = None
    tokens_column: str | None = None
    sequences: str | None = None
    sample: float | None = None
    seed: int | None = None
    skip_short: bool | None = None
    context: int | None = None
    part_size: int | None = None
    memory: int | None = None
    replace: bool = False


@dataclass(frozen=True)
class Estimate:
    """What is still to do: passes over so many tokens each. `rate`: tokens a second that one core counted of
    a sample; bytes: of the parts; memory: bytes, at most.
    """

    parts: int
    sequences: int
    passes: int
    tokens: int
    rate: float
    bytes: float
    memory: int


@dataclass(frozen=True)
class Outcome:
    """What was done: parts and sequences written, passes over so many tokens, and seconds."""

    parts: int
    sequences: int
    windows: int
    passes: int
    tokens: int
    seconds: float
