"""Pieces that the traced graphs are made of."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rag_infer.export.operators import Reshape, RMSNorm


class Affine(nn.Module):
    """Linear layers over the same input as one product, ``x @ weight [in, out]`` (+ bias)."""

    def __init__(self, layers: Sequence[nn.Linear], scales: Sequence[float] | None = None) -> None:
        super().__init__()
        factors = scales or [1.0] * len(layers)
        weights = [layer.weight.detach() * f for layer, f in zip(layers, factors, strict=True)]
        self.weight = nn.Parameter(torch.cat(weights).t().contiguous())
        self.bias: nn.Parameter | None = None
        if layers[0].bias is not None:
            biases = [layer.bias.detach() * f for layer, f in zip(layers, factors, strict=True)]
            self.bias = nn.Parameter(torch.cat(biases))

    def forward(self, x: Tensor) -> Tensor:
        """The product; ``[..., in]`` to ``[..., out]``."""
        product = x @ self.weight
        return product if self.bias is None else product + self.bias


class Norm(nn.Module):
    """A LayerNorm, or an RMS norm where the original has no bias and no mean."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(norm.weight.detach())  # type: ignore[operator]
        bias = getattr(norm, "bias", None)
        self.bias = None if bias is None else nn.Parameter(bias.detach())
        self.epsilon = float(getattr(norm, "eps", None) or norm.variance_epsilon)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Over the last dimension."""
        if self.bias is None:
            return RMSNorm.call(x, self.weight, self.epsilon)
        return torch.nn.functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """``[rows, tokens, heads * head_dim]`` to ``[rows, heads, tokens, head_dim]``."""
    return Reshape.call(x, (0, 0, num_heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """The way back."""
    return Reshape.call(x.transpose(1, 2), (0, 0, -1))
