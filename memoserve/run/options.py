"""What a run is asked for. The defaults stand here alone: for the command line, the service and Python."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

Mode = Literal["score", "extract"]
Dtype = Literal["auto", "float32", "float16", "bfloat16"]
Verify = Literal["start", "every"]
Executor = Literal["local", "ray"]


@dataclass(frozen=True)
class Options:
    """The options of `memoserve run`, whose help says what each one means.

    checkpoints: a selector, None for the suite's own choice; out: the store, a directory or URL; data,
    tokenizer, tokens_column: None for what the suite says; sequences: a range of ids as text, None for all;
    sample: the share of them, None for all; devices: None for all; part_size: None for one that fits;
    dry_run: nothing is started, so that no engine need be there; the job can be estimated, and not run.
    """

    suite: str = "mini"
    checkpoints: str | None = None
    out: str = "memoserve-out"
    data: str | None = None
    tokenizer: str | None = None
    tokens_column: str | None = None
    partial_data: bool = False
    skip_short: bool = False
    sequences: str | None = None
    sample: float | None = None
    seed: int = 0
    unseen: bool = False
    engine: str = "vllm"
    mode: Mode = "score"
    loglik: bool = False
    dtype: Dtype = "auto"
    context: int = 32
    deterministic: bool = False
    verify: Verify = "start"
    allow_implausible: bool = False
    tensor_parallel: int = 1
    devices: str | None = None
    executor: Executor = "local"
    address: str = "auto"
    part_size: int | None = None
    allow_pickle_weights: bool = False
    dry_run: bool = False
    verbose: bool = False


def arguments_of(options: Options) -> list[str]:
    """What follows `memoserve run` for options, but for those that are left to their defaults.

    Each as one --name=value, so that a value is never taken for an option.
    """
    arguments = []
    for field in fields(options):
        value = getattr(options, field.name)
        name = "--" + field.name.replace("_", "-")
        if value != field.default:
            arguments.append(name if value is True else f"{name}={value}")
    return arguments
