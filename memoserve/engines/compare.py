"""The comparison by blocks: all windows of a block in one forward pass, inside vLLM's worker.

If the greedy tokens equal the continuation up to i, the context at i + 1 is the true text; so one forward
pass over the true tokens decides the matched prefix exactly, without decoding. Windows all have one length:
they need no scheduler, no paged cache and no request each. vLLM's worker holds the model (its loading, its
sharding, its packed matrix products), and gets a block of tokens as one array through `worker_extension_cls`.

Between the rungs of the ladder the keys and values of the survivors are kept, so that no token of a window
passes the model twice.

Imported inside an engine process only. Works on memoserve.engines.neox.GPTNeoXForCausalLM.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention

from memoserve.engines.logits import best_tokens


class WorkerExtension:
    """Mixed into vLLM's worker: its methods are called through `collective_rpc`."""

    model_runner: Any

    def compare(
        self,
        windows: NDArray[np.uint32],
        context: int,
        banned: int | None,
        loglik: bool,
        rungs: tuple[int, ...],
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.float64] | None]:
        """Compare u32[n, context + 32] windows with what the model would say.

        rungs: how many continuation tokens each rung checks, ascending, the last one 32. Gives the matched
        prefix u8[n], the best token at the first mismatch u32[n] (0 where there is none), and the
        continuation's log-likelihood in nats f64[n] if `loglik` (which wants the single rung 32).
        """
        with torch.inference_mode():
            return _Block(self.model_runner.model, context, banned, loglik).run(windows, rungs)


class _Block:
    def __init__(self, model: Any, context: int, banned: int | None, loglik: bool) -> None:
        self.model = model
        self.context = context
        self.banned = banned
        self.loglik = loglik
        self.device = next(model.parameters()).device
        # Keys and values so far by layer, [windows, heads, tokens, head size] each.
        self.past: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def run(
        self, windows: NDArray[np.uint32], rungs: tuple[int, ...]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.float64] | None]:
        tokens = torch.from_numpy(windows.astype(np.int64)).to(self.device)
        n = len(tokens)
        prefix = torch.zeros(n, dtype=torch.int64, device=self.device)
        wrong = torch.zeros(n, dtype=torch.int64, device=self.device)
        sums = torch.zeros(n, dtype=torch.float64, device=self.device)
        alive = torch.arange(n, device=self.device)
        done = 0
        for rung in rungs:
            # To check the tokens up to `rung` the model must read those before it, but not that one.
            begin, end = (self.context + done - 1 if done else 0), self.context + rung - 1
            hidden = self._forward(tokens[alive, begin:end], begin, last=rung == rungs[-1])
            hidden = hidden[:, self.context + done - 1 - begin :]
            truth = tokens[alive, self.context + done : self.context + rung]
            best, likely = best_tokens(
                self.model.compute_logits,
                hidden.flatten(0, 1),
                truth.flatten(),
                self.model.config.vocab_size,
                self.banned,
                self.loglik,
            )
            best = best.view(truth.shape)
            matched = (best == truth).to(torch.int64).cumprod(dim=1).sum(dim=1)
            prefix[alive] = done + matched
            survives = matched == rung - done
            fallen = torch.nonzero(~survives)[:, 0]
            wrong[alive[fallen]] = best[fallen, matched[fallen]]
            if likely is not None:
                sums[alive] += likely.view(truth.shape).sum(dim=1)
            if rung == rungs[-1]:
                break
            kept = torch.nonzero(survives)[:, 0]
            alive, done = alive[kept], rung
            if not len(alive):
                break
            self.past = {layer: (key[kept], value[kept]) for layer, (key, value) in self.past.items()}
        return (
            prefix.to(torch.uint8).cpu().numpy(),
            wrong.cpu().numpy().astype(np.uint32),
            sums.cpu().numpy() if self.loglik else None,
        )

    def _forward(self, tokens: torch.Tensor, begin: int, last: bool) -> torch.Tensor:
        """Hidden states [n, t, hidden] of i64[n, t] tokens at positions from `begin` on.

        Attention reads what `past` holds of the positions before; unless it is the last rung, their keys
        and values are added to it.
        """
        n, t = tokens.shape
        stack = self.model.gpt_neox
        positions = torch.arange(begin, begin + t, device=self.device).repeat(n)
        mask = None
        if begin:
            mask = torch.ones(t, begin + t, dtype=torch.bool, device=self.device).tril(diagonal=begin)
        states = stack.embed_in(tokens.flatten())
        for number, layer in enumerate(stack.layers):
            states = layer(positions, states, partial(self._attend, number, (n, t), mask, not last))
        hidden: torch.Tensor = stack.final_layer_norm(states)
        return hidden.view(n, t, -1)

    def _attend(
        self,
        layer: int,
        shape: tuple[int, int],
        mask: torch.Tensor | None,
        keep: bool,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
    ) -> torch.Tensor:
        """Causal attention within each window; without a mask, nothing came before."""
        size = self.model.gpt_neox.layers[layer].attention.head_size
        query, key, value = (x.reshape(*shape, -1, size).transpose(1, 2) for x in (query, key, value))
        if mask is not None:
            before_key, before_value = self.past[layer]
            key, value = torch.cat([before_key, key], dim=2), torch.cat([before_value, value], dim=2)
        if keep:
            self.past[layer] = key, value
        output = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        return output.transpose(1, 2).reshape(shape[0] * shape[1], -1)
