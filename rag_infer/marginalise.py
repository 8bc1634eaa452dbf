"""The sums over passages.

    p(z|x)   = softmax over the retrieved passages of score_scale * score(x, z)
    RAG-Token: p(y_t | x, y_<t) = sum_z p(z|x) p(y_t | x, z, y_<t)           (Lewis et al. 2020, section 2.1)
    p(z_t | x, y_<=t)           = p(z|x) p(y_t | x, z, y_<t) / p(y_t | x, y_<t)   (its figure 2)

In RAG-Token each token draws a passage of its own, so the posterior of a token's passage does not depend
on the tokens after it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rag_infer import _kernels


def log_priors(scores: NDArray[np.float32], score_scale: float = 1.0) -> NDArray[np.float32]:
    """Log p(z|x) from raw retrieval scores.

    Args:
        scores: float ``[..., n_docs]``; minus infinity gives weight zero.
        score_scale: the bundle's factor.

    Returns:
        float32 ``[..., n_docs]``; its exponentials sum to one over the last axis. All minus infinity stays so.

    Raises:
        ValueError: a score is NaN or plus infinity.

    >>> np.exp(log_priors(np.array([1.0, 1.0], dtype=np.float32))).tolist()
    [0.5, 0.5]
    """
    scaled = np.asarray(scores, dtype=np.float64) * score_scale
    if np.isnan(scaled).any() or np.isposinf(scaled).any():
        raise ValueError(f"retrieval scores must not be NaN or infinite, got {np.asarray(scores).tolist()}")
    top = scaled.max(axis=-1, keepdims=True, initial=-np.inf)
    shifted = scaled - np.where(np.isneginf(top), 0.0, top)
    with np.errstate(divide="ignore", invalid="ignore"):
        result = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return np.where(np.isneginf(scaled), -np.inf, result).astype(np.float32)


def top_tokens(
    logits: NDArray[np.float32], priors: NDArray[np.float32], k: int, *, threads: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k most probable next tokens under the marginal, for every beam.

    Args:
        logits: float32 ``[n_docs, beams, vocab]``.
        priors: float32 ``[n_docs]``, log p(z|x).
        k: how many; a smaller vocabulary gives fewer (minus infinity, token -1).

    Returns:
        (log-probabilities float32 ``[beams, k]``, tokens int64 ``[beams, k]``), best first.
    """
    return _kernels.marginalise_topk(logits, priors, k, threads=threads)


def log_probs(
    logits: NDArray[np.float32], priors: NDArray[np.float32], *, threads: int = 1
) -> NDArray[np.float32]:
    """The marginal log-probability of every token: float32 ``[beams, vocab]``; arguments as `top_tokens`."""
    return _kernels.marginalise_log_probs(logits, priors, threads=threads)


def token_posterior(
    logits: NDArray[np.float32], priors: NDArray[np.float32], tokens: NDArray[np.int64], *, threads: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the passages gave to chosen tokens.

    Args:
        logits: float32 ``[n_docs, beams, vocab]``.
        priors: float32 ``[n_docs]``.
        tokens: int64 ``[beams, m]``.

    Returns:
        (marginal log-probabilities float32 ``[beams, m]``, posterior p(z_t | x, y_<=t) float32
        ``[beams, m, n_docs]``, which sums to one over passages).
    """
    marginal, per_document = _kernels.marginalise_gather(logits, priors, tokens, threads=threads)
    return marginal, posterior(per_document, priors)


def posterior(per_document: NDArray[np.float32], priors: NDArray[np.float32]) -> NDArray[np.float32]:
    """p(z | x, y), proportional to p(z|x) p(y | x, z): the share each passage has in what was chosen.

    Args:
        per_document: float32 ``[n_docs, beams, m]``, log p(y | x, z).
        priors: float32 ``[n_docs]``, log p(z|x).

    Returns:
        float32 ``[beams, m, n_docs]``, which sums to one over passages; the prior where no passage gives any weight.
    """
    joint = per_document.transpose(1, 2, 0) + priors
    # Normalised by its own sum, not by `marginal`: float32 rounding then cancels and the sum is one.
    top = joint.max(axis=-1, keepdims=True)
    weights = np.exp(joint - np.where(np.isneginf(top), 0.0, top))
    total = weights.sum(axis=-1, keepdims=True)
    prior = np.exp(priors)
    return np.where(total > 0, weights / np.where(total > 0, total, 1), prior).astype(np.float32)


def sequence_log_prob(
    logits: NDArray[np.float32], priors: NDArray[np.float32], tokens: NDArray[np.int64], *, strategy: str
) -> float:
    """Log p(y|x) of one given answer.

    Args:
        logits: float32 ``[n_docs, tokens, vocab]``, teacher-forced.
        priors: float32 ``[n_docs]``, log p(z|x).
        tokens: int64 ``[tokens, 1]``.
        strategy: "rag-token" sums over passages at each token, "rag-sequence" once for the whole answer.
    """
    marginal, per_document = _kernels.marginalise_gather(logits, priors, tokens)
    if strategy == "rag-token":
        return float(marginal.sum(dtype=np.float64))
    joint = priors + per_document.sum(axis=(1, 2), dtype=np.float64)
    return float(np.logaddexp.reduce(joint))
