"""Candidates are fetched until nothing else can come before those returned."""

from __future__ import annotations

import hypothesis
import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag_infer import _kernels
from rag_infer.knowledge.backends.rescore import Candidates, nearest


class Engine:
    """Ranks by sums that are off by as much as rounding allows."""

    def __init__(self, vectors: NDArray[np.float32], query: NDArray[np.float32], seed: int) -> None:
        wide = vectors.astype(np.float64) * query.astype(np.float64)
        bound = (
            np.linalg.norm(vectors.astype(np.float64), axis=1) * np.linalg.norm(query) * len(query) * 2**-24
        )
        scores = wide.sum(axis=1) + np.random.default_rng(seed).choice([-1, 1], len(vectors)) * bound
        self.order = np.argsort(-scores, kind="stable").astype(np.int64)
        self.vectors = vectors
        self.fetched = 0

    def fetch(self, wanted: int) -> Candidates:
        self.fetched = wanted
        rows = self.order[:wanted]
        return Candidates(rows, self.vectors[rows], complete=len(rows) < wanted)


@hypothesis.settings(max_examples=100, deadline=None)
@hypothesis.given(
    st.integers(0, 10**6),
    st.integers(1, 200),
    st.integers(1, 30),
    st.sampled_from([0.0, 1e-8, 1e-7, 1e-5, 1.0]),
)
def test_the_result_is_that_of_the_kernel(seed: int, count: int, k: int, spread: float) -> None:
    generator = np.random.default_rng(seed)
    centre = generator.standard_normal(24)
    vectors = (centre + spread * generator.standard_normal((count, 24))).astype(np.float32)
    query = generator.standard_normal(24).astype(np.float32)
    longest = float(np.linalg.norm(vectors.astype(np.float64), axis=1).max())
    scores, rows = nearest(Engine(vectors, query, seed).fetch, query, k, longest=longest)
    expected, order = _kernels.topk(vectors, query[None, :], min(k, count))
    assert rows.tolist() == order[0].tolist()
    assert scores.tolist() == expected[0].tolist()


def test_few_are_fetched_where_scores_are_apart() -> None:
    vectors = np.random.default_rng(0).standard_normal((5000, 24), dtype=np.float32)
    engine = Engine(vectors, vectors[0], 0)
    nearest(engine.fetch, vectors[0], 5, longest=10.0)
    assert engine.fetched == 21


def test_nothing_to_find() -> None:
    query = np.ones(3, dtype=np.float32)
    empty = Candidates(np.empty(0, np.int64), np.empty((0, 3), np.float32), complete=True)
    scores, rows = nearest(lambda wanted: empty, query, 5, longest=0.0)
    assert (len(scores), len(rows)) == (0, 0)
