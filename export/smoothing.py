"""Evens out the channels of a Llama before it is quantised (SmoothQuant, Xiao et al. 2023).

A channel that is large in every token takes the range of 8 bits from the others. What goes into a product is divided by
a factor for each channel, where it comes from, and the product's weights are multiplied by it: the model computes the
same, but for rounding.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

# How much of the difference goes from the activations into the weights (alpha in the paper).
MIGRATION = 0.85
# Of a channel that the prompts do not use others may.
SMALLEST_SHARE = 0.01
TINY = 1e-12

# By product, of each channel of its input.
Shares = dict[nn.Linear, Tensor]


def smooth(model: Any, prompts: Sequence[Sequence[int]]) -> Any:
    """A copy in which the channels that norms and feed-forward layers hand on are evened out; its head is its own.

    Args:
        model: a transformers `LlamaForCausalLM`, float32.
        prompts: tokens of texts of the kind that it will read.

    Returns:
        A model that computes the same, but for rounding.
    """
    smoothed = copy.deepcopy(model)
    layers, head = smoothed.model.layers, smoothed.lm_head
    # A head that is tied becomes one of its own; the embedding stays as it is.
    head.weight = nn.Parameter(head.weight.detach().clone())
    smoothed.config.tie_word_embeddings = False
    read = [p for layer in layers for p in (layer.self_attn.q_proj, layer.mlp.gate_proj, layer.mlp.down_proj)]
    shares = measure(smoothed, [*read, head], prompts)
    with torch.no_grad():
        for layer in layers:
            attention, mlp = layer.self_attn, layer.mlp
            _smooth(layer.input_layernorm, [attention.q_proj, attention.k_proj, attention.v_proj], shares)
            _smooth(layer.post_attention_layernorm, [mlp.gate_proj, mlp.up_proj], shares)
            # The down projection reads the gate's activation times the up projection, in which factors can be put.
            _smooth(mlp.up_proj, [mlp.down_proj], shares)
        _smooth(smoothed.model.norm, [head], shares)
    return smoothed


def measure(model: Any, products: Sequence[nn.Linear], prompts: Sequence[Sequence[int]]) -> Shares:
    """How large each channel of some products' inputs becomes at most, as a share of its token's largest."""
    shares: Shares = {}

    def watch(product: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        magnitudes = inputs[0].reshape(-1, inputs[0].shape[-1]).abs()
        share = (magnitudes / magnitudes.amax(dim=1, keepdim=True).clamp_min(TINY)).amax(dim=0)
        shares[product] = torch.maximum(shares.get(product, share), share)

    handles = [product.register_forward_pre_hook(watch) for product in products]
    try:
        with torch.no_grad():
            for prompt in prompts:
                model(torch.tensor([list(prompt)]))
    finally:
        for handle in handles:
            handle.remove()
    return shares


def _smooth(writer: Any, readers: Sequence[nn.Linear], shares: Shares) -> None:
    """Divide the channels that a norm or a product gives by share^alpha / weight^(1 - alpha) (Xiao et al. 2023,
    equation 4; with a geometric mean of 1), and multiply the weights of what reads them.
    """
    weights = torch.stack([reader.weight.abs().amax(dim=0) for reader in readers]).amax(dim=0)
    share = shares[readers[0]]
    factors = share.clamp_min(SMALLEST_SHARE) ** MIGRATION / weights.clamp_min(TINY) ** (1 - MIGRATION)
    factors /= factors.log().mean().exp()
    writer.weight /= factors if writer.weight.dim() == 1 else factors[:, None]
    if getattr(writer, "bias", None) is not None:
        writer.bias /= factors
    for reader in readers:
        reader.weight *= factors
