"""ONNX operators that PyTorch has no name for, each with its PyTorch meaning beside its ONNX form.

ONNX Runtime runs a normalisation or a rotation as one node where the exporter would write ten. A traced module
calls `Operator.call` and stays runnable in PyTorch, which is what the parity check compares.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Operator(torch.autograd.Function):
    """Base of the operators."""

    @classmethod
    def call(cls, *arguments: Any) -> Tensor:
        """Compute it in PyTorch, or put its node into the graph that is traced."""
        result: Tensor = cls.apply(*arguments)  # type: ignore[no-untyped-call]
        return result


class RMSNorm(Operator):
    """x / sqrt(mean(x²) + epsilon) * weight (Zhang and Sennrich 2019), over the last dimension."""

    @staticmethod
    def forward(_: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        """In PyTorch, as transformers' LlamaRMSNorm does it."""
        return weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon))

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, epsilon: float) -> Any:
        """One node that ONNX Runtime has on CPU and CUDA."""
        return g.op("SimplifiedLayerNormalization", x, weight, axis_i=-1, epsilon_f=epsilon).setType(x.type())


class Rotate(Operator):
    """Rotary position embedding (Su et al. 2021) of heads side by side: ``[rows, queries, heads * head_dim]``.

    ``cos`` and ``sin`` are tables ``[positions, head_dim / 2]``; the two halves of a head are rotated into one
    another, as transformers does it.
    """

    @staticmethod
    def forward(_: Any, x: Tensor, positions: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """In PyTorch."""
        heads = x.reshape(*x.shape[:2], -1, 2, cos.shape[1])
        first, second = heads[..., 0, :], heads[..., 1, :]
        c, s = cos[positions][:, :, None], sin[positions][:, :, None]
        turned = torch.stack([first * c - second * s, second * c + first * s], dim=-2)
        return turned.reshape(x.shape)

    @staticmethod
    def symbolic(g: Any, x: Any, positions: Any, cos: Any, sin: Any) -> Any:
        """One node that ONNX Runtime has on CPU and CUDA."""
        return g.op("com.microsoft::RotaryEmbedding", x, positions, cos, sin).setType(x.type())


class SiLU(Operator):
    """x * sigmoid(x)."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        """In PyTorch."""
        return torch.nn.functional.silu(x)

    @staticmethod
    def symbolic(g: Any, x: Any) -> Any:
        """One node that ONNX Runtime has on CPU and CUDA."""
        return g.op("com.microsoft::QuickGelu", x, alpha_f=1.0).setType(x.type())


class Reshape(Operator):
    """ONNX's Reshape with a constant shape: 0 copies the dimension at that place, -1 takes what is left.

    PyTorch's own reshape would be exported with nodes that compute every dynamic dimension.
    """

    @staticmethod
    def forward(_: Any, x: Tensor, shape: Sequence[int]) -> Tensor:
        """In PyTorch."""
        return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])

    @staticmethod
    def symbolic(g: Any, x: Any, shape: Sequence[int]) -> Any:
        """One node."""
        constant = g.op("Constant", value_t=torch.tensor(shape, dtype=torch.int64))
        kind = x.type()
        return g.op("Reshape", x, constant).setType(kind.with_sizes([None] * len(shape)))


class SelectQueries(Operator):
    """Of ``x [rows, queries, width]`` the queries ``positions [rows, outputs]``: ``[rows, outputs, width]``."""

    @staticmethod
    def forward(_: Any, x: Tensor, positions: Tensor) -> Tensor:
        """In PyTorch."""
        return torch.take_along_dim(x, positions[:, :, None], dim=1)

    @staticmethod
    def symbolic(g: Any, x: Any, positions: Any) -> Any:
        """A GatherND that counts in each row."""
        axes = g.op("Constant", value_t=torch.tensor([2], dtype=torch.int64))
        indices = g.op("Unsqueeze", positions, axes)
        return g.op("GatherND", x, indices, batch_dims_i=1).setType(x.type().with_sizes([None] * 3))


class TiedHead(Operator):
    """``x [..., width]`` against the embedding itself, ``[vocab, width]``, so that the file holds it once."""

    @staticmethod
    def forward(_: Any, x: Tensor, embedding: Tensor) -> Tensor:
        """In PyTorch."""
        return x @ embedding.t()

    @staticmethod
    def symbolic(g: Any, x: Any, embedding: Any) -> Any:
        """A product that reads its second operand transposed.

        Not a Gemm: ONNX Runtime's quantiser rewrites those, and would turn the embedding around for all its readers.
        """
        product = g.op("com.microsoft::FusedMatMul", x, embedding, transB_i=1)
        return product.setType(x.type().with_sizes([None] * 3))
