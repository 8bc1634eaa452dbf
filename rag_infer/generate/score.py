"""The probability of given answers, teacher-forced, under both strategies.

    RAG-Token:    log p(y|x) = sum_t log sum_z p(z|x) p(y_t | x, z, y_<t)
    RAG-Sequence: log p(y|x) = log sum_z p(z|x) prod_t p(y_t | x, z, y_<t)      (Lewis et al. 2020, section 2.1)

Label smoothing puts a share epsilon on all tokens alike, as transformers' `get_nll` does it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag_infer import _kernels, marginalise
from rag_infer.generate.model import Scorer

Float = NDArray[np.float32]
Double = NDArray[np.float64]

# Logits of scored answers that are held at once, in bytes.
SCORED_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Answers:
    """Answers of one question, to be scored.

    Attributes:
        tokens: int64 ``[answers, tokens]``, right-padded, without the tokens every answer begins with.
        counted: bool, same shape: the tokens that have a part in the score.
        has_prior: bool ``[answers]``: whether RAG-Sequence's prior has.
    """

    tokens: NDArray[np.int64]
    counted: NDArray[np.bool_]
    has_prior: NDArray[np.bool_]


def rag_token_log_probs(
    scorer: Scorer, rows: slice, priors: Float, answers: Answers, *, smooth: bool = False
) -> tuple[Double, Double]:
    """Log p(y|x) of each answer, and the sum of all tokens' log-probabilities (zero unless ``smooth``).

    Args:
        scorer: gives the logits.
        rows: the question's rows.
        priors: log p(z|x), float32 ``[n_docs]``.
        answers: the answers.
        smooth: whether the second is wanted.

    Returns:
        Both float64 ``[answers]``.
    """
    found = []
    for logits, targets, counted, _ in _chunks(scorer, rows, answers):
        marginal, _ = _kernels.marginalise_gather(logits, priors, targets)
        chosen = np.where(counted, marginal.reshape(counted.shape).astype(np.float64), 0)
        everything = np.zeros(counted.shape)
        if smooth:
            sums = marginalise.log_probs(logits, priors).sum(axis=-1, dtype=np.float64)
            everything = np.where(counted, sums.reshape(counted.shape), 0)
        found.append((chosen.sum(axis=1), everything.sum(axis=1)))
    likelihood, smoothed = (np.concatenate(x) for x in zip(*found, strict=True))
    return likelihood, smoothed


def rag_sequence_joint(
    scorer: Scorer, rows: slice, priors: Float, answers: Answers, *, smooth: bool = False
) -> tuple[Double, Double]:
    """Log p(z|x) p(y|x,z) of each answer under each passage, token by token.

    Args:
        scorer, rows, priors, answers, smooth: as for `rag_token_log_probs`.

    Returns:
        The joint after each token, float64 ``[answers, tokens, n_docs]``; and the same for the sum over all tokens
        of the vocabulary, float64 ``[answers, n_docs]``.
    """
    found = []
    for logits, targets, counted, has_prior in _chunks(scorer, rows, answers):
        count, length = counted.shape
        _, per_document = _kernels.marginalise_gather(logits, priors, targets)
        steps = per_document.reshape(-1, count, length).transpose(1, 2, 0).astype(np.float64)
        prior = np.where(has_prior[:, None], priors.astype(np.float64), 0.0)
        chosen = np.where(counted[:, :, None], steps, 0).cumsum(axis=1) + prior[:, None, :]
        everything = np.zeros((count, len(priors)))
        if smooth:
            vocab = logits.shape[2]
            at_target = np.take_along_axis(logits, targets[None], axis=2).reshape(-1, count, length)
            log_sum = at_target.transpose(1, 2, 0) - steps
            sums = logits.sum(axis=2, dtype=np.float64).reshape(-1, count, length).transpose(1, 2, 0)
            everything = np.where(counted[:, :, None], sums - vocab * log_sum, 0).sum(axis=1) + vocab * prior
        found.append((chosen, everything))
    joint, smoothed = (np.concatenate(x) for x in zip(*found, strict=True))
    return joint, smoothed


def log_sum(joint: Double) -> Double:
    """Log of the sum over the last axis, of log values."""
    total: Double = np.logaddexp.reduce(joint, axis=-1)
    return total


def posterior(joint: Double) -> Float:
    """P(z | x, y) from the joint; sums to one over the last axis."""
    weights = np.exp(joint - joint.max(axis=-1, keepdims=True))
    shares: Float = (weights / weights.sum(axis=-1, keepdims=True)).astype(np.float32)
    return shares


def _chunks(
    scorer: Scorer, rows: slice, answers: Answers
) -> Iterator[tuple[Float, NDArray[np.int64], NDArray[np.bool_], NDArray[np.bool_]]]:
    """In parts: logits ``[n_docs, answers * tokens, vocab]``, targets ``[answers * tokens, 1]``, counted, has_prior."""
    start, size = 0, 1
    while start < len(answers.tokens):
        part = slice(start, start + size)
        tokens = answers.tokens[part]
        logits = scorer.logits(rows, tokens)
        bytes_each = logits.nbytes // len(tokens)
        flat = np.ascontiguousarray(logits).reshape(len(logits), -1, logits.shape[3])
        yield flat, tokens.reshape(-1, 1), answers.counted[part], answers.has_prior[part]
        start += len(tokens)
        size = max(1, SCORED_BYTES // bytes_each)
