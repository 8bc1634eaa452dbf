"""Scores of chosen rows are, bit for bit, those that `topk` gives them, at every instruction level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_infer import _kernels
from tests.kernels.searches import KINDS, vectors_of


@given(
    kind=st.sampled_from(KINDS),
    rows=st.integers(0, 60),
    dim=st.integers(0, 140),
    queries=st.integers(0, 9),
    count=st.integers(0, 30),
    threads=st.integers(1, 3),
    seed=st.integers(0, 2**32 - 1),
)
def test_scores_are_those_of_topk(level, kind, rows, dim, queries, count, threads, seed):
    random = np.random.default_rng(seed)
    vectors = vectors_of(kind, random, rows, dim)
    wanted = vectors_of("gaussian", random, queries, dim)
    chosen = random.integers(-3, rows + 3, (queries, count))
    found = _kernels.rescore(vectors, chosen, wanted, threads=threads)
    assert (found.dtype, found.shape) == (np.float32, (queries, count))
    scores, order = _kernels.topk(vectors, wanted, max(1, rows))
    expected = np.full((queries, rows), np.nan, np.float32)  # topk leaves rows out whose score is NaN
    for q in range(queries):
        expected[q, order[q][order[q] >= 0]] = scores[q][order[q] >= 0]
    there = (chosen >= 0) & (chosen < rows)
    assert np.isneginf(found[~there]).all()
    query = np.nonzero(there)[0]
    np.testing.assert_array_equal(found[there], expected[query, chosen[there]])


@pytest.mark.parametrize("threads", [1, 2])
def test_many_queries_share_the_threads(level, threads):
    random = np.random.default_rng(5)
    vectors = random.standard_normal((500, 64), dtype=np.float32)
    queries = random.standard_normal((400, 64), dtype=np.float32)
    rows = random.integers(0, 500, (400, 100))
    found = _kernels.rescore(vectors, rows, queries, threads=threads)
    exact = np.einsum("qd,qcd->qc", queries.astype(np.float64), vectors[rows].astype(np.float64))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-4)


ROWS = np.ones((4, 3), np.float32)
CALL = {"vectors": ROWS, "rows": np.zeros((1, 2), np.int64), "queries": ROWS[:1]}


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"rows": np.zeros((1, 2), np.int32)}, TypeError, "incompatible"),
        ({"rows": np.zeros((2, 2), np.int64)}, ValueError, "differ in queries: 1 and 2"),
        ({"rows": np.zeros(2, np.int64)}, ValueError, r"rows has shape \[2\], expected \[queries, count\]"),
        ({"queries": np.ones((1, 2), np.float32)}, ValueError, "differ in dim: 3 and 2"),
        ({"threads": 0}, ValueError, "threads is 0"),
    ],
)
def test_what_does_not_fit_is_refused(wrong, error, message):
    with pytest.raises(error, match=message):
        _kernels.rescore(**{**CALL, **wrong})
