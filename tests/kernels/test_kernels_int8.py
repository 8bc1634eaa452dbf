"""Search through int8 codes gives what `topk` gives, bit for bit, and its bound holds, at every instruction level."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag_infer import _kernels
from tests import oracles

Float32s = NDArray[np.float32]
Random = np.random.Generator

KINDS = ("integers", "gaussian", "heavy tails", "norms far apart", "one component", "subnormal", "broken")


def vectors_of(kind: str, random: Random, rows: int, dim: int) -> Float32s:
    """Rows of which some are zeros."""
    values = random.standard_normal((rows, dim))
    if kind == "integers":
        values = random.integers(-2, 3, (rows, dim)).astype(np.float64)
    elif kind == "heavy tails":
        values = random.standard_cauchy((rows, dim)) ** 3
    elif kind == "norms far apart":
        values *= 10.0 ** random.integers(-44, 20, (rows, 1))
    elif kind == "one component":
        values = np.where(np.arange(dim) == 0, 1e6, values)
    elif kind == "subnormal":
        values *= 1e-42
    values[random.random(rows) < 0.05] = 0
    if kind == "broken":
        chosen = random.random((rows, dim)) < 0.02
        values[chosen] = random.choice([np.nan, np.inf, -np.inf, 3e38], int(chosen.sum()))
    largest = float(np.finfo(np.float32).max)
    return np.where(np.isinf(values), values, np.clip(values, -largest, largest)).astype(np.float32)


@st.composite
def searches(draw: st.DrawFn) -> tuple[Float32s, Float32s, int, NDArray[np.bool_] | None]:
    rows, dim, queries = draw(st.integers(0, 600)), draw(st.integers(0, 140)), draw(st.integers(0, 20))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = vectors_of(draw(st.sampled_from(KINDS)), random, rows, dim)
    wanted = vectors_of(draw(st.sampled_from(KINDS)), random, queries, dim)
    k = draw(st.one_of(st.integers(1, 20), st.integers(1, rows + 5)))
    allowed = draw(st.sampled_from([None, 0.0, 0.02, 0.5, 1.0]))
    return vectors, wanted, k, None if allowed is None else random.random(rows) < allowed


@given(search=searches(), threads=st.integers(1, 3))
def test_scores_and_rows_are_those_of_topk(level, search, threads):
    vectors, queries, k, mask = search
    quantised = _kernels.quantise_rows(vectors, threads=threads)
    scores, rows, rescored = _kernels.topk_int8(*quantised, vectors, queries, k, mask=mask, threads=threads)
    expected_scores, expected_rows = _kernels.topk(vectors, queries, k, mask=mask)
    assert (scores.dtype, rows.dtype, rescored.dtype) == (np.float32, np.int64, np.int64)
    np.testing.assert_array_equal(scores.view(np.int32), expected_scores.view(np.int32))
    np.testing.assert_array_equal(rows, expected_rows)
    assert rescored.shape == (len(queries),)
    allowed = len(vectors) if mask is None else mask.sum()
    assert ((rescored >= (rows >= 0).sum(axis=1)) & (rescored <= allowed)).all()


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
    quantised = _kernels.quantise_rows(vectors)
    estimates, bounds = oracles.int8_bounds(*quantised, queries)
    exact = oracles.inner_products(vectors, queries)
    scores, rows = _kernels.topk(vectors, queries, len(vectors))
    computed = np.full_like(exact, np.nan)
    found = rows >= 0
    for q in range(len(queries)):
        computed[q, rows[q][found[q]]] = scores[q][found[q]]
    known = np.isfinite(quantised[2])
    assert (np.abs(exact - estimates) <= bounds)[:, known].all()
    assert (np.abs(computed - estimates) <= bounds)[:, known].all()


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


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2e18])
def test_a_query_without_integers_is_searched_by_topk(level, bad):
    vectors = np.random.default_rng(3).standard_normal((50, 20), dtype=np.float32)
    queries = vectors[:3].copy()
    queries[1, 4] = bad
    mask = np.arange(50) % 2 == 0
    found = _kernels.topk_int8(*_kernels.quantise_rows(vectors), vectors, queries, 2, mask=mask)
    expected = _kernels.topk(vectors, queries, 2, mask=mask)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[2][1] == mask.sum()


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


ROWS = np.ones((4, 3), np.float32)
QUERY = np.ones((1, 3), np.float32)
ARRAYS = dict(zip(("codes", "scales", "errors", "norms"), _kernels.quantise_rows(ROWS), strict=True))
SEARCH = {**ARRAYS, "vectors": ROWS, "queries": QUERY, "k": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"codes": ROWS},
        {"codes": np.asfortranarray(ARRAYS["codes"])},
        {"scales": np.ones(4)},
        {"errors": np.ones(8, np.float32)[::2]},
        {"norms": [1.0] * 4},
        {"vectors": ROWS.astype(np.float64)},
        {"mask": np.ones(4, np.uint8)},
        {"k": 1.5},
    ],
)
def test_other_types_and_layouts_are_refused(wrong):
    with pytest.raises(TypeError):
        _kernels.topk_int8(**{**SEARCH, **wrong})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"codes": np.ones((5, 3), np.int8)}, r"vectors \[4, 3\] and codes \[5, 3\] differ in rows: 4 and 5"),
        ({"codes": np.ones((4, 2), np.int8)}, r"vectors \[4, 3\] and codes \[4, 2\] differ in dim: 3 and 2"),
        ({"codes": np.ones(4, np.int8)}, r"codes has shape \[4\], expected \[rows, dim\]"),
        ({"scales": np.ones(3, np.float32)}, r"vectors \[4, 3\] and scales \[3\] differ in rows: 4 and 3"),
        ({"errors": np.ones(3, np.float32)}, r"vectors \[4, 3\] and errors \[3\] differ in rows: 4 and 3"),
        ({"norms": np.ones((4, 1), np.float32)}, r"norms has shape \[4, 1\], expected \[rows\]"),
        ({"queries": np.ones((1, 2), np.float32)}, r"differ in dim: 3 and 2"),
        ({"mask": np.ones(5, bool)}, r"vectors \[4, 3\] and mask \[5\] differ in rows: 4 and 5"),
        ({"k": 0}, "k is 0, expected at least 1"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_wrong_shapes_and_numbers_are_quoted(wrong, message):
    with pytest.raises(ValueError, match=message):
        _kernels.topk_int8(**{**SEARCH, **wrong})


def test_quantise_rows_refuses_what_it_cannot_take():
    with pytest.raises(ValueError, match=r"vectors has shape \[3\], expected \[rows, dim\]"):
        _kernels.quantise_rows(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="threads is 0"):
        _kernels.quantise_rows(ROWS, threads=0)
    with pytest.raises(TypeError):
        _kernels.quantise_rows(ROWS.astype(np.float64))
