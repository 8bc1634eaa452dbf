"""What an encoder-decoder generator consists of, in the same words for every family.

A file in `rag_infer.export.families` reads a transformers model into these; `rag_infer.export.seq2seq_graph` turns
them into graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class AttentionParts:
    """The linear layers of one attention.

    Attributes:
        query, key, value, output: as in the checkpoint.
        scale: factor on the scores.
    """

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    scale: float


@dataclass(frozen=True, kw_only=True)
class FeedForwardParts:
    """output(activation(inputs[0](x)) * inputs[1](x)), the second factor only where there is one ("gated")."""

    inputs: Sequence[nn.Linear]
    output: nn.Linear
    activation: Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True)
class LayerParts:
    """One layer; each part with its norm. Only a decoder's has cross-attention."""

    attention: AttentionParts
    attention_norm: nn.Module
    feed_forward: FeedForwardParts
    feed_forward_norm: nn.Module
    cross: AttentionParts | None = None
    cross_norm: nn.Module | None = None


@dataclass(frozen=True, kw_only=True)
class StackParts:
    """An encoder or a decoder.

    Attributes:
        embedding: float32 ``[vocab, width]``.
        embedding_scale: factor on it.
        positions: float32 ``[positions, width]``, added to it, or None.
        embedding_norm: applied to the sum, or None.
        layers: the layers.
        num_heads: heads of each attention.
        pre_norm: whether a norm comes before its part (and the sum passes it by), or after the sum.
        final_norm: after the last layer, or None.
        relative_bias: float32 ``[distances, heads]``, added to self-attention's scores by (position of the key -
            position of the query), or None. An encoder's distances run from -m to m, a decoder's from -m to 0;
            beyond them the last counts.
    """

    embedding: Tensor
    embedding_scale: float
    positions: Tensor | None
    embedding_norm: nn.Module | None
    layers: Sequence[LayerParts]
    num_heads: int
    pre_norm: bool
    final_norm: nn.Module | None
    relative_bias: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Seq2SeqParts:
    """An encoder-decoder.

    Attributes:
        encoder, decoder: the stacks; no encoder where contexts are features of images alone.
        head: float32 ``[vocab, width]``; the decoder's embedding itself where they are tied.
        head_scale: factor on what goes into the head.
        head_bias: float32 ``[vocab]``, or None.
        max_positions: longest sequence on either side, or None where positions are relative.
    """

    encoder: StackParts | None
    decoder: StackParts
    head: Tensor
    head_scale: float = 1.0
    head_bias: Tensor | None = None
    max_positions: int | None
