"""The comparison inside vLLM: a causal language model whose pooler says how far a window is recited.

If the greedy tokens equal the continuation up to i, the context at i + 1 is the true text; so one forward
pass over the true tokens decides the matched prefix exactly, without decoding. vLLM runs it as a pooling
model of task `plugin`: one request is a window or its beginning, one result a number or two.

Imported inside an engine process only.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Any

import torch
from vllm.model_executor.layers.pooler.abstract import Pooler
from vllm.model_executor.layers.pooler.common import PoolingParamsUpdate
from vllm.model_executor.models.transformers import TransformersForCausalLM

from memoserve.engines.engine import NotFinite
from memoserve.engines.vllm.logits import best_tokens


class MatchPooler(Pooler):
    """Compares, at every position from the end of the context on, the best token with the next one."""

    def __init__(self, model: Any, context: int, banned: int | None, loglik: bool) -> None:
        super().__init__()
        # The bound method, not the model: as a submodule it would contain itself.
        self._compute_logits = model.compute_logits
        self.vocabulary_size = model.text_config.vocab_size
        self.context = context
        self.banned = banned
        self.loglik = loglik

    def get_supported_tasks(self) -> Set[Any]:
        """The one task."""
        return {"plugin"}

    def get_pooling_updates(self, task: Any) -> PoolingParamsUpdate:
        """The pooler compares with the prompt's own tokens."""
        return PoolingParamsUpdate(requires_token_ids=True)

    def forward(self, hidden_states: torch.Tensor, pooling_metadata: Any) -> list[torch.Tensor]:
        """Per request f64[1 or 2]: tokens of the continuation matched, then their log-likelihood.

        A request says how many tokens of its continuation are known to match, from an earlier stage. What
        the prefix cache held counts as matched if it is among those, and NaN is the answer if it isn't:
        another window may share a beginning with this one. The log-likelihood is that of all continuation
        tokens in the request, in nats, and needs a request that reads no cache; a request may ask for it
        where the engine doesn't give it to all.
        """
        cursor = pooling_metadata.get_pooling_cursor()
        lengths = pooling_metadata.prompt_lens.to(torch.int64)
        scheduled = cursor.num_scheduled_tokens_cpu.to(torch.int64)
        if not torch.equal(cursor.seq_lens_cpu.to(torch.int64), lengths):
            raise RuntimeError("a window was cut in two: max_num_batched_tokens is below its length")
        tokens = pooling_metadata.prompt_token_ids_cpu
        device = hidden_states.device
        begins = lengths - scheduled  # the first position whose hidden state is here
        rows = torch.cumsum(scheduled, 0) - scheduled
        # Position p predicts token p + 1, from the context's last position to the last but one.
        positions = torch.arange(self.context - 1, int(lengths.max()) - 1)[None, :]
        here = (positions >= begins[:, None]) & (positions < (lengths - 1)[:, None])
        flat = (rows[:, None] + positions - begins[:, None])[here].to(device)
        truth = tokens[:, self.context : int(lengths.max())][here].to(device=device, dtype=torch.int64)
        asked = [params.extra_kwargs for params in pooling_metadata.pooling_params]
        likely = self.loglik or any(request.get("loglik") for request in asked)
        try:
            best, logliks = best_tokens(
                self._compute_logits,
                hidden_states[flat],
                self.vocabulary_size,
                self.banned,
                truth if likely else None,
            )
        except NotFinite as error:
            raise NotFinite(asked[int(torch.nonzero(here)[error.row, 0])]["window"]) from None
        # What lies before `begins` matched; what lies behind the end must not.
        equal = positions.expand_as(here) < begins[:, None]
        equal[here] = (best == truth).cpu()
        prefix = equal.to(torch.int64).cumprod(dim=1).sum(dim=1).to(torch.float64)
        known = torch.tensor([request["matched"] for request in asked])
        prefix[(begins > 0) & (begins >= self.context + known)] = torch.nan
        result = [prefix]
        if logliks is not None:
            sums = torch.zeros(here.shape, dtype=torch.float64)
            sums[here] = logliks.cpu()
            result.append(sums.sum(dim=1))
        return list(torch.stack(result, dim=1))


class TransformersExtract(TransformersForCausalLM):
    """Any causal model that vLLM's Transformers backend runs, as a pooling model with the pooler above."""

    is_pooling_model = True
    default_seq_pooling_type = "LAST"
    default_tok_pooling_type = "ALL"
    score_type = "bi-encoder"

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.pooler = MatchPooler(self, **vllm_config.additional_config)
