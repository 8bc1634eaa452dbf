"""Two rankings into one whose scores are log-weights, so that their softmax is a prior p(z|x).

Each fusion gives every candidate z a weight w(z) >= 0, and the fused score is ln w(z). The softmax of the scores over
the passages that are kept is then w(z) / sum of w: RAG's sum over passages is a sum over that distribution, whatever
was fused. A candidate of weight 0 (a score of minus infinity) is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Cormack, Clarke & Buettcher (2009) found 60 on TREC collections and kept it.
RANK_CONSTANT = 60.0


class Ranking(NamedTuple):
    """Candidates of one side, best first.

    Attributes:
        scores: float32 ``[candidates]``, finite.
        rows: int64 ``[candidates]``, each once.
    """

    scores: NDArray[np.float32]
    rows: NDArray[np.int64]


def reciprocal_rank(
    rankings: Sequence[Ranking], *, weights: Sequence[float] | None = None, constant: float = RANK_CONSTANT
) -> Ranking:
    """Reciprocal rank fusion (Cormack, Clarke & Buettcher 2009), each side with a weight.

        w(z) = sum over sides m of  weight_m / (constant + rank_m(z)),    score = ln w(z)

    The first rank is 1; a side that does not have z adds 0. The order is that of the paper; ranks forget how much
    better the first is, so the prior is flat: with the constant 60 the first of a side weighs 1.15 times its tenth.

    Args:
        rankings: of the sides. Their scores are not looked at.
        weights: one per side, at least 0; default all 1.
        constant: above -1.

    Returns:
        The candidates of all sides, best first, ties to the lower row.

    >>> dense = Ranking(np.array([0.9, 0.8], np.float32), np.array([7, 3]))
    >>> lexical = Ranking(np.array([12.0, 4.0], np.float32), np.array([3, 5]))
    >>> fused = reciprocal_rank([dense, lexical])
    >>> fused.rows.tolist(), [round(w, 4) for w in np.exp(fused.scores).tolist()]
    ([3, 7, 5], [0.0325, 0.0164, 0.0161])
    """
    rows = _union(rankings)
    total = np.zeros(len(rows))
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        ranks = np.arange(1, len(ranking.rows) + 1)
        total[np.searchsorted(rows, ranking.rows)] += weight / (constant + ranks)
    with np.errstate(divide="ignore"):
        return _ranked(np.log(total), rows)


def weighted_scores(
    dense: Ranking, lexical: Ranking, *, alpha: float, dense_scale: float = 1.0, lexical_scale: float = 1.0
) -> Ranking:
    """The mixture of the two sides' distributions.

        p_m(z|x) = exp(scale_m * score_m(z)) / sum over side m's candidates
        w(z)     = alpha * p_dense(z|x) + (1 - alpha) * p_lexical(z|x),    score = ln w(z)

    A linear mixture (Jelinek & Mercer 1980) of what would be RAG's prior under each side alone (Lewis et al. 2020,
    section 2.2, for the dense one). Scores of different kinds are never added to one another.

    Args:
        dense: its candidates in any order, those of the other side too where their dense scores are known.
        lexical: likewise; a candidate a side does not have, has probability 0 under it.
        alpha: the dense side's share, from 0 to 1.
        dense_scale, lexical_scale: factors on the scores, as a bundle's ``score_scale``.

    Returns:
        The candidates of both, best first, ties to the lower row. A side without any leaves the other's prior as it is.

    >>> dense = Ranking(np.log(np.array([0.75, 0.25], np.float32)), np.array([7, 3]))
    >>> lexical = Ranking(np.array([2.0], np.float32), np.array([3]))
    >>> fused = weighted_scores(dense, lexical, alpha=0.5)
    >>> fused.rows.tolist(), [round(w, 4) for w in np.exp(fused.scores).tolist()]
    ([3, 7], [0.625, 0.375])
    """
    rows = _union([dense, lexical])
    with np.errstate(divide="ignore"):
        shares = np.log([alpha, 1.0 - alpha])
    parts = np.full((2, len(rows)), -np.inf)
    sides = zip((dense, lexical), (dense_scale, lexical_scale), strict=True)
    for part, share, (ranking, scale) in zip(parts, shares, sides, strict=True):
        if len(ranking.rows):
            part[np.searchsorted(rows, ranking.rows)] = share + _log_softmax(ranking.scores, scale)
    return _ranked(np.logaddexp(parts[0], parts[1]), rows)


def _union(rankings: Sequence[Ranking]) -> NDArray[np.int64]:
    return np.unique(np.concatenate([r.rows for r in rankings])).astype(np.int64)


def _log_softmax(scores: NDArray[np.float32], scale: float) -> NDArray[np.float64]:
    scaled = scores.astype(np.float64) * scale
    return scaled - float(np.logaddexp.reduce(scaled))


def _ranked(log_weights: NDArray[np.float64], rows: NDArray[np.int64]) -> Ranking:
    """Best first in float32, as they are shown; what has no weight is left out."""
    with np.errstate(over="ignore"):  # below the range of float32 is no weight
        scores = log_weights.astype(np.float32)
    there = np.isfinite(scores)
    scores, rows = scores[there], rows[there]
    order = np.lexsort((rows, -scores))
    return Ranking(scores[order], rows[order])
