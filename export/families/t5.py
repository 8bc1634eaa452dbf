"""T5: relative positions as a bias on the scores, RMS norms before each part, feed-forward layers that may be gated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.activations import ACT2FN
from transformers.models.t5.modeling_t5 import T5Attention

from rag_infer.export.seq2seq_parts import (
    AttentionParts,
    FeedForwardParts,
    LayerParts,
    Seq2SeqParts,
    StackParts,
)


def read_t5(model: Any) -> Seq2SeqParts:
    """A `T5ForConditionalGeneration`; a tied head has its input scaled (Raffel et al. 2020 share the weights so)."""
    config = model.config
    return Seq2SeqParts(
        encoder=_stack(model.encoder, config),
        decoder=_stack(model.decoder, config),
        head=model.lm_head.weight.detach(),
        head_scale=config.d_model**-0.5 if config.tie_word_embeddings else 1.0,
        max_positions=None,
    )


def _stack(stack: Any, config: Any) -> StackParts:
    return StackParts(
        embedding=stack.embed_tokens.weight.detach(),
        embedding_scale=1.0,
        positions=None,
        embedding_norm=None,
        layers=[_layer(block, config) for block in stack.block],
        num_heads=config.num_heads,
        pre_norm=True,
        final_norm=stack.final_layer_norm,
        relative_bias=_relative_bias(stack, config),
    )


def _relative_bias(stack: Any, config: Any) -> Tensor:
    """One row per distance: buckets grow with the distance and end at ``relative_attention_max_distance``."""
    furthest = config.relative_attention_max_distance
    bidirectional = not stack.is_decoder
    distances = torch.arange(-furthest, furthest + 1 if bidirectional else 1)
    buckets = T5Attention._relative_position_bucket(
        distances,
        bidirectional=bidirectional,
        num_buckets=config.relative_attention_num_buckets,
        max_distance=furthest,
    )
    # All layers add the first one's.
    weight: Tensor = stack.block[0].layer[0].SelfAttention.relative_attention_bias.weight.detach()
    return weight[buckets]


def _layer(block: Any, config: Any) -> LayerParts:
    attention, *cross, feed_forward = block.layer
    return LayerParts(
        attention=_attention(attention.SelfAttention),
        attention_norm=attention.layer_norm,
        feed_forward=_feed_forward(feed_forward.DenseReluDense, config),
        feed_forward_norm=feed_forward.layer_norm,
        cross=_attention(cross[0].EncDecAttention) if cross else None,
        cross_norm=cross[0].layer_norm if cross else None,
    )


def _attention(attention: Any) -> AttentionParts:
    # No factor on the scores: it is in the initialisation.
    return AttentionParts(
        query=attention.q, key=attention.k, value=attention.v, output=attention.o, scale=1.0
    )


def _feed_forward(part: Any, config: Any) -> FeedForwardParts:
    inputs = [part.wi_0, part.wi_1] if config.is_gated_act else [part.wi]
    return FeedForwardParts(inputs=inputs, output=part.wo, activation=ACT2FN[config.dense_act_fn])
