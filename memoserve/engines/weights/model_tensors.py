"""What the tensors of a model folder are: parameters, buffers, embeddings, and how many there are."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from memoserve.engines.weights.parameters import NOT_A_PARAMETER
from memoserve.engines.weights.tensor_headers import Tensor
from memoserve.engines.weights.tensor_values import equal_values

# Causal masks and positions that older exports wrote among the weights: no bias has two dimensions.
_MASK = re.compile(r"attn\.(masked_)?bias$")
_NO_FLOAT = frozenset(("BOOL", "I64", "U64"))
_INPUT = re.compile(r"(^|\.)(embed_in|embed_tokens|wte|word_embeddings?|tok_embeddings|embed)\.weight$")
_OUTPUT = re.compile(r"(^|\.)(embed_out|lm_head|output)\.weight$")


def is_buffer(tensor: Tensor) -> bool:
    """Whether a tensor is nothing that training changes."""
    return (
        bool(NOT_A_PARAMETER.search(tensor.name))
        or (tensor.dtype in _NO_FLOAT and not tensor.name.endswith((".weight", ".bias")))
        or (bool(_MASK.search(tensor.name)) and len(tensor.shape) != 1)
    )


@dataclass(frozen=True)
class Parameters:
    """The parameters of a model, by its files.

    tensors: all of them, a tied output embedding left out; inputs and outputs: the input embeddings, and the
    output embedding where it is a matrix of its own.
    """

    tensors: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def count(self) -> int:
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def count_without_embeddings(self) -> int | None:
        """None where no tensor is known to be an embedding."""
        if not self.inputs:
            return None
        return self.count - sum(tensor.elements for tensor in (*self.inputs, *self.outputs))


def parameters_of(tensors: Iterable[Tensor], config: dict[str, Any]) -> Parameters:
    """Sort the tensors of one model; `config` is that of its text model.

    Two embeddings that are one are counted once, also where an export wrote both: by their values, unless the
    configuration says that they are two. (That they are one, while the files hold two that differ, engines
    don't believe either.) Raises OSError.
    """
    kept = sorted((tensor for tensor in tensors if not is_buffer(tensor)), key=lambda tensor: tensor.name)
    matrices = [tensor for tensor in kept if len(tensor.shape) == 2]
    inputs = tuple(tensor for tensor in matrices if _INPUT.search(tensor.name))
    outputs = tuple(tensor for tensor in matrices if _OUTPUT.search(tensor.name))
    tied = config.get("tie_word_embeddings") is not False
    if tied and inputs and outputs:
        tied = all(equal_values(inputs[0], output, sampled=True) for output in outputs)
    if tied and inputs:
        kept = [tensor for tensor in kept if tensor not in outputs]
        outputs = ()
    return Parameters(tuple(kept), inputs, outputs)
