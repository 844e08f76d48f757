"""The comparison by blocks: all windows of a block in one forward pass, inside vLLM's worker.

If the greedy tokens equal the continuation up to i, the context at i + 1 is the true text; so one forward
pass over the true tokens decides the matched prefix exactly, without decoding. Windows all have one length:
they need no scheduler, no paged cache and no request each. vLLM's worker holds the model (its loading, its
sharding, its packed matrix products), and gets a block of tokens as one array through `worker_extension_cls`.

Between the stages of the ladder the keys and values of the remaining windows are kept, so that no token of a
window passes the model twice. Where generations are wanted, those of the windows that differ are kept as
well: decoding goes on from the first wrong token, all windows at the same position at once.

Imported inside an engine process only. Works on memoserve.engines.vllm.neox.GPTNeoXForCausalLM.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention

from memoserve.engines.engine import NotFinite
from memoserve.engines.vllm.logits import best_tokens, unwatched


class WorkerExtension:
    """Mixed into vLLM's worker: its methods are called through `collective_rpc`."""

    model_runner: Any

    def compare(
        self,
        windows: NDArray[np.uint32],
        context: int,
        banned: int | None,
        loglik: bool,
        stages: tuple[int, ...],
        pass_tokens: int,
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint32], NDArray[np.float64] | None]:
        """Compare u32[n, context + 32] windows with what the model would say.

        stages: how many continuation tokens each one checks, ascending, the last one 32. pass_tokens: tokens
        that go through the model at once; what remains of several passes advances together. Gives the matched
        prefix u8[n], the best token at the first mismatch u32[n] (0 where there is none), and the
        continuation's log-likelihood in nats f64[n] if `loglik` (which wants the single stage 32).

        Raises NotFinite with the number of a window whose logits aren't finite.
        """
        with torch.inference_mode():
            block = _Block(self.model_runner.model, windows, context, banned)
            prefix, wrong, likely = block.compare(stages, loglik, pass_tokens)
        return (
            prefix.to(torch.uint8).cpu().numpy(),
            wrong.cpu().numpy().astype(np.uint32),
            None if likely is None else likely.cpu().numpy(),
        )

    def compare_and_generate(
        self, windows: NDArray[np.uint32], context: int, banned: int | None, stages: tuple[int, ...]
    ) -> tuple[NDArray[np.uint8], NDArray[np.uint32]]:
        """The matched prefix u8[n] and greedy generation u32[n, 32] of u32[n, context + 32] windows."""
        with torch.inference_mode():
            block = _Block(self.model_runner.model, windows, context, banned)
            prefix, wrong, _ = block.compare(stages)
            generation = block.generate(prefix, wrong)
        return prefix.to(torch.uint8).cpu().numpy(), generation.cpu().numpy().astype(np.uint32)


class _Block:
    """Windows on their way through the model.

    `past` holds by layer the keys and values so far of the windows that still match, [windows, heads,
    tokens, head size] each; `mismatched` those of the others, in the order in which they mismatched, which is
    that of their matched prefixes, with room for all positions.
    """

    def __init__(self, model: Any, windows: NDArray[np.uint32], context: int, banned: int | None) -> None:
        self.model = model
        self.context = context
        self.banned = banned
        self.device = next(model.parameters()).device
        self.tokens = torch.from_numpy(windows.astype(np.int64)).to(self.device)
        self.past: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.mismatched: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.mismatched_rows = torch.empty(0, dtype=torch.int64, device=self.device)

    def compare(
        self, stages: tuple[int, ...], loglik: bool = False, pass_tokens: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Matched prefix i64[n], best token at the first mismatch i64[n], log-likelihood f64[n] or None.

        Without `pass_tokens` all windows go at once, and what mismatches is kept for `generate`.
        """
        keep_mismatched = pass_tokens is None
        tokens, n = self.tokens, len(self.tokens)
        prefix = torch.zeros(n, dtype=torch.int64, device=self.device)
        wrong = torch.zeros(n, dtype=torch.int64, device=self.device)
        sums = torch.zeros(n, dtype=torch.float64, device=self.device)
        remaining = torch.arange(n, device=self.device)
        done = 0
        for stage in stages:
            # To check the tokens up to `stage` the model must read those before it, but not that one.
            begin, end = (self.context + done - 1 if done else 0), self.context + stage - 1
            last = stage == stages[-1]
            step = n if pass_tokens is None else max(1, pass_tokens // (end - begin))
            advancing_rows, advancing_past = [], []
            past, self.past = self.past, {}
            for start in range(0, len(remaining), step):
                rows = remaining[start : start + step]
                for layer, pair in past.items():
                    self.past[layer] = pair[0][start : start + step], pair[1][start : start + step]
                keep = keep_mismatched or not last
                hidden = self._forward(tokens[rows, begin:end], begin, stage - done, keep)
                truth = tokens[rows, self.context + done : self.context + stage]
                best, likely = self._best(
                    hidden.flatten(0, 1),
                    rows.repeat_interleave(stage - done),
                    truth.flatten() if loglik else None,
                )
                best = best.view(truth.shape)
                matched = (best == truth).to(torch.int64).cumprod(dim=1).sum(dim=1)
                prefix[rows] = done + matched
                matches = matched == stage - done
                mismatched = torch.nonzero(~matches)[:, 0]
                wrong[rows[mismatched]] = best[mismatched, matched[mismatched]]
                if likely is not None:
                    sums[rows] += likely.view(truth.shape).sum(dim=1)
                if keep_mismatched:
                    self._put_aside(mismatched[torch.argsort(matched[mismatched], stable=True)], rows)
                if not last:
                    kept = torch.nonzero(matches)[:, 0]
                    advancing_rows.append(rows[kept])
                    advancing_past.append({layer: (k[kept], v[kept]) for layer, (k, v) in self.past.items()})
            if last:
                break
            remaining, done = torch.cat(advancing_rows), stage
            if not len(remaining):
                break
            self.past = {
                layer: (
                    torch.cat([s[layer][0] for s in advancing_past]),
                    torch.cat([s[layer][1] for s in advancing_past]),
                )
                for layer in self.past
            }
        return prefix, wrong, sums if loglik else None

    def generate(self, prefix: torch.Tensor, wrong: torch.Tensor) -> torch.Tensor:
        """Greedy generations i64[n, 32], after `compare` that kept what mismatched.

        Up to the first mismatch a generation is the continuation itself; a memorized window costs nothing.
        Windows join when the position of their first wrong token is reached, so all that are under way have
        keys and values for the same positions.
        """
        generation = self.tokens[:, self.context :].clone()
        rows = self.mismatched_rows
        prefix = prefix[rows]
        under_way = generation[rows]
        under_way[torch.arange(len(rows), device=self.device), prefix] = wrong[rows]
        # How many have their first wrong token at or before each position; on the host, where it is a size.
        joined = torch.bincount(prefix, minlength=under_way.shape[1]).cumsum(0).tolist()
        for position in range(under_way.shape[1] - 1):
            count = joined[position]
            if count:
                hidden = self._forward_one(under_way[:count, position], self.context + position)
                under_way[:count, position + 1] = self._best(hidden, rows[:count])[0]
        generation[rows] = under_way
        return generation

    def _best(
        self, hidden: torch.Tensor, windows: torch.Tensor, truth: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As best_tokens, of [m, hidden] states of `windows` i64[m]; NotFinite has a window's number."""
        vocabulary = self.model.config.vocab_size
        compute_logits = unwatched(self.model.compute_logits)
        try:
            return best_tokens(compute_logits, hidden, vocabulary, self.banned, truth)
        except NotFinite as error:
            raise NotFinite(int(windows[error.row])) from None

    def _put_aside(self, mismatched: torch.Tensor, rows: torch.Tensor) -> None:
        """Move keys and values of `mismatched`, indices into `rows`, out of `past`."""
        before = len(self.mismatched_rows)
        self.mismatched_rows = torch.cat([self.mismatched_rows, rows[mismatched]])
        for layer, (key, value) in self.past.items():
            t = key.shape[2]
            if layer not in self.mismatched:
                room = (len(self.tokens), key.shape[1], self.tokens.shape[1] - 1, key.shape[3])
                self.mismatched[layer] = key.new_empty(room), value.new_empty(room)
            for kept, held in zip(self.mismatched[layer], (key, value), strict=True):
                kept[before : before + len(mismatched), :, :t] = held[mismatched]

    def _forward(self, tokens: torch.Tensor, begin: int, wanted: int, keep: bool) -> torch.Tensor:
        """Hidden states [n, wanted, hidden] of the last `wanted` of i64[n, t] tokens from `begin` on.

        Attention reads what `past` holds of the positions before; with `keep` their keys and values are
        added to it.
        """
        n, t = tokens.shape
        positions = torch.arange(begin, begin + t, device=self.device)
        rows = None
        if wanted < t:
            rows = torch.arange(n * t, device=self.device).view(n, t)[:, t - wanted :].flatten()
        attend = partial(self._attend, (n, t), begin, keep)
        hidden = self._layers(
            tokens.flatten(), positions.repeat(n), attend, rows, partial(attend, wanted=wanted)
        )
        return hidden.view(n, wanted, -1)

    def _forward_one(self, tokens: torch.Tensor, position: int) -> torch.Tensor:
        """Hidden states [n, hidden] of i64[n] tokens at one position, of the first n that mismatched."""
        positions = torch.full_like(tokens, position)
        attend = partial(self._attend_one, position)
        return self._layers(tokens, positions, attend, None, attend)

    def _layers(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        attend: Any,
        rows: torch.Tensor | None,
        attend_last: Any,
    ) -> torch.Tensor:
        """Hidden states of `rows` of the tokens, which alone pass the last layer's products."""
        stack = self.model.gpt_neox
        states = stack.embed_in(tokens)
        *others, last = stack.layers
        for number, layer in enumerate(others):
            states = layer.in_place(positions, states, partial(attend, number), None)
        states = last.in_place(positions, states, partial(attend_last, len(others)), rows)
        hidden: torch.Tensor = stack.final_layer_norm(states)
        return hidden

    def _attend(
        self,
        shape: tuple[int, int],
        begin: int,
        keep: bool,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        wanted: int | None = None,
    ) -> torch.Tensor:
        """Causal attention within each window, of the last `wanted` tokens if not of all."""
        n, t = shape
        query, key, value = (self._by_head(x, n, t) for x in (query, key, value))
        if begin:
            before_key, before_value = self.past[layer]
            key, value = torch.cat([before_key, key], dim=2), torch.cat([before_value, value], dim=2)
        if keep:
            self.past[layer] = key, value
        if wanted is not None:
            query = query[:, :, t - wanted :]
        asking, reading = query.shape[2], key.shape[2]
        mask = None
        if 1 < asking < reading:
            mask = torch.ones(asking, reading, dtype=torch.bool, device=self.device)
            mask = mask.tril(diagonal=reading - asking)
        output = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=asking == reading)
        return output.transpose(1, 2).reshape(n * asking, -1)

    def _attend_one(
        self, position: int, layer: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
    ) -> torch.Tensor:
        """Attention of one token a window over all positions up to its own."""
        n = len(query)
        keys, values = self.mismatched[layer]
        query, key, value = (self._by_head(x, n, 1) for x in (query, key, value))
        keys[:n, :, position : position + 1] = key
        values[:n, :, position : position + 1] = value
        output = scaled_dot_product_attention(
            query, keys[:n, :, : position + 1], values[:n, :, : position + 1]
        )
        return output.transpose(1, 2).reshape(n, -1)

    def _by_head(self, projected: torch.Tensor, n: int, t: int) -> torch.Tensor:
        """[n * t, heads * size] as [n, heads, t, size]."""
        size = self.model.gpt_neox.layers[0].attention.head_size
        return projected.reshape(n, t, -1, size).transpose(1, 2)
