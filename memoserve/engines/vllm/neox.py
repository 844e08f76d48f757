"""GPT-NeoX, the architecture of Pythia, in vLLM's own layers.

vLLM runs GPT-NeoX through the Transformers modelling code, whose rotary embedding alone (slices, negations
and concatenations of small tensors) takes a third of a small model's time. Here queries, keys and values come
out of one product in vLLM's order and are rotated in place by its kernel. Architecture as in Black et al.
2022 (arXiv 2204.06745), with and without the parallel residual, weights in the Hugging Face layout.

Imported inside an engine process only. Annotations are objects, not text: vLLM reads those of `forward`.
"""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Any

import torch
from torch import nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.distributed import get_pp_group, get_tensor_model_parallel_world_size
from vllm.model_executor.layers.activation import get_act_fn
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import ColumnParallelLinear, QKVParallelLinear, RowParallelLinear
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.rotary_embedding import get_rope
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.models.interfaces import SupportsPP
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    make_empty_intermediate_tensors_factory,
    make_layers,
    maybe_prefix,
)
from vllm.sequence import IntermediateTensors

from memoserve.engines.vllm.products import add_product, in_place_weight

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Query, key and value [tokens, heads * head size] to the attended [tokens, heads * head size]."""


class SelfAttention(nn.Module):
    """Causal self-attention with rotary embeddings on part of each head."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.heads = config.num_attention_heads
        self.head_size = config.hidden_size // self.heads
        self.query_key_value = QKVParallelLinear(
            config.hidden_size,
            self.head_size,
            self.heads,
            bias=config.attention_bias,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.query_key_value",
        )
        self.dense = RowParallelLinear(
            config.hidden_size,
            config.hidden_size,
            bias=config.attention_bias,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.dense",
        )
        self.rotary = get_rope(
            self.head_size,
            max_position=config.max_position_embeddings,
            is_neox_style=True,
            rope_parameters=dict(config.rope_parameters),
        )
        self.attention = Attention(
            self.heads // get_tensor_model_parallel_world_size(),
            self.head_size,
            self.head_size**-0.5,
            cache_config=vllm_config.cache_config,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.attention",
        )

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Of [tokens, hidden] with positions [tokens], through vLLM's paged attention."""
        output, _ = self.dense(self.attended(positions, hidden_states, self.attention))
        return output

    def attended(self, positions: torch.Tensor, hidden_states: torch.Tensor, attend: Attend) -> torch.Tensor:
        """What `attend` makes of [tokens, hidden], before the last product."""
        projected, _ = self.query_key_value(hidden_states)
        query, key, value = projected.chunk(3, dim=-1)
        query, key = self.rotary(positions, query, key)
        return attend(query, key, value)


class Mlp(nn.Module):
    """The feed-forward half of a layer."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        sizes = config.hidden_size, config.intermediate_size
        quantized = vllm_config.quant_config
        self.dense_h_to_4h = ColumnParallelLinear(
            *sizes, quant_config=quantized, prefix=f"{prefix}.dense_h_to_4h"
        )
        self.dense_4h_to_h = RowParallelLinear(
            *reversed(sizes), quant_config=quantized, prefix=f"{prefix}.dense_4h_to_h"
        )
        self.act = get_act_fn(config.hidden_act)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Of [tokens, hidden]."""
        output, _ = self.dense_4h_to_h(self.widened(hidden_states))
        return output

    def widened(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Of [tokens, hidden], before the last product."""
        wide, _ = self.dense_h_to_4h(hidden_states)
        activated: torch.Tensor = self.act(wide)
        return activated


class Layer(nn.Module):
    """One transformer layer."""

    def __init__(self, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.parallel = config.use_parallel_residual
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SelfAttention(vllm_config, f"{prefix}.attention")
        self.mlp = Mlp(vllm_config, f"{prefix}.mlp")

    def forward(self, positions: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
        """Of [tokens, hidden] with positions [tokens]."""
        attended = self.attention(positions, self.input_layernorm(hidden_states))
        if self.parallel:
            return attended + self.mlp(self.post_attention_layernorm(hidden_states)) + hidden_states
        attended = attended + hidden_states
        return self.mlp(self.post_attention_layernorm(attended)) + attended

    def in_place(
        self,
        positions: torch.Tensor,
        hidden_states: torch.Tensor,
        attend: Attend,
        wanted: torch.Tensor | None,
    ) -> torch.Tensor:
        """As `forward`, by `attend`; overwrites its input [tokens, hidden] where it can.

        wanted: the rows that anything behind this layer reads, which are then the result; `attend` gives
        just these. None: all.
        """
        attended = self.attention.attended(positions, self.input_layernorm(hidden_states), attend)
        states = hidden_states if wanted is None else hidden_states[wanted]
        if self.parallel:
            wide = self.mlp.widened(self.post_attention_layernorm(states))
            if in_place_weight(self.attention.dense) is not None:
                add_product(states, self.attention.dense, attended)
                return add_product(states, self.mlp.dense_4h_to_h, wide)
            return self.attention.dense(attended)[0] + self.mlp.dense_4h_to_h(wide)[0] + states
        states = add_product(states, self.attention.dense, attended)
        wide = self.mlp.widened(self.post_attention_layernorm(states))
        return add_product(states, self.mlp.dense_4h_to_h, wide)


@support_torch_compile
class Layers(nn.Module):
    """Embedding, layers and final norm."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config.hf_config
        self.embed_in = VocabParallelEmbedding(config.vocab_size, config.hidden_size)
        self.start_layer, self.end_layer, self.layers = make_layers(
            config.num_hidden_layers, lambda prefix: Layer(vllm_config, prefix), prefix=f"{prefix}.layers"
        )
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.make_empty_intermediate_tensors = make_empty_intermediate_tensors_factory(
            ["hidden_states"], config.hidden_size
        )

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor | IntermediateTensors:
        """[tokens, hidden] after the final norm; other pipeline ranks give their hidden states."""
        if not get_pp_group().is_first_rank:
            assert intermediate_tensors is not None
            hidden_states = intermediate_tensors["hidden_states"]
        else:
            hidden_states = self.embed_in(input_ids) if inputs_embeds is None else inputs_embeds
        for layer in islice(self.layers, self.start_layer, self.end_layer):
            hidden_states = layer(positions, hidden_states)
        if not get_pp_group().is_last_rank:
            return IntermediateTensors({"hidden_states": hidden_states})
        return self.final_layer_norm(hidden_states)


class GPTNeoXForCausalLM(nn.Module, SupportsPP):
    """The interface that vLLM expects of a model."""

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        super().__init__()
        self.config = config = vllm_config.model_config.hf_config
        self.gpt_neox = Layers(vllm_config=vllm_config, prefix=maybe_prefix(prefix, "gpt_neox"))
        self.embed_out = ParallelLMHead(
            config.vocab_size,
            config.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=maybe_prefix(prefix, "embed_out"),
        )
        if config.tie_word_embeddings:
            self.embed_out = self.embed_out.tie_weights(self.gpt_neox.embed_in)
        self.logits_processor = LogitsProcessor(config.vocab_size)
        self.make_empty_intermediate_tensors = self.gpt_neox.make_empty_intermediate_tensors

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Input embeddings [tokens, hidden]."""
        return self.gpt_neox.embed_in(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor | IntermediateTensors:
        """Hidden states of a batch of tokens."""
        return self.gpt_neox(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        """Logits [tokens, vocabulary] of [tokens, hidden]."""
        return self.logits_processor(self.embed_out, hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Take Hugging Face's tensors, by name."""
        return AutoWeightsLoader(self).load_weights(self._in_our_order(weights))

    def _in_our_order(self, weights: Iterable[tuple[str, Any]]) -> Iterable[tuple[str, Any]]:
        """Drop what is no parameter; bring [head, (q, k, v), ...] rows into the order [(q, k, v), head, ...].

        Whether all are there, and what is too much, is checked before (memoserve.engines.weights.complete).
        """
        heads = self.config.num_attention_heads
        ours = {name for name, _ in self.named_parameters(remove_duplicate=False)}
        for name, tensor in weights:
            if name not in ours:
                continue
            if ".query_key_value." in name:
                tensor = tensor.view(heads, 3, -1, *tensor.shape[1:]).transpose(0, 1).reshape(tensor.shape)
            yield name, tensor
