"""The graphs of an encoder-decoder: one reads the contexts, one runs the decoder over them.

What differs from transformers:

- The encoder's graph ends with every decoder layer's keys (transposed) and values for cross-attention: computed once
  per context, never per beam or per token.
- Beams are queries of one row. Cross-attention is then one product for all of them, and nothing of the context is
  repeated. ``attention_bias`` alone says which beam sees which of the row's past tokens (see
  `rag_infer.generate.seq2seq`), so nothing of the past is reordered either, and a tree of given answers is scored in
  the same way.
- The first layer's self-attention sees tokens and no passage: it is computed once for all passages of a question.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rag_infer.export.modules import Affine, Norm, join_heads, split_heads
from rag_infer.export.operators import TiedHead
from rag_infer.export.seq2seq_parts import (
    AttentionParts,
    FeedForwardParts,
    LayerParts,
    Seq2SeqParts,
    StackParts,
)


class EncoderGraph(nn.Module):
    """Contexts to the keys and values that every decoder layer attends to."""

    def __init__(self, parts: Seq2SeqParts) -> None:
        super().__init__()
        assert parts.encoder is not None
        self.embed = Embedding(parts.encoder)
        self.layers = nn.ModuleList([EncoderLayer(p, parts.encoder) for p in parts.encoder.layers])
        self.norm = _norm(parts.encoder.final_norm)
        self.relative = RelativeBias(parts.encoder.relative_bias, past_only=False)
        self.cross = nn.ModuleList([CrossInputs(p, parts.decoder.num_heads) for p in parts.decoder.layers])

    def forward(self, input_ids: Tensor, attention_bias: Tensor) -> tuple[Tensor, ...]:
        """Run the graph.

        Args:
            input_ids: int64 ``[rows, tokens]``.
            attention_bias: float32 ``[rows, tokens]``, 0 where a token counts, minus infinity elsewhere.

        Returns:
            Per decoder layer keys ``[rows, heads, head_dim, tokens]`` and values ``[rows, heads, tokens, head_dim]``.
        """
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)[None]
        return self.read(self.embed(input_ids, positions), positions, attention_bias)

    def read(self, hidden: Tensor, positions: Tensor, attention_bias: Tensor) -> tuple[Tensor, ...]:
        """The same from what was embedded, ``[rows, tokens, width]``."""
        bias = attention_bias[:, None, None] + self.relative(positions, positions)
        for layer in self.layers:
            hidden = layer(hidden, bias)
        hidden = hidden if self.norm is None else self.norm(hidden)
        return tuple(x for cross in self.cross for x in cross(hidden))


class DecoderGraph(nn.Module):
    """The decoder over contexts that were read: for a step, and for scoring."""

    def __init__(self, parts: Seq2SeqParts) -> None:
        super().__init__()
        stack = parts.decoder
        self.embed = Embedding(stack)
        self.layers = nn.ModuleList([DecoderLayer(p, stack) for p in stack.layers])
        self.norm = _norm(stack.final_norm)
        self.relative = RelativeBias(stack.relative_bias, past_only=True)
        self.head_scale = parts.head_scale
        tied = parts.head.data_ptr() == stack.embedding.data_ptr()
        self.head = None if tied else nn.Parameter(parts.head.t().contiguous())
        self.head_bias = None if parts.head_bias is None else nn.Parameter(parts.head_bias)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        slot_positions: Tensor,
        attention_bias: Tensor,
        cross_bias: Tensor,
        question_of_row: Tensor,
        *cache: Tensor,
    ) -> tuple[Tensor, ...]:
        """Run the graph; shapes are in `rag_infer.export.seq2seq.STEP_AXES`.

        Args:
            input_ids, position_ids, slot_positions, attention_bias, cross_bias, question_of_row: see there.
            cache: per layer past keys, past values, cross keys, cross values.

        Returns:
            The logits, then per layer keys and values of the new tokens.
        """
        hidden = self.embed(input_ids, position_ids)
        bias = attention_bias[:, None] + self.relative(position_ids, slot_positions)
        cross = cross_bias[:, None, None]
        new: list[Tensor] = []
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, DecoderLayer)
            past, context = cache[4 * i : 4 * i + 2], cache[4 * i + 2 : 4 * i + 4]
            hidden, keys, values = layer.attend(hidden, bias, *past)
            if i == 0:  # from a row per question to a row per context
                hidden, bias = hidden[question_of_row], bias[question_of_row]
            hidden = layer.read(hidden, cross, *context)
            new += [keys, values]
        hidden = hidden if self.norm is None else self.norm(hidden)
        return (self._logits(hidden), *new)

    def _logits(self, hidden: Tensor) -> Tensor:
        hidden = hidden if self.head_scale == 1.0 else hidden * self.head_scale
        head = self.head
        logits = TiedHead.call(hidden, self.embed.weight) if head is None else hidden @ head
        return logits if self.head_bias is None else logits + self.head_bias


class Embedding(nn.Module):
    """Tokens and their absolute positions."""

    def __init__(self, stack: StackParts) -> None:
        super().__init__()
        self.weight = nn.Parameter(stack.embedding)
        self.scale = stack.embedding_scale
        self.positions = None if stack.positions is None else nn.Parameter(stack.positions)
        self.norm = _norm(stack.embedding_norm)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """``[rows, tokens]`` to ``[rows, tokens, width]``."""
        return self.placed(self.tokens(input_ids), positions)

    def tokens(self, input_ids: Tensor) -> Tensor:
        """The tokens alone."""
        hidden = self.weight[input_ids]
        return hidden if self.scale == 1.0 else hidden * self.scale

    def placed(self, hidden: Tensor, positions: Tensor) -> Tensor:
        """With their positions."""
        hidden = hidden if self.positions is None else hidden + self.positions[positions]
        return hidden if self.norm is None else self.norm(hidden)


class RelativeBias(nn.Module):
    """What T5 adds to the scores by the distance from query to key (Raffel et al. 2020, section 2.1)."""

    def __init__(self, table: Tensor | None, *, past_only: bool) -> None:
        super().__init__()
        self.table = None if table is None else nn.Parameter(table)
        rows = 0 if table is None else len(table)
        self.furthest = rows - 1 if past_only else (rows - 1) // 2
        self.last = rows - 1

    def forward(self, queries: Tensor, keys: Tensor) -> Any:
        """Positions ``[rows, queries]`` and ``[rows, keys]`` to ``[rows, heads, queries, keys]``, or 0.0."""
        if self.table is None:
            return 0.0
        distances = keys[:, None, :] - queries[:, :, None] + self.furthest
        return self.table[distances.clamp(0, self.last)].permute(0, 3, 1, 2)


class EncoderLayer(nn.Module):
    """Self-attention over a context, then the feed-forward layers."""

    def __init__(self, parts: LayerParts, stack: StackParts) -> None:
        super().__init__()
        self.attention = SelfAttention(parts.attention, stack.num_heads)
        self.attention_step = Residual(parts.attention_norm, stack)
        self.feed_forward = FeedForward(parts.feed_forward)
        self.feed_forward_step = Residual(parts.feed_forward_norm, stack)

    def forward(self, hidden: Tensor, bias: Tensor) -> Tensor:
        """``[rows, tokens, width]`` to the same."""
        queries, keys, values = self.attention.project(self.attention_step.before(hidden))
        weights = torch.softmax(queries @ keys.transpose(2, 3) + bias, dim=3)
        hidden = self.attention_step.after(hidden, self.attention.output(join_heads(weights @ values)))
        step = self.feed_forward_step
        return step.after(hidden, self.feed_forward(step.before(hidden)))


class DecoderLayer(nn.Module):
    """Self-attention over what was generated, attention to the context, then the feed-forward layers."""

    def __init__(self, parts: LayerParts, stack: StackParts) -> None:
        super().__init__()
        assert parts.cross is not None and parts.cross_norm is not None  # noqa: PT018 - for the type checker
        self.attention = SelfAttention(parts.attention, stack.num_heads)
        self.attention_step = Residual(parts.attention_norm, stack)
        self.num_heads = stack.num_heads
        self.cross_query = Affine([parts.cross.query], [parts.cross.scale])
        self.cross_output = Affine([parts.cross.output])
        self.cross_step = Residual(parts.cross_norm, stack)
        self.feed_forward = FeedForward(parts.feed_forward)
        self.feed_forward_step = Residual(parts.feed_forward_norm, stack)

    def attend(
        self, hidden: Tensor, bias: Tensor, past_keys: Tensor, past_values: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Self-attention: the hidden states after it, and the new tokens' keys and values."""
        queries, keys, values = self.attention.project(self.attention_step.before(hidden))
        slots = past_keys.shape[2]
        past_scores = queries @ past_keys.transpose(2, 3)
        scores = torch.cat([past_scores, queries @ keys.transpose(2, 3)], dim=3)
        weights = torch.softmax(scores + bias, dim=3)
        mixed = weights[..., :slots] @ past_values + weights[..., slots:] @ values
        attended = self.attention.output(join_heads(mixed))
        return self.attention_step.after(hidden, attended), keys, values

    def read(self, hidden: Tensor, bias: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention to the context, and the feed-forward layers."""
        queries = split_heads(self.cross_query(self.cross_step.before(hidden)), self.num_heads)
        weights = torch.softmax(queries @ keys + bias, dim=3)
        hidden = self.cross_step.after(hidden, self.cross_output(join_heads(weights @ values)))
        step = self.feed_forward_step
        return step.after(hidden, self.feed_forward(step.before(hidden)))


class SelfAttention(nn.Module):
    """The products of self-attention; the scores' factor is put into the queries' weights."""

    def __init__(self, parts: AttentionParts, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.width = parts.query.out_features
        self.query_key_value = Affine([parts.query, parts.key, parts.value], [parts.scale, 1.0, 1.0])
        self.output = Affine([parts.output])

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``[rows, heads, tokens, head_dim]``."""
        queries, keys, values = torch.split(self.query_key_value(hidden), self.width, dim=-1)
        return (
            split_heads(queries, self.num_heads),
            split_heads(keys, self.num_heads),
            split_heads(values, self.num_heads),
        )


class CrossInputs(nn.Module):
    """A decoder layer's keys and values of the context."""

    def __init__(self, parts: LayerParts, num_heads: int) -> None:
        super().__init__()
        assert parts.cross is not None
        self.num_heads = num_heads
        self.key, self.value = Affine([parts.cross.key]), Affine([parts.cross.value])

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Keys ``[rows, heads, head_dim, tokens]``, values ``[rows, heads, tokens, head_dim]``."""
        keys = split_heads(self.key(hidden), self.num_heads)
        return keys.transpose(2, 3), split_heads(self.value(hidden), self.num_heads)


class FeedForward(nn.Module):
    """The feed-forward layers, gated where there are two inputs."""

    def __init__(self, parts: FeedForwardParts) -> None:
        super().__init__()
        self.width = parts.output.in_features
        self.gated = len(parts.inputs) == 2
        self.inputs = Affine(parts.inputs)
        self.output = Affine([parts.output])
        self.activation = parts.activation

    def forward(self, hidden: Tensor) -> Tensor:
        """``[rows, tokens, width]`` to the same."""
        inner = self.inputs(hidden)
        if self.gated:
            gate, linear = torch.split(inner, self.width, dim=-1)
            activated = self.activation(gate) * linear
        else:
            activated = self.activation(inner)
        output: Tensor = self.output(activated)
        return output


class Residual(nn.Module):
    """A part's norm and the sum that passes it by."""

    def __init__(self, norm: nn.Module, stack: StackParts) -> None:
        super().__init__()
        self.norm = Norm(norm)
        self.pre_norm = stack.pre_norm

    def before(self, hidden: Tensor) -> Tensor:
        """What goes into the part."""
        return self._normed(hidden) if self.pre_norm else hidden

    def after(self, hidden: Tensor, output: Tensor) -> Tensor:
        """The sum."""
        total = hidden + output
        return total if self.pre_norm else self._normed(total)

    def _normed(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.norm(hidden)
        return normed


def _norm(norm: nn.Module | None) -> Norm | None:
    return None if norm is None else Norm(norm)
