"""From an engine's candidates to exact results: scores by the kernel, and enough candidates to be sure of the order.

An engine sums in another order than the kernel, so that its scores differ in the last places. How much is bounded: for
vectors of n components the rounding of a float32 sum is at most ``n u / (1 - n u)`` times the product of the lengths,
with ``u = 2**-24`` (Higham, Accuracy and Stability of Numerical Algorithms, 2nd edition, equation 3.5). So the two sums
of one vector differ by at most twice that, and of two vectors that the engine ranks one way, the kernel can rank the
lower one higher by at most four times that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rag_infer import _kernels

UNIT_ROUNDOFF = 2.0**-24
MORE = 16
MOST_FACTOR = 64


class Candidates(NamedTuple):
    """What an engine proposes for one query, best first by its own sums.

    Attributes:
        rows: int64 ``[candidates]``, the passages' ages.
        vectors: float32 ``[candidates, dim]``, as stored.
        complete: whether there is no further one.
    """

    rows: NDArray[np.int64]
    vectors: NDArray[np.float32]
    complete: bool


def nearest(
    fetch: Callable[[int], Candidates], query: NDArray[np.float32], k: int, *, longest: float
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The k best rows of one query: as many candidates are fetched as are needed to be sure of them.

    Where more than ``64 k + 16`` passages score within rounding of the k-th, some of these are returned.

    Args:
        fetch: gives so many candidates.
        query: float32 ``[dim]``.
        k: at least 1.
        longest: no stored vector is longer than this.

    Returns:
        (scores float32 ``[found]``, rows int64 ``[found]``), best first; equal scores by row.
    """
    margin = 4 * _rounding(len(query)) * longest * float(np.linalg.norm(query.astype(np.float64)))
    wanted = k + MORE
    while True:
        candidates = fetch(wanted)
        scores, rows = _ranked(candidates, query)
        enough = candidates.complete or wanted >= MOST_FACTOR * k + MORE
        if enough or (len(scores) >= k and float(scores[-1]) + margin < float(scores[k - 1])):
            return scores[:k], rows[:k]
        wanted *= 4


def _rounding(components: int) -> float:
    product = components * UNIT_ROUNDOFF
    return product / (1 - product)


def _ranked(
    candidates: Candidates, query: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All candidates by the kernel's scores; those without a score (NaN) are left out."""
    if len(candidates.rows) == 0:
        return np.empty(0, dtype=np.float32), np.empty(0, dtype=np.int64)
    # The kernel gives equal scores by position, which is made that of age.
    order = np.argsort(candidates.rows, kind="stable")
    vectors = np.ascontiguousarray(candidates.vectors[order])
    scores, found = _kernels.topk(vectors, query[None, :], len(order))
    there = found[0] >= 0
    return scores[0][there], candidates.rows[order][found[0][there]]
