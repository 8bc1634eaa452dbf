"""The kernels' twins in float64: slow, and short enough to be seen to be right.

They follow the contracts in csrc/*.hpp, infinities and NaN included. `FLOAT32` says how far the kernels may be off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Float64s = NDArray[np.float64]
Int64s = NDArray[np.int64]


@dataclass(frozen=True)
class Tolerance:
    """How far a kernel's result may lie from its twin's.

    Attributes:
        score_per_term: of an inner product, per term of the longest chain of additions, relative to the sum of the
            absolute products.
        log_prob_absolute, log_prob_relative: of a log-probability; the relative part is what rounding a number of
            its size costs a few times over.
    """

    score_per_term: float
    log_prob_absolute: float
    log_prob_relative: float


# Worst cases: of the normaliser's sum 33 * 2**-24 (csrc/marginal.hpp), of exp and log 2 units in the last place each
# (csrc/exp_log.hpp); a log-probability is rounded three times on its way. Scalar multiply-adds round twice.
FLOAT32 = {
    "scalar": Tolerance(score_per_term=2 * 2.0**-24, log_prob_absolute=3e-6, log_prob_relative=4e-7),
    "neon": Tolerance(score_per_term=2.0**-24, log_prob_absolute=2.5e-6, log_prob_relative=4e-7),
    "avx2": Tolerance(score_per_term=2.0**-24, log_prob_absolute=2.5e-6, log_prob_relative=4e-7),
    "avx512": Tolerance(score_per_term=2.0**-24, log_prob_absolute=2.5e-6, log_prob_relative=4e-7),
}


def inner_products(vectors: Floats, queries: Floats) -> Float64s:
    """float64 ``[queries, rows]``."""
    with np.errstate(invalid="ignore"):
        return queries.astype(np.float64) @ vectors.astype(np.float64).T


def topk_of(values: Floats, k: int, allowed: NDArray[np.bool_] | None = None) -> tuple[Float64s, Int64s]:
    """The k largest of each row of ``values`` ``[rows, n]``, equal ones by lower index.

    NaN and what is not ``allowed`` is left out; what is missing is (-inf, -1).
    """
    best = np.full((len(values), k), -np.inf)
    indices = np.full((len(values), k), -1, dtype=np.int64)
    for row, scores in enumerate(values):
        present = [
            i for i in range(len(scores)) if not np.isnan(scores[i]) and (allowed is None or allowed[i])
        ]
        order = sorted(present, key=lambda i: (-scores[i], i))[:k]
        best[row, : len(order)] = scores[order]
        indices[row, : len(order)] = order
    return best, indices


def topk(
    vectors: Floats, queries: Floats, k: int, mask: NDArray[np.bool_] | None = None
) -> tuple[Float64s, Int64s]:
    """Twin of `_kernels.topk`."""
    return topk_of(inner_products(vectors, queries), k, mask)


def int8_bounds(
    codes: NDArray[np.int8], scales: Floats, errors: Floats, norms: Floats, queries: Floats
) -> tuple[Float64s, Float64s]:
    """Estimates of all scores and how far they may be off, float64 ``[queries, rows]``: see csrc/topk_int8.hpp."""
    dim = codes.shape[1]
    wanted = queries.astype(np.float64)
    steps = np.abs(wanted).max(axis=1, initial=0.0) / min(32767, (2**31 - 1) // (128 * max(dim, 1)))
    integers = np.rint(wanted / np.where(steps > 0, steps, 1.0)[:, None])
    products = integers @ codes.T.astype(np.float64)
    assert np.abs(integers).sum(axis=1).max(initial=0.0) * 128 < 2**31
    estimates = products * steps[:, None] * scales.astype(np.float64)
    norm = np.linalg.norm(wanted, axis=1)
    remainder = np.linalg.norm(wanted - steps[:, None] * integers, axis=1)
    rounding = (dim + 16) * 2.0**-23 * norm
    bounds = np.outer(norm + rounding, errors.astype(np.float64))
    bounds += np.outer(remainder + rounding, norms.astype(np.float64)) + (dim + 16) * 2.0**-149
    return estimates, bounds


def halves(vectors: Floats) -> tuple[NDArray[np.uint16], Float64s, Float64s, Float64s]:
    """Codes of float16 by numpy, scales, and the lengths of remainders and codes, in float64: see csrc/half.hpp."""
    wide = vectors.astype(np.float64)
    largest = np.abs(wide).max(axis=1, initial=0.0)
    scales = np.where(largest > 0, 2.0 ** np.floor(np.log2(np.where(largest > 0, largest, 1.0))), 0.0)
    codes = (wide / np.where(scales > 0, scales, 1.0)[:, None]).astype(np.float32).astype(np.float16)
    restored = codes.astype(np.float64) * scales[:, None]
    errors = np.linalg.norm(wide - restored, axis=1)
    return codes.view(np.uint16), scales, errors, np.linalg.norm(restored, axis=1)


def float16_bounds(
    codes: NDArray[np.uint16], scales: Floats, errors: Floats, norms: Floats, queries: Floats
) -> tuple[Float64s, Float64s]:
    """Products of queries and codes, and how far scores and estimates may be off, float64 ``[queries, rows]``."""
    dim = codes.shape[1]
    wanted = queries.astype(np.float64)
    restored = codes.view(np.float16).astype(np.float64) * scales.astype(np.float64)[:, None]
    norm = np.linalg.norm(wanted, axis=1)
    rounding = (dim + 16) * 2.0**-22 * norm
    bounds = np.outer(norm + rounding, errors.astype(np.float64))
    bounds += np.outer(rounding, norms.astype(np.float64)) + (dim + 16) * 2.0**-149
    return wanted @ restored.T, bounds


def log_sum_exp(values: Float64s, axis: int) -> Float64s:
    """Minus infinity where all terms are, or where there are none."""
    largest = values.max(axis=axis, keepdims=True, initial=-np.inf)
    reference = np.where(np.isneginf(largest), 0.0, largest)
    with np.errstate(divide="ignore"):
        total = np.log(np.exp(values - reference).sum(axis=axis, keepdims=True))
    return np.squeeze(total + reference, axis=axis)


def log_softmax(logits: Floats) -> Float64s:
    """Over the last axis; a row of nothing but minus infinity stays so."""
    values = logits.astype(np.float64)
    total = log_sum_exp(values, axis=-1)[..., None]
    return np.where(np.isneginf(values), -np.inf, values - np.where(np.isneginf(total), 0.0, total))


def per_document_log_probs(logits: Floats, log_priors: Floats) -> Float64s:
    """Log p(v|z) of every token, float64 ``[docs, beams, vocab]``; minus infinity for passages of weight zero.

    Raises:
        ValueError: NaN or plus infinity in a prior, or under a passage that counts.
    """
    if np.isnan(log_priors).any() or np.isposinf(log_priors).any():
        raise ValueError("log_priors")
    counts = ~np.isneginf(log_priors)
    if np.isnan(logits[counts]).any() or np.isposinf(logits[counts]).any():
        raise ValueError("logits")
    result = np.full(logits.shape, -np.inf)
    result[counts] = log_softmax(logits[counts])
    return result


def marginalise_log_probs(logits: Floats, log_priors: Floats) -> Float64s:
    """Twin of `_kernels.marginalise_log_probs`."""
    per_document = per_document_log_probs(logits, log_priors)
    return log_sum_exp(per_document + log_priors.astype(np.float64)[:, None, None], axis=0)


def marginalise_topk(logits: Floats, log_priors: Floats, k: int) -> tuple[Float64s, Int64s]:
    """Twin of `_kernels.marginalise_topk`."""
    return topk_of(marginalise_log_probs(logits, log_priors), k)


def marginalise_gather(logits: Floats, log_priors: Floats, tokens: Int64s) -> tuple[Float64s, Float64s]:
    """Twin of `_kernels.marginalise_gather`."""
    marginal = np.take_along_axis(marginalise_log_probs(logits, log_priors), tokens, axis=-1)
    per_document = per_document_log_probs(logits, log_priors)
    return marginal, np.take_along_axis(per_document, tokens[None].repeat(len(logits), axis=0), axis=-1)
