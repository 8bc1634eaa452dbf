"""The bound of the search through int8 codes, and what the codes are; see also test_kernels_scans.py."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_infer import _kernels
from tests import oracles
from tests.kernels.searches import KINDS, vectors_of


@given(
    kind=st.sampled_from(KINDS[:-1]),
    query_kind=st.sampled_from(KINDS[:-1]),
    dim=st.integers(0, 900),
    seed=st.integers(0, 2**32 - 1),
)
def test_the_bound_holds_for_exact_and_for_float32_scores(level, kind, query_kind, dim, seed):
    random = np.random.default_rng(seed)
    vectors, queries = (vectors_of(kind, random, 40, dim), vectors_of(query_kind, random, 3, dim))
    queries = queries[np.linalg.norm(queries.astype(np.float64), axis=1) <= 1e18]
    vectors = vectors[np.isfinite(_kernels.quantise_rows(vectors)[2])]
    quantised = _kernels.quantise_rows(vectors)
    estimates, bounds = oracles.int8_bounds(*quantised, queries)
    exact = oracles.inner_products(vectors, queries)
    scores, rows = _kernels.topk(vectors, queries, len(vectors))
    computed = np.full_like(exact, np.nan)
    found = rows >= 0
    for q in range(len(queries)):
        computed[q, rows[q][found[q]]] = scores[q][found[q]]
    assert (np.abs(exact - estimates) <= bounds).all()
    assert (np.abs(computed - estimates) <= bounds).all()


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("dim", [1, 16, 100, 768])
def test_codes_are_the_nearest_and_lengths_are_rounded_up(kind, dim):
    vectors = vectors_of(kind, np.random.default_rng(dim), 300, dim)
    codes, scales, errors, norms = _kernels.quantise_rows(vectors, threads=2)
    assert (codes.dtype, scales.dtype, errors.dtype, norms.dtype) == (np.int8, *[np.float32] * 3)
    exact = vectors.astype(np.float64)
    restored = codes * scales.astype(np.float64)[:, None]
    known = np.linalg.norm(exact, axis=1) <= 1e18
    np.testing.assert_array_equal(np.isfinite(errors), known)
    for upper, true in ((errors, exact - restored), (norms, restored)):
        length = np.linalg.norm(true, axis=1)[known]
        assert (upper[known] >= length * (1 - 1e-14)).all()
        assert (upper[known] <= length * (1 + 2e-7) + 2e-45).all()
    np.testing.assert_array_equal(scales[known], (np.abs(vectors).max(axis=1) / np.float32(127))[known])
    normal = known & (scales > 1e-37)
    off = np.abs(exact - restored)[normal] / scales[normal, None]
    assert off.max(initial=0.0) <= 0.5 + 1e-4


def test_zero_rows_and_rows_of_which_nothing_is_known():
    vectors = np.array([[0, 0], [np.nan, 1], [np.inf, 1], [2e18, 0], [127, -64]], np.float32)
    codes, scales, errors, norms = _kernels.quantise_rows(vectors)
    assert codes.tolist() == [[0, 0], [0, 0], [0, 0], [0, 0], [127, -64]]
    assert scales.tolist() == [0, 0, 0, 0, 1]
    assert errors.tolist() == [0, np.inf, np.inf, np.inf, 0]
    np.testing.assert_allclose(norms, [0, 0, 0, 0, np.hypot(127, 64)], rtol=2e-7)


@pytest.mark.parametrize("threads", [1, 4])
def test_few_rows_are_rescored_and_as_many_as_the_bound_says(level, threads):
    random = np.random.default_rng(7)
    vectors = random.standard_normal((40_000, 96), dtype=np.float32)
    queries = random.standard_normal((20, 96), dtype=np.float32)
    quantised = _kernels.quantise_rows(vectors)
    scores, rows, rescored = _kernels.topk_int8(*quantised, vectors, queries, 10, threads=threads)
    expected = _kernels.topk(vectors, queries, 10)
    np.testing.assert_array_equal(scores, expected[0])
    np.testing.assert_array_equal(rows, expected[1])
    estimates, bounds = oracles.int8_bounds(*quantised, queries)
    threshold = np.sort(estimates - bounds, axis=1)[:, -10]
    within = (estimates + bounds >= threshold[:, None]).sum(axis=1)
    np.testing.assert_array_equal(rescored, within)
    assert rescored.max() < 200


@pytest.mark.parametrize("dim", [300_000, 2**20 + 1])
def test_very_many_dimensions(level, dim):
    """The integers stay small enough for the sums; above 2^20 there are none."""
    vectors = np.full((3, dim), 127, np.float32)
    vectors[1] = -128
    vectors[2, ::2] = 1
    queries = np.ones((1, dim), np.float32)
    found = _kernels.topk_int8(*_kernels.quantise_rows(vectors), vectors, queries, 3)
    expected = _kernels.topk(vectors, queries, 3)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
