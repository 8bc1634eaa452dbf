"""Search through codes of either kind gives what `topk` gives, bit for bit, at every instruction level."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_infer import _kernels
from tests.kernels.searches import searches


class Codes(NamedTuple):
    """A kind of codes: how they are made, and searched."""

    make: Any
    topk: Any
    dtype: Any


KINDS = {
    "int8": Codes(_kernels.quantise_rows, _kernels.topk_int8, np.int8),
    "float16": Codes(_kernels.halve_rows, _kernels.topk_float16, np.uint16),
}


@pytest.fixture(params=KINDS, scope="module")
def codes(request):
    return KINDS[request.param]


@given(search=searches(), threads=st.integers(1, 3))
def test_scores_and_rows_are_those_of_topk(level, codes, search, threads):
    vectors, queries, k, mask = search
    made = codes.make(vectors, threads=threads)
    scores, rows, rescored = codes.topk(*made, vectors, queries, k, mask=mask, threads=threads)
    expected_scores, expected_rows = _kernels.topk(vectors, queries, k, mask=mask)
    assert (scores.dtype, rows.dtype, rescored.dtype) == (np.float32, np.int64, np.int64)
    np.testing.assert_array_equal(scores.view(np.int32), expected_scores.view(np.int32))
    np.testing.assert_array_equal(rows, expected_rows)
    assert rescored.shape == (len(queries),)
    allowed = len(vectors) if mask is None else mask.sum()
    assert ((rescored >= (rows >= 0).sum(axis=1)) & (rescored <= allowed)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 2e18])
def test_a_query_that_is_no_number_or_too_long_is_searched_by_topk(level, codes, bad):
    vectors = np.random.default_rng(3).standard_normal((50, 20), dtype=np.float32)
    queries = vectors[:3].copy()
    queries[1, 4] = bad
    mask = np.arange(50) % 2 == 0
    found = codes.topk(*codes.make(vectors), vectors, queries, 2, mask=mask)
    expected = _kernels.topk(vectors, queries, 2, mask=mask)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[2][1] == mask.sum()


ROWS = np.ones((4, 3), np.float32)


def search_of(kind, /, **wrong):
    arrays = dict(zip(("codes", "scales", "errors", "norms"), kind.make(ROWS), strict=True))
    right = {**arrays, "vectors": ROWS, "queries": np.ones((1, 3), np.float32), "k": 1}
    return kind.topk(**{**right, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [
        {"codes": ROWS},
        {"codes": ROWS.astype(np.float16)},
        {"scales": np.ones(4)},
        {"errors": np.ones(8, np.float32)[::2]},
        {"norms": [1.0] * 4},
        {"vectors": ROWS.astype(np.float64)},
        {"mask": np.ones(4, np.uint8)},
        {"k": 1.5},
    ],
)
def test_other_types_and_layouts_are_refused(codes, wrong):
    with pytest.raises(TypeError):
        search_of(codes, **wrong)
    with pytest.raises(TypeError):
        search_of(codes, codes=np.asfortranarray(codes.make(ROWS)[0]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"codes": (5, 3)}, r"vectors \[4, 3\] and codes \[5, 3\] differ in rows: 4 and 5"),
        ({"codes": (4, 2)}, r"vectors \[4, 3\] and codes \[4, 2\] differ in dim: 3 and 2"),
        ({"codes": (4,)}, r"codes has shape \[4\], expected \[rows, dim\]"),
        ({"scales": np.ones(3, np.float32)}, r"vectors \[4, 3\] and scales \[3\] differ in rows: 4 and 3"),
        ({"errors": np.ones(3, np.float32)}, r"vectors \[4, 3\] and errors \[3\] differ in rows: 4 and 3"),
        ({"norms": np.ones(3, np.float32)}, r"vectors \[4, 3\] and norms \[3\] differ in rows: 4 and 3"),
        ({"norms": np.ones((4, 1), np.float32)}, r"norms has shape \[4, 1\], expected \[rows\]"),
        ({"queries": np.ones((1, 2), np.float32)}, r"differ in dim: 3 and 2"),
        ({"mask": np.ones(5, bool)}, r"vectors \[4, 3\] and mask \[5\] differ in rows: 4 and 5"),
        ({"k": 0}, "k is 0, expected at least 1"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_wrong_shapes_and_numbers_are_quoted(codes, wrong, message):
    if "codes" in wrong:
        wrong = {"codes": np.ones(wrong["codes"], codes.dtype)}
    with pytest.raises(ValueError, match=message):
        search_of(codes, **wrong)


def test_vectors_that_cannot_be_coded(codes):
    with pytest.raises(ValueError, match=r"vectors has shape \[3\], expected \[rows, dim\]"):
        codes.make(np.ones(3, np.float32))
    with pytest.raises(ValueError, match="threads is 0"):
        codes.make(ROWS, threads=0)
    with pytest.raises(TypeError):
        codes.make(ROWS.astype(np.float64))
