"""Exact search against its float64 twin, at every instruction level."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag_infer import _kernels
from tests import oracles

INF = np.inf
Float32s = NDArray[np.float32]


def float32(values: object) -> Float32s:
    return np.array(values, dtype=np.float32)


@st.composite
def searches(draw: st.DrawFn, *, integers: bool) -> tuple[Float32s, Float32s, int, NDArray[np.bool_] | None]:
    """Vectors, queries, k and perhaps a mask; of small integers every float32 sum is exact and ties abound."""
    rows, dim, queries = draw(st.integers(0, 600)), draw(st.integers(0, 70)), draw(st.integers(0, 10))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if integers:
        vectors = random.integers(-2, 3, (rows, dim)).astype(np.float32)
        wanted = random.integers(-2, 3, (queries, dim)).astype(np.float32)
    else:
        vectors = random.standard_normal((rows, dim), dtype=np.float32)
        wanted = random.standard_normal((queries, dim), dtype=np.float32)
    k = draw(st.one_of(st.integers(1, 20), st.integers(1, rows + 5)))
    allowed = draw(st.sampled_from([None, 0.0, 0.02, 0.5, 1.0]))
    return vectors, wanted, k, None if allowed is None else random.random(rows) < allowed


@given(search=searches(integers=True), threads=st.integers(1, 3))
def test_small_integers_give_exactly_the_twins_result(level, search, threads):
    vectors, queries, k, mask = search
    scores, rows = _kernels.topk(vectors, queries, k, mask=mask, threads=threads)
    expected_scores, expected_rows = oracles.topk(vectors, queries, k, mask)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


@given(search=searches(integers=False))
def test_real_numbers_agree_with_the_twin_within_the_tolerance(level, search):
    vectors, queries, k, mask = search
    scores, rows = _kernels.topk(vectors, queries, k, mask=mask)
    found = rows >= 0
    allowed = len(vectors) if mask is None else int(mask.sum())
    assert found.sum(axis=1).tolist() == [min(k, allowed)] * len(queries)
    assert np.isneginf(scores[~found]).all()
    exact = oracles.inner_products(vectors, queries)
    size = np.abs(queries).astype(np.float64) @ np.abs(vectors).astype(np.float64).T
    bound = oracles.FLOAT32[level].score_per_term * (vectors.shape[1] / 4 + 4) * size.max(initial=0.0)
    expected_scores, _ = oracles.topk(vectors, queries, k, mask)
    for q in range(len(queries)):
        kept = rows[q][found[q]]
        assert len(set(kept.tolist())) == len(kept)
        assert mask is None or mask[kept].all()
        np.testing.assert_allclose(scores[q][found[q]], exact[q, kept], rtol=0, atol=bound)
        np.testing.assert_allclose(scores[q][found[q]], expected_scores[q][found[q]], rtol=0, atol=bound)


@pytest.mark.parametrize("dim", [1, 7, 8, 33, 384])
def test_a_score_depends_on_its_row_and_query_alone(level, dim):
    random = np.random.default_rng(dim)
    vectors = random.standard_normal((1000, dim), dtype=np.float32)
    queries = random.standard_normal((37, dim), dtype=np.float32)
    together = _kernels.topk(vectors, queries, 1000)
    threaded = _kernels.topk(vectors, queries, 1000, threads=3)
    mask = random.random(1000) < 0.3
    masked_scores, masked_rows = _kernels.topk(vectors, queries, 1000, mask=mask)
    for part in range(2):
        np.testing.assert_array_equal(together[part], threaded[part])
    for q in range(len(queries)):
        alone = _kernels.topk(vectors, queries[q : q + 1], 1000)
        np.testing.assert_array_equal(together[0][q], alone[0][0])
        np.testing.assert_array_equal(together[1][q], alone[1][0])
        kept = mask[together[1][q]]
        np.testing.assert_array_equal(masked_scores[q, : mask.sum()], together[0][q][kept])
        np.testing.assert_array_equal(masked_rows[q, : mask.sum()], together[1][q][kept])


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processors cannot be chosen here")
def test_the_callers_processors_stay_its_own_and_one_is_enough():
    rng = np.random.default_rng(5)
    vectors, queries = (rng.standard_normal((rows, 128), dtype=np.float32) for rows in (40_000, 2))
    allowed = os.sched_getaffinity(0)
    expected = _kernels.topk(vectors, queries, 5, threads=4)
    assert os.sched_getaffinity(0) == allowed
    try:
        os.sched_setaffinity(0, {min(allowed)})
        alone = _kernels.topk(vectors, queries, 5, threads=4)
        assert os.sched_getaffinity(0) == {min(allowed)}
    finally:
        os.sched_setaffinity(0, allowed)
    for part, same in zip(expected, alone, strict=True):
        np.testing.assert_array_equal(part, same)


def test_threads_share_large_work_without_changing_it(level):
    random = np.random.default_rng(5)
    vectors = random.integers(-3, 4, (40_000, 64)).astype(np.float32)
    queries = random.integers(-3, 4, (3, 64)).astype(np.float32)
    one, several = (_kernels.topk(vectors, queries, 50, threads=threads) for threads in (1, 4))
    np.testing.assert_array_equal(one[0], several[0])
    np.testing.assert_array_equal(one[1], several[1])
    scores = (queries @ vectors.T).astype(np.float64)
    np.testing.assert_array_equal(one[1], np.argsort(-scores, axis=1, kind="stable")[:, :50])


TABLE = [
    # name, vectors, query, k, mask, scores, rows
    ("two of three", [[1, 0], [0, 2], [3, 0]], [1, 0], 2, None, [3, 1], [2, 0]),
    ("ties to the lower row", [[1], [2], [2], [1], [2]], [1], 4, None, [2, 2, 2, 1], [1, 2, 4, 0]),
    ("k above the rows", [[1], [2]], [1], 4, None, [2, 1, -INF, -INF], [1, 0, -1, -1]),
    ("masked", [[1], [2], [3]], [1], 2, [True, False, True], [3, 1], [2, 0]),
    ("all masked", [[1], [2]], [1], 1, [False, False], [-INF], [-1]),
    ("NaN is never returned", [[np.nan], [2], [1]], [1], 3, None, [2, 1, -INF], [1, 2, -1]),
    ("infinities that cancel are NaN", [[INF, -INF], [1, 1]], [1, 1], 2, None, [2, -INF], [1, -1]),
    ("infinite scores rank", [[-INF], [0], [INF]], [1], 3, None, [INF, 0, -INF], [2, 1, 0]),
    ("a row of minus infinity is not a missing one", [[-INF]], [1], 2, None, [-INF, -INF], [0, -1]),
    ("zeros of either sign tie", [[0.0], [-0.0], [0.0]], [1], 3, None, [0, 0, 0], [0, 1, 2]),
    ("overflow is infinite", [[3e38], [1]], [3e38], 2, None, [INF, 3e38], [0, 1]),
]


@pytest.mark.parametrize(
    ("vectors", "query", "k", "mask", "scores", "rows"), [t[1:] for t in TABLE], ids=[t[0] for t in TABLE]
)
def test_table(level, vectors, query, k, mask, scores, rows):
    flags = None if mask is None else np.array(mask)
    found = _kernels.topk(float32(vectors), float32([query]), k, mask=flags)
    np.testing.assert_array_equal(found[0], float32([scores]))
    assert found[1].tolist() == [rows]


def test_empty_inputs(level):
    scores, rows = _kernels.topk(
        np.empty((0, 3), np.float32), np.ones((2, 3), np.float32), 2, mask=np.empty(0, bool)
    )
    assert np.isneginf(scores).all()
    assert rows.tolist() == [[-1, -1], [-1, -1]]
    assert _kernels.topk(np.ones((4, 3), np.float32), np.empty((0, 3), np.float32), 2)[1].shape == (0, 2)
    scores, rows = _kernels.topk(np.empty((4, 0), np.float32), np.empty((1, 0), np.float32), 2)
    assert (scores.tolist(), rows.tolist()) == ([[0, 0]], [[0, 1]])


ROWS = np.ones((4, 3), np.float32)
QUERY = np.ones((1, 3), np.float32)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((ROWS.astype(np.float64), QUERY, 1), {}),
        ((ROWS, QUERY.astype(np.float16), 1), {}),
        ((np.asfortranarray(ROWS), QUERY, 1), {}),
        ((np.ones((4, 6), np.float32)[:, ::2], QUERY, 1), {}),
        ((ROWS.astype(">f4"), QUERY, 1), {}),
        ((ROWS, [[1.0, 1.0, 1.0]], 1), {}),
        ((ROWS, QUERY, 1.5), {}),
        ((ROWS, QUERY, 1, np.ones(4, bool)), {}),
        ((ROWS, QUERY, 1), {"mask": np.ones(4, np.uint8)}),
        ((np.frombuffer(bytes(49), np.uint8)[1:].view(np.float32).reshape(4, 3), QUERY, 1), {}),
    ],
    ids=[
        "float64",
        "float16",
        "fortran",
        "strided",
        "big-endian",
        "list",
        "float k",
        "positional mask",
        "uint8 mask",
        "unaligned",
    ],
)
def test_other_types_and_layouts_are_refused(arguments, options):
    with pytest.raises(TypeError):
        _kernels.topk(*arguments, **options)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((ROWS, QUERY, 0), {}, "k is 0, expected at least 1"),
        ((ROWS, QUERY, -3), {}, "k is -3"),
        ((ROWS, QUERY, 1), {"threads": 0}, "threads is 0"),
        (
            (ROWS, np.ones((1, 5), np.float32), 1),
            {},
            r"vectors \[4, 3\] and queries \[1, 5\] differ in dim: 3 and 5",
        ),
        ((ROWS, np.ones(3, np.float32), 1), {}, r"queries has shape \[3\], expected \[queries, dim\]"),
        (
            (ROWS, QUERY, 1),
            {"mask": np.ones(5, bool)},
            r"vectors \[4, 3\] and mask \[5\] differ in rows: 4 and 5",
        ),
    ],
)
def test_wrong_shapes_and_numbers_are_quoted(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        _kernels.topk(*arguments, **options)


def test_the_interpreter_runs_meanwhile():
    vectors = np.ones((200_000, 64), np.float32)
    queries = np.ones((32, 64), np.float32)
    done = threading.Event()

    def search() -> None:
        _kernels.topk(vectors, queries, 10)
        done.set()

    thread = threading.Thread(target=search)
    thread.start()
    turns = 0
    while not done.is_set():
        turns += 1
    thread.join()
    # Were the GIL held, this loop would get at most a turn or two, before and after the call.
    assert turns > 100
