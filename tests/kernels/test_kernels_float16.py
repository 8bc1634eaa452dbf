"""The bound of the search through float16 codes, and what the codes are; see also test_kernels_scans.py."""

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
    vectors = vectors[np.isfinite(_kernels.halve_rows(vectors)[2])]
    halves = _kernels.halve_rows(vectors)
    estimates, bounds = oracles.float16_bounds(*halves, queries)
    exact = oracles.inner_products(vectors, queries)
    assert (np.abs(exact - estimates) <= bounds).all()
    # What the scan adds up in float32 is off the estimate by less than the half of the rounding kept for it.
    codes = halves[0].view(np.float16).astype(np.float32)
    units = 2.0 ** np.floor(np.log2(np.abs(queries.astype(np.float64)).max(axis=1, initial=1e-300)))
    scaled = (queries / units[:, None]).astype(np.float32)
    every = np.tile(np.arange(len(vectors)), (len(queries), 1))
    summed = _kernels.rescore(codes, every, scaled)
    computed = summed.astype(np.float64) * units[:, None] * halves[1].astype(np.float64)
    norm = np.linalg.norm(queries.astype(np.float64), axis=1)
    room = np.outer((dim + 16) * 2.0**-23 * norm, halves[3].astype(np.float64))
    assert (np.abs(computed - estimates) <= room).all()


@pytest.mark.parametrize("kind", KINDS[:-1])
@pytest.mark.parametrize("dim", [1, 16, 100, 768])
def test_codes_are_numpys_and_lengths_are_rounded_up(kind, dim):
    vectors = vectors_of(kind, np.random.default_rng(dim), 300, dim)
    codes, scales, errors, norms = _kernels.halve_rows(vectors, threads=2)
    assert (codes.dtype, scales.dtype, errors.dtype, norms.dtype) == (np.uint16, *[np.float32] * 3)
    known = np.linalg.norm(vectors.astype(np.float64), axis=1) <= 1e18
    np.testing.assert_array_equal(np.isfinite(errors), known)
    expected = oracles.halves(vectors[known])
    np.testing.assert_array_equal(codes[known], expected[0])
    np.testing.assert_array_equal(scales[known], expected[1])
    for upper, length in ((errors[known], expected[2]), (norms[known], expected[3])):
        assert (upper >= length * (1 - 1e-14)).all()
        assert (upper <= length * (1 + 2e-7) + 2e-45).all()
    components = np.where(np.abs(vectors[known]) > 0, np.abs(codes.view(np.float16)[known]), 1)
    assert components.max(initial=0) <= 2


def test_every_float16_is_its_own_code():
    """Bits to number and back, for all of them that a code can be."""
    halves = np.arange(0x4000, dtype=np.uint16)  # from 0 to just below 2
    numbers = np.concatenate([halves, halves | 0x8000]).view(np.float16).astype(np.float32)
    vectors = np.stack([numbers, np.full_like(numbers, 1.5)], axis=1)
    codes, scales, errors, _ = _kernels.halve_rows(vectors)
    np.testing.assert_array_equal(scales, 1)
    np.testing.assert_array_equal(errors, 0)
    np.testing.assert_array_equal(codes[:, 0].view(np.float16).astype(np.float32), numbers)


@given(bits=st.lists(st.integers(0, 0x3FFFFFFF), min_size=1, max_size=50), negative=st.booleans())
def test_numbers_between_are_rounded_as_numpy_rounds(bits, negative):
    numbers = np.array(bits, dtype=np.uint32).view(np.float32) * np.float32(-1 if negative else 1)
    vectors = np.stack([numbers, np.full_like(numbers, 1.5)], axis=1)
    codes = _kernels.halve_rows(vectors)[0]
    np.testing.assert_array_equal(codes[:, 0], numbers.astype(np.float16).view(np.uint16))


def test_the_leaf_converts_every_float16_exactly(level):
    """One component at a time against a query of ones: the score is the number."""
    halves = np.concatenate([np.arange(0x7C00), np.arange(0x8000, 0xFC00)]).astype(np.uint16)
    exact = halves.view(np.float16).astype(np.float32)
    for dim in (1, 16, 19):
        codes = np.zeros((len(halves), dim), np.uint16)
        codes[:, dim - 1] = halves
        vectors = np.zeros((len(halves), dim), np.float32)
        vectors[:, dim - 1] = exact
        ones = np.ones(len(halves), np.float32)
        errors, queries = np.zeros_like(ones), np.ones((1, dim), np.float32)
        norms = np.abs(exact)
        found = _kernels.topk_float16(codes, ones, errors, norms, vectors, queries, 1)
        # 65504 once, and nothing else reaches its lower bound: a number read wrongly would.
        assert found[0].tolist() == [[65504.0]]
        assert found[2].tolist() == [1]


def test_zero_rows_and_rows_of_which_nothing_is_known():
    vectors = np.array([[0, 0], [np.nan, 1], [np.inf, 1], [2e18, 0], [6, -1]], np.float32)
    codes, scales, errors, norms = _kernels.halve_rows(vectors)
    assert codes.view(np.float16).tolist() == [[0, 0], [0, 0], [0, 0], [0, 0], [1.5, -0.25]]
    assert scales.tolist() == [0, 0, 0, 0, 4]
    assert errors.tolist() == [0, np.inf, np.inf, np.inf, 0]
    np.testing.assert_allclose(norms, [0, 0, 0, 0, np.hypot(6, 1)], rtol=2e-7)


@pytest.mark.parametrize("threads", [1, 4])
def test_hardly_more_than_k_rows_are_rescored(level, threads):
    random = np.random.default_rng(7)
    vectors = random.standard_normal((40_000, 96), dtype=np.float32)
    queries = random.standard_normal((20, 96), dtype=np.float32)
    halves = _kernels.halve_rows(vectors)
    scores, rows, rescored = _kernels.topk_float16(*halves, vectors, queries, 10, threads=threads)
    expected = _kernels.topk(vectors, queries, 10)
    np.testing.assert_array_equal(scores, expected[0])
    np.testing.assert_array_equal(rows, expected[1])
    assert rescored.max() < 20


def test_very_many_dimensions_are_searched_by_topk(level):
    vectors = np.ones((3, 2**20 + 1), np.float32)
    vectors[1] = 2
    found = _kernels.topk_float16(*_kernels.halve_rows(vectors), vectors, vectors[:1], 3)
    assert found[1].tolist() == [[1, 0, 2]]
    assert found[2].tolist() == [3]
