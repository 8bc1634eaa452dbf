"""How many of the nearest passages an approximate index finds, against the exact kernel, on held-out queries.

Queries are those that the caller gives. Without any they are stored vectors, drawn with a fixed seed, each with its
own row left out of both answers: it would always be found.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag_infer.knowledge.vectors import Vectors

CUTOFFS = (1, 5, 10, 50)
# The cutoff that decides whether an index is good enough.
DECISIVE = 10
SAMPLED_QUERIES = 200

Nearest = Callable[[NDArray[np.float32], int], NDArray[np.int64] | None]


@dataclass(frozen=True)
class HeldOut:
    """Queries and what the exact search answers.

    Attributes:
        queries: float32 ``[queries, dim]``.
        own: int64 ``[queries]``: the row that is left out of a query's answers, or -1.
        best: float32 ``[queries, count]``: the best scores, descending, own rows left out.
        source: "given" or "stored".
    """

    queries: NDArray[np.float32]
    own: NDArray[np.int64]
    best: NDArray[np.float32]
    source: str


def hold_out(
    vectors: Vectors,
    live: NDArray[np.bool_],
    *,
    dim: int,
    queries: NDArray[np.float32] | None = None,
    threads: int = 1,
) -> HeldOut:
    """Queries, given or drawn, answered exactly.

    Args:
        vectors: all vectors.
        live: bool ``[rows]``: those that may be found.
        dim: their width.
        queries: float32 ``[queries, dim]`` that are no stored vectors, or None.
        threads: for the exact search.
    """
    if queries is None:
        own = np.sort(np.random.default_rng(0).permutation(np.flatnonzero(live))[:SAMPLED_QUERIES])
        wanted = vectors.gather(own, dim)
    else:
        own, wanted = np.full(len(queries), -1, dtype=np.int64), queries
    spare = int(queries is None)
    count = min(max(CUTOFFS), int(live.sum()) - spare)
    if count == 0:
        return HeldOut(wanted, own, np.empty((len(wanted), 0), dtype=np.float32), _source(queries))
    scores, rows = vectors.topk(wanted, count + spare, mask=live, threads=threads)
    return HeldOut(wanted, own, without_own(scores, rows, own)[:, :count], _source(queries))


def measure(held_out: HeldOut, vectors: Vectors, nearest: Nearest, *, threads: int = 1) -> dict[str, float]:
    """Recall at each of `CUTOFFS` that there are passages for, as ``{"@10": 0.98}``.

    A row counts as found where its score is at least the k-th best: of passages with equal vectors any will do.

    Args:
        held_out: of the same vectors.
        vectors: all vectors.
        nearest: gives rows int64 ``[queries, count]`` for queries and a count, or None.
        threads: for the scores.
    """
    best = held_out.best
    cutoffs = [k for k in CUTOFFS if k <= best.shape[1]]
    if not cutoffs or not len(best):
        return {}
    count = best.shape[1] + int(held_out.source == "stored")
    rows = nearest(held_out.queries, count)
    if rows is None:
        return {f"@{k}": 0.0 for k in cutoffs}
    scores = vectors.scores(rows, held_out.queries, threads=threads)
    found = without_own(scores, rows, held_out.own)
    return {f"@{k}": float((found[:, :k] >= best[:, k - 1 : k]).mean()) for k in cutoffs}


def decisive(recall: Mapping[str, float]) -> float:
    """The recall that decides: at `DECISIVE`, or at the largest cutoff below that there is; 1 where there is none."""
    known = [k for k in CUTOFFS if k <= DECISIVE and f"@{k}" in recall]
    return recall[f"@{known[-1]}"] if known else 1.0


def without_own(
    scores: NDArray[np.float32], rows: NDArray[np.int64], own: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Scores, descending, without those of own rows, which become the last."""
    left = np.where(rows == own[:, None], -np.inf, scores)
    return -np.sort(-left, axis=1)


def _source(queries: NDArray[np.float32] | None) -> str:
    return "stored" if queries is None else "given"
