"""The Llama architecture, written for the decoder graph: shared cache slots, grouped queries, chosen logits.

Takes the weights of a transformers `LlamaForCausalLM` and computes the same function. What differs:

- Keys and values of the past come in and are never copied; those of the new tokens go out. Scores against past
  and new are two products, concatenated before the softmax.
- Queries of the heads that share a key are laid side by side (a reshape), instead of repeating the key.
- ``attention_bias`` alone says who sees whom, so a row's queries may be prompt tokens, beams, or drafts.
- Only the queries named by ``logit_positions`` go through the end of the last layer and the head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rag_infer.errors import ExportError
from rag_infer.export.modules import Affine
from rag_infer.export.operators import Reshape, RMSNorm, Rotate, SelectQueries, SiLU, TiedHead

# Their rotation frequencies are the same at every length; "dynamic" and "longrope" change with the length.
ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def check_config(config: Any) -> None:
    """Refuse what this module would compute differently.

    Raises:
        ExportError: a rotary embedding that depends on the length, or another activation than SiLU.
    """
    scaling = config.rope_scaling or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind not in ROPE_TYPES:
        raise ExportError(f"rope_scaling of type {kind!r} is not supported: expected {', '.join(ROPE_TYPES)}")
    if config.hidden_act != "silu":
        raise ExportError(f"hidden_act {config.hidden_act!r} is not supported: Llama has 'silu'")


class LlamaDecoder(nn.Module):
    """All layers and the head.

    Args:
        model: a transformers `LlamaForCausalLM`, float32.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        config = model.config
        self.group = config.num_attention_heads // config.num_key_value_heads
        self.embedding = nn.Parameter(model.model.embed_tokens.weight.detach())
        self.layers = nn.ModuleList([LlamaLayer(layer, config) for layer in model.model.layers])
        self.norm = nn.Parameter(model.model.norm.weight.detach())
        self.epsilon = config.rms_norm_eps
        cos, sin = rotary_tables(model.model.rotary_emb, config.max_position_embeddings)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        # A tied head reads the embedding itself.
        tied = config.tie_word_embeddings
        self.head = None if tied else nn.Parameter(model.lm_head.weight.detach().t().contiguous())

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        attention_bias: Tensor,
        logit_positions: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Run the graph; shapes are in `rag_infer.export.causal.AXES`.

        Args:
            input_ids, position_ids, attention_bias, logit_positions: see there.
            past: past_keys_0, past_values_0, past_keys_1, ...
        """
        hidden = self.embedding[input_ids]
        # Queries are laid out (head of the group, query); every head of a group has the same bias.
        bias = torch.cat([attention_bias] * self.group, dim=1).unsqueeze(1)
        slots = past[0].shape[2]
        new: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            chosen = logit_positions if i == len(self.layers) - 1 else None
            rotation = (position_ids, self.cos, self.sin)
            cache = (past[2 * i], past[2 * i + 1], slots)
            hidden, keys, values = layer(hidden, rotation, bias, cache, chosen)
            new += [keys, values]
        normed = RMSNorm.call(hidden, self.norm, self.epsilon)
        stacked = torch.cat([x[None, None] for x in new], dim=1)
        return self._logits(normed), Reshape.call(stacked, (len(self.layers), 2, 0, 0, 0, -1))

    def _logits(self, normed: Tensor) -> Tensor:
        return TiedHead.call(normed, self.embedding) if self.head is None else normed @ self.head


class LlamaLayer(nn.Module):
    """One layer. Weights are kept ``[in, out]``; query, key and value are one product, gate and up another."""

    def __init__(self, layer: Any, config: Any) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.head_dim = attention.head_dim
        self.num_kv_heads = config.num_key_value_heads
        self.group = config.num_attention_heads // config.num_key_value_heads
        self.epsilon, self.intermediate = config.rms_norm_eps, config.intermediate_size
        # The scores' factor is put into the queries' weights: rotation is linear.
        scale = attention.scaling
        query, key, value = attention.q_proj, attention.k_proj, attention.v_proj
        self.query_key_value = Affine([query, key, value], scales=[scale, 1.0, 1.0])
        self.output = Affine([attention.o_proj])
        self.gate_up = Affine([mlp.gate_proj, mlp.up_proj])
        self.down = Affine([mlp.down_proj])
        self.attention_norm = nn.Parameter(layer.input_layernorm.weight.detach())
        self.mlp_norm = nn.Parameter(layer.post_attention_layernorm.weight.detach())

    def forward(
        self,
        hidden: Tensor,
        rotation: tuple[Tensor, Tensor, Tensor],
        bias: Tensor,
        cache: tuple[Tensor, Tensor, int],
        chosen: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's output, and keys and values of the new tokens ``[rows, kv_heads, queries, head_dim]``."""
        normed = RMSNorm.call(hidden, self.attention_norm, self.epsilon)
        queries, keys, values = self._heads(self.query_key_value(normed), rotation)
        past_keys, past_values, slots = cache
        past_scores = queries @ past_keys.transpose(2, 3)
        scores = torch.cat([past_scores, queries @ keys.transpose(2, 3)], dim=3)
        weights = torch.softmax(scores + bias, dim=3)
        mixed = weights[..., :slots] @ past_values + weights[..., slots:] @ values
        heads = Reshape.call(mixed, (0, self.num_kv_heads, self.group, -1, self.head_dim))
        attended = Reshape.call(heads.permute(0, 3, 1, 2, 4), (0, 0, -1))
        if chosen is not None:
            attended, hidden = SelectQueries.call(attended, chosen), SelectQueries.call(hidden, chosen)
        hidden = hidden + self.output(attended)
        gate_up = self.gate_up(RMSNorm.call(hidden, self.mlp_norm, self.epsilon))
        gate, up = torch.split(gate_up, self.intermediate, dim=-1)
        return hidden + self.down(SiLU.call(gate) * up), keys, values

    @property
    def _query_width(self) -> int:
        return int(self.num_kv_heads * self.group * self.head_dim)

    def _heads(
        self, projected: Tensor, rotation: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries ``[rows, kv_heads, group * queries, head_dim]``, keys and values of one head per group."""
        key_width = self.num_kv_heads * self.head_dim
        rotated, values = torch.split(projected, [self._query_width + key_width, key_width], dim=-1)
        queries, keys = torch.split(Rotate.call(rotated, *rotation), [self._query_width, key_width], dim=-1)
        grouped = Reshape.call(queries, (0, 0, self.num_kv_heads, self.group, -1))
        queries = Reshape.call(grouped.permute(0, 2, 3, 1, 4), (0, self.num_kv_heads, -1, self.head_dim))
        shape = (0, 0, self.num_kv_heads, -1)
        keys = Reshape.call(keys, shape).transpose(1, 2)
        return queries, keys, Reshape.call(values, shape).transpose(1, 2)


def rotary_tables(rotary: Any, positions: int) -> tuple[Tensor, Tensor]:
    """Cos and sin of every position, float32 ``[positions, head_dim / 2]``, from the model's own frequencies."""
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * rotary.inv_freq[None].float()
    return angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling
