"""Products whose inputs must not be quantised together.

In some layers of a Llama model the first token's activations are a thousand times those of every other token ("massive
activations", Sun et al. 2024). A dynamic scale for the whole input would then round all other tokens to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from rag_infer.export.families.llama import Affine, LlamaDecoder

# A row this many times as large as the median row leaves it 127 / 8 = 16 steps.
LARGEST_RATIO = 8.0


def outlier_weights(model: Any, token_ids: Sequence[int]) -> list[str]:
    """Names of the decoder graph's weights to leave in float32.

    Args:
        model: a transformers `LlamaForCausalLM`.
        token_ids: a text to measure on; it should begin as every prompt begins.
    """
    decoder = LlamaDecoder(model, tied_head=True).eval()
    ratios: dict[str, float] = {}

    def measure(name: str) -> Any:
        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            del module
            rows = inputs[0].reshape(-1, inputs[0].shape[-1]).abs().amax(dim=1)
            ratios[name] = float(rows.max() / rows.median().clamp(min=1e-12))

        return hook

    products = {n: m for n, m in decoder.named_modules() if isinstance(m, Affine)}
    handles = [module.register_forward_pre_hook(measure(name)) for name, module in products.items()]
    try:
        with torch.no_grad():
            decoder(*_first_call(token_ids, model.config))
    finally:
        for handle in handles:
            handle.remove()
    return [f"{name}.weight" for name, ratio in ratios.items() if ratio > LARGEST_RATIO]


def _first_call(token_ids: Sequence[int], config: Any) -> tuple[torch.Tensor, ...]:
    """The graph's inputs for a text on an empty cache."""
    width = len(token_ids)
    ahead = torch.ones(width, width, dtype=torch.bool).triu(1)
    empty = torch.zeros(1, config.num_key_value_heads, 0, config.head_dim)
    return (
        torch.tensor([list(token_ids)]),
        torch.arange(width)[None],
        torch.zeros(1, width, width).masked_fill(ahead, -torch.inf),
        torch.tensor([[width - 1]]),
        *[empty] * (2 * config.num_hidden_layers),
    )
