"""Search of the training images, as the knowledge base's fusion "weighted_average" does it."""

from __future__ import annotations

import torch
from torch import Tensor

# The texts' share: small, as a question says little of what its image shows.
ALPHA = 0.2


class Memory:
    """Passages of text and image, by their vectors of length 1.

    A passage is a x_t + (1-a) x_v, a query a q_t + (1-a) q_v, and the score their product
    (`rag_infer.knowledge.modalities`).

    Args:
        texts, images: ``[passages, dim]`` each.
        alpha: a.
    """

    def __init__(self, texts: Tensor, images: Tensor, *, alpha: float = ALPHA) -> None:
        self._alpha = alpha
        self._passages = self._mean(texts, images)

    def search(
        self, texts: Tensor, images: Tensor, k: int, *, without: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The k best passages of each query.

        Args:
            texts, images: the queries' vectors, ``[queries, dim]`` each.
            k: how many.
            without: int64 ``[queries]``, a passage of each that is left out.

        Returns:
            (scores float32 ``[queries, k]``, passages int64 ``[queries, k]``), best first.
        """
        scores = self._mean(texts, images) @ self._passages.T
        if without is not None:
            scores.scatter_(1, without[:, None], -torch.inf)
        best = scores.topk(k, dim=1)
        return best.values, best.indices

    def _mean(self, texts: Tensor, images: Tensor) -> Tensor:
        return self._alpha * texts + (1 - self._alpha) * images
