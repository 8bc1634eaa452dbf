"""Minus the logarithm of the RAG marginal likelihood, to be minimised.

p(z|x)     = softmax over the retrieved passages of score_scale * score(x, z)
RAG-Token: p(y|x) = prod_t sum_z p(z|x) p(y_t | x, z, y_<t)
RAG-Sequence: p(y|x) = sum_z p(z|x) prod_t p(y_t | x, z, y_<t)      (Lewis et al. 2020, section 2.1)
"""

from __future__ import annotations

import torch
from torch import Tensor

STRATEGIES = ("rag-token", "rag-sequence")
IGNORED = -100


def marginal_loss(logits: Tensor, scores: Tensor, labels: Tensor, *, strategy: str = "rag-token") -> Tensor:
    """The mean of -log p(y|x) over questions.

    Gradients flow into the generator's ``logits``, and into ``scores`` where these have any: a passage's prior rises
    where its posterior is above it.

    Args:
        logits: float ``[questions, n_docs, tokens, vocab]``: of each answer token under each passage.
        scores: float ``[questions, n_docs]``, already times score_scale; minus infinity gives weight zero.
        labels: int64 ``[questions, tokens]``, -100 behind the answer.
        strategy: one of `STRATEGIES`.

    Returns:
        float ``[]``, in nats.

    Raises:
        ValueError: an unknown strategy, or shapes that do not fit.

    >>> logits = torch.log(torch.tensor([[[[0.5, 0.5]], [[0.1, 0.9]]]]))
    >>> loss = marginal_loss(logits, torch.zeros(1, 2), torch.tensor([[1]]))
    >>> round(torch.exp(-loss).item(), 4)
    0.7
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy!r}")
    questions, n_docs, tokens, _ = logits.shape
    if scores.shape != (questions, n_docs) or labels.shape != (questions, tokens):
        raise ValueError(
            f"logits of {questions} questions, {n_docs} passages and {tokens} tokens do not fit scores of shape "
            f"{tuple(scores.shape)} and labels of shape {tuple(labels.shape)}"
        )
    priors = torch.log_softmax(scores, dim=1)
    counted = labels != IGNORED
    targets = labels.masked_fill(~counted, 0)[:, None, :, None].expand(-1, n_docs, -1, 1)
    chosen = torch.log_softmax(logits, dim=-1).gather(3, targets).squeeze(3)
    if strategy == "rag-sequence":
        whole = chosen.masked_fill(~counted[:, None], 0.0).sum(2)
        return -torch.logsumexp(priors + whole, dim=1).mean()
    each = torch.logsumexp(priors[:, :, None] + chosen, dim=1)
    return -each.masked_fill(~counted, 0.0).sum(1).mean()
