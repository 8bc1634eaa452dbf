"""BART: learned positions, norms after each part. mBART, Pegasus and Marian are variations of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers.activations import ACT2FN

from rag_infer.export.seq2seq_parts import (
    AttentionParts,
    FeedForwardParts,
    LayerParts,
    Seq2SeqParts,
    StackParts,
)


@dataclass(frozen=True, kw_only=True)
class Variation:
    """What differs between BART and its kin.

    Attributes:
        pre_norm: whether norms come before their parts.
        position_offset: rows of the position table before that of position 0.
    """

    pre_norm: bool
    position_offset: int


BART = Variation(pre_norm=False, position_offset=2)


def read_bart(model: Any) -> Seq2SeqParts:
    """A `BartForConditionalGeneration`."""
    return read_variation(model, BART)


def read_variation(model: Any, variation: Variation) -> Seq2SeqParts:
    """A model of BART's build."""
    config = model.config
    bias: Tensor = model.final_logits_bias.detach()[0]
    return Seq2SeqParts(
        encoder=_stack(model.model.encoder, config, config.encoder_attention_heads, variation),
        decoder=_stack(model.model.decoder, config, config.decoder_attention_heads, variation),
        head=model.lm_head.weight.detach(),
        head_bias=bias if bool(bias.any()) else None,
        max_positions=config.max_position_embeddings,
    )


def _stack(stack: Any, config: Any, num_heads: int, variation: Variation) -> StackParts:
    positions: Tensor = stack.embed_positions.weight.detach()[variation.position_offset :]
    return StackParts(
        embedding=stack.embed_tokens.weight.detach(),
        embedding_scale=config.d_model**0.5 if config.scale_embedding else 1.0,
        positions=positions[: config.max_position_embeddings],
        embedding_norm=getattr(stack, "layernorm_embedding", None),
        layers=[_layer(layer, config) for layer in stack.layers],
        num_heads=num_heads,
        pre_norm=variation.pre_norm,
        final_norm=getattr(stack, "layer_norm", None),
    )


def _layer(layer: Any, config: Any) -> LayerParts:
    crosses = hasattr(layer, "encoder_attn")
    return LayerParts(
        attention=_attention(layer.self_attn),
        attention_norm=layer.self_attn_layer_norm,
        feed_forward=FeedForwardParts(
            inputs=[layer.fc1], output=layer.fc2, activation=ACT2FN[config.activation_function]
        ),
        feed_forward_norm=layer.final_layer_norm,
        cross=_attention(layer.encoder_attn) if crosses else None,
        cross_norm=layer.encoder_attn_layer_norm if crosses else None,
    )


def _attention(attention: Any) -> AttentionParts:
    def linear(name: str) -> nn.Linear:
        found: nn.Linear = getattr(attention, name)
        return found

    return AttentionParts(
        query=linear("q_proj"),
        key=linear("k_proj"),
        value=linear("v_proj"),
        output=linear("out_proj"),
        scale=attention.scaling,
    )
