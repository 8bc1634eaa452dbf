"""GPT-2 as the decoder of a VisionEncoderDecoderModel: norms before each part, learned positions, a tied head."""

from __future__ import annotations

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


def read_vision_encoder_decoder(model: Any) -> Seq2SeqParts:
    """A `VisionEncoderDecoderModel` whose decoder is a `GPT2LMHeadModel` with cross-attention.

    Its encoder is no part: it gives the features that the decoder attends to.
    """
    decoder = model.decoder
    config, body = decoder.config, decoder.transformer
    return Seq2SeqParts(
        encoder=None,
        decoder=StackParts(
            embedding=body.wte.weight.detach(),
            embedding_scale=1.0,
            positions=body.wpe.weight.detach(),
            embedding_norm=None,
            layers=[_layer(layer, config) for layer in body.h],
            num_heads=config.n_head,
            pre_norm=True,
            final_norm=body.ln_f,
        ),
        head=decoder.lm_head.weight.detach(),
        max_positions=config.n_positions,
    )


def _layer(layer: Any, config: Any) -> LayerParts:
    width = config.n_embd
    query, key, value = _split(layer.attn.c_attn, width)
    cross_key, cross_value = _split(layer.crossattention.c_attn, width)
    return LayerParts(
        attention=AttentionParts(
            query=query, key=key, value=value, output=_linear(layer.attn.c_proj), scale=_scale(layer.attn)
        ),
        attention_norm=layer.ln_1,
        feed_forward=FeedForwardParts(
            inputs=[_linear(layer.mlp.c_fc)],
            output=_linear(layer.mlp.c_proj),
            activation=ACT2FN[config.activation_function],
        ),
        feed_forward_norm=layer.ln_2,
        cross=AttentionParts(
            query=_linear(layer.crossattention.q_attn),
            key=cross_key,
            value=cross_value,
            output=_linear(layer.crossattention.c_proj),
            scale=_scale(layer.crossattention),
        ),
        cross_norm=layer.ln_cross_attn,
    )


def _scale(attention: Any) -> float:
    scale = attention.head_dim**-0.5 if attention.scale_attn_weights else 1.0
    # Of the layer's number, for models trained with it.
    return scale / (attention.layer_idx + 1) if attention.scale_attn_by_inverse_layer_idx else scale


def _split(convolution: Any, width: int) -> list[nn.Linear]:
    """The layers that lie side by side in one `Conv1D`."""
    weights = convolution.weight.detach().split(width, dim=1)
    biases = convolution.bias.detach().split(width)
    return [_as_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def _linear(convolution: Any) -> nn.Linear:
    return _as_linear(convolution.weight.detach(), convolution.bias.detach())


def _as_linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A layer of ``weight`` ``[in, out]``, as `Conv1D` holds it."""
    inputs, outputs = weight.shape
    layer = nn.Linear(inputs, outputs, device="meta")  # what it would draw at random is replaced
    layer.weight = nn.Parameter(weight.t(), requires_grad=False)
    layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer
