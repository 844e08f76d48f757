"""What a run is asked for. The defaults stand here alone: for the command line, the service and Python."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from types import NoneType
from typing import Literal, get_args, get_type_hints

from memoserve.errors import BadInput, did_you_mean

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


def refuse_wrong(options: Options) -> None:
    """Raise BadInput for a value that its option can't have."""
    for field in fields(options):
        value, kinds = getattr(options, field.name), _kinds(field.name)
        choices = [one for one in kinds if isinstance(one, str)]
        if choices:
            fits = value in choices
        else:
            types = tuple(one for one in kinds if isinstance(one, type))
            fits = isinstance(value, (*types, int) if float in types else types)
            fits = fits and (bool in types or not isinstance(value, bool))
        if not fits:
            wanted = " or ".join(choices) or " or ".join(_TYPE_NAMES[one] for one in types)
            raise BadInput(f"--{field.name.replace('_', '-')} takes {wanted}, not {value!r}"
                           + did_you_mean(str(value), choices))  # fmt: skip
        if field.name in _FROM_ONE and value is not None and value < 1:
            raise BadInput(f"--{field.name.replace('_', '-')} takes a whole number from 1 on, not {value!r}")


_FROM_ONE = ("context", "tensor_parallel", "part_size")
_TYPE_NAMES: dict[object, str] = {
    str: "text", bool: "True or False", int: "a whole number", float: "a number", NoneType: "None",
}  # fmt: skip


@cache
def _kinds(name: str) -> tuple[object, ...]:
    """The words that an option may be, or its types."""
    hint = get_type_hints(Options)[name]
    return get_args(hint) or (hint,)


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
