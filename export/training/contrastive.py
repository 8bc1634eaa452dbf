"""The loss of a dual encoder whose images have several right texts, and whose texts several right images."""

from __future__ import annotations

import torch
from torch import Tensor


def contrastive_loss(logits: Tensor, positive: Tensor) -> Tensor:
    """InfoNCE with several positives: how far the softmax of each row is from all its positives alike.

        L_i = -1/|P(i)| sum_{p in P(i)} log softmax(logits_i)_p

    Rows without positives do not count. This is L_out of supervised contrastive learning (Khosla et al. 2020,
    equation 2) between two modalities, as in UniCL (Yang et al. 2022); the loss of both directions is
    the sum of this for ``logits`` and for their transpose.

    Args:
        logits: float ``[rows, columns]``, scaled similarities.
        positive: bool, same shape.

    Returns:
        float ``[]``, in nats: the mean over rows.

    Raises:
        ValueError: no row has a positive.

    >>> contrastive_loss(torch.zeros(1, 4), torch.tensor([[True, True, False, False]])).exp().item()
    4.0
    """
    count = positive.sum(1)
    log_probs = torch.log_softmax(logits, dim=1).masked_fill(~positive, 0.0).sum(1)
    counts = count > 0
    if not counts.any():
        raise ValueError(f"none of {len(count)} rows has a positive")
    return -(log_probs[counts] / count[counts]).mean()
