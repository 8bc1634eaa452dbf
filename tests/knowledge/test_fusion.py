"""The algebra of fusion, against twins over dictionaries."""

from __future__ import annotations

import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from rag_infer.knowledge.fusion import Ranking, reciprocal_rank, weighted_scores
from rag_infer.knowledge.search_config import LARGEST
from rag_infer.marginalise import log_priors

ROWS = st.lists(st.integers(0, 30), unique=True, max_size=12)
SCORES = st.floats(-30, 30, width=32)


def ranking(rows: list[int], scores: list[float]) -> Ranking:
    """Best first, ties to the lower row."""
    hits = sorted(zip(scores, rows, strict=True), key=lambda hit: (-hit[0], hit[1]))
    return Ranking(
        np.array([s for s, _ in hits], dtype=np.float32), np.array([r for _, r in hits], dtype=np.int64)
    )


@st.composite
def rankings(draw: st.DrawFn, min_size: int = 0) -> Ranking:
    rows = draw(ROWS.filter(lambda r: len(r) >= min_size))
    return ranking(rows, draw(st.lists(SCORES, min_size=len(rows), max_size=len(rows))))


def priors(fused: Ranking) -> dict[int, float]:
    """p(z|x) over all candidates, as the engine works it out from the scores."""
    return dict(zip(fused.rows.tolist(), np.exp(log_priors(fused.scores)).tolist(), strict=True))


def softmax(side: Ranking, scale: float) -> dict[int, float]:
    top = max(side.scores.tolist(), default=0.0)
    weights = {
        r: math.exp(scale * (s - top)) for s, r in zip(side.scores.tolist(), side.rows.tolist(), strict=True)
    }
    return {r: w / sum(weights.values()) for r, w in weights.items()}


def assert_in_order(fused: Ranking) -> None:
    hits = list(zip((-fused.scores).tolist(), fused.rows.tolist(), strict=True))
    assert hits == sorted(hits)
    assert len(set(fused.rows.tolist())) == len(fused.rows)
    assert np.isfinite(fused.scores).all()
    assert fused.scores.dtype == np.float32
    assert fused.rows.dtype == np.int64


@hypothesis.given(rankings(), rankings(), st.floats(0, 1), st.floats(0, 100))
def test_reciprocal_rank_equals_its_formula(
    first: Ranking, second: Ranking, alpha: float, constant: float
) -> None:
    fused = reciprocal_rank([first, second], weights=(alpha, 1 - alpha), constant=constant)
    weights: dict[int, float] = {}
    for side, weight in ((first, alpha), (second, 1 - alpha)):
        for rank, row in enumerate(side.rows.tolist(), start=1):
            weights[row] = weights.get(row, 0.0) + weight / (constant + rank)
    weights = {row: w for row, w in weights.items() if w > 0}
    assert set(fused.rows.tolist()) == set(weights)
    assert_in_order(fused)
    for row, prior in priors(fused).items():
        assert prior == pytest.approx(weights[row] / sum(weights.values()), rel=1e-4)


@hypothesis.given(rankings(), rankings(), st.floats(0.01, 0.99), st.floats(0, 2), st.floats(0, 2))
def test_weighted_scores_equal_their_formula(
    dense: Ranking, lexical: Ranking, alpha: float, dense_scale: float, lexical_scale: float
) -> None:
    fused = weighted_scores(dense, lexical, alpha=alpha, dense_scale=dense_scale, lexical_scale=lexical_scale)
    p, q = softmax(dense, dense_scale), softmax(lexical, lexical_scale)
    mixture = {row: alpha * p.get(row, 0.0) + (1 - alpha) * q.get(row, 0.0) for row in {*p, *q}}
    assert set(fused.rows.tolist()) == set(mixture)
    assert_in_order(fused)
    for row, prior in priors(fused).items():
        assert prior == pytest.approx(mixture[row] / sum(mixture.values()), rel=1e-3, abs=1e-12)


@hypothesis.given(rankings(), rankings(), st.floats(0, 1), st.integers(1, 30))
def test_priors_of_the_kept_sum_to_one_and_are_proportional(
    dense: Ranking, lexical: Ranking, alpha: float, k: int
) -> None:
    for fused in (
        reciprocal_rank([dense, lexical], weights=(alpha, 1 - alpha)),
        weighted_scores(dense, lexical, alpha=alpha),
    ):
        if not len(fused.rows):
            continue
        kept = np.exp(log_priors(fused.scores[:k]).astype(np.float64))
        assert kept.sum() == pytest.approx(1, abs=1e-5)
        whole = np.exp(log_priors(fused.scores).astype(np.float64))[:k]
        np.testing.assert_allclose(kept, whole / whole.sum(), rtol=1e-4)


@hypothesis.given(st.lists(rankings(), min_size=1, max_size=4))
def test_the_order_of_the_sides_does_not_matter(sides: list[Ranking]) -> None:
    shuffled = sides[::-1]
    expected, found = reciprocal_rank(sides), reciprocal_rank(shuffled)
    assert set(expected.rows.tolist()) == set(found.rows.tolist())
    order = np.argsort(found.rows)
    np.testing.assert_allclose(found.scores[order], expected.scores[np.argsort(expected.rows)], rtol=1e-6)


@hypothesis.given(rankings(), rankings(), st.floats(0, 1), st.permutations(range(31)))
def test_the_numbers_of_the_rows_do_not_matter(
    dense: Ranking, lexical: Ranking, alpha: float, names: list[int]
) -> None:
    def renamed(side: Ranking) -> Ranking:
        return Ranking(side.scores, np.array([names[row] for row in side.rows], dtype=np.int64))

    for fuse in (
        lambda a, b: reciprocal_rank([a, b], weights=(alpha, 1 - alpha)),
        lambda a, b: weighted_scores(a, b, alpha=alpha),
    ):
        before = dict(zip(*map(np.ndarray.tolist, fuse(dense, lexical)[::-1]), strict=True))
        after = dict(zip(*map(np.ndarray.tolist, fuse(renamed(dense), renamed(lexical))[::-1]), strict=True))
        assert {names[row] for row in before} == set(after)
        for row, score in before.items():
            assert after[names[row]] == pytest.approx(score, rel=1e-6, abs=1e-6)


@hypothesis.given(rankings(min_size=1), rankings(min_size=1))
def test_the_ends_are_the_sides_alone(dense: Ranking, lexical: Ranking) -> None:
    for alpha, side in ((1.0, dense), (0.0, lexical)):
        fused = reciprocal_rank([dense, lexical], weights=(alpha, 1 - alpha))
        assert fused.rows.tolist() == side.rows.tolist()
        mixed = weighted_scores(dense, lexical, alpha=alpha)
        assert set(mixed.rows.tolist()) == set(side.rows.tolist())
        assert_in_order(mixed)
        scores = dict(zip(side.rows.tolist(), side.scores.tolist(), strict=True))
        shown = [scores[row] for row in mixed.rows.tolist()]
        assert shown == pytest.approx(
            sorted(shown, reverse=True), abs=1e-4
        )  # differences float32 cannot show
        assert priors(mixed) == pytest.approx(softmax(side, 1.0), rel=1e-3, abs=1e-12)


@hypothesis.given(rankings(), rankings(), st.floats(0.1, 0.9), st.floats(0.1, 5), st.data())
def test_a_better_score_never_lowers_a_prior(
    dense: Ranking, lexical: Ranking, alpha: float, more: float, data: st.DataObject
) -> None:
    hypothesis.assume(len(lexical.rows))
    row = data.draw(st.sampled_from(lexical.rows.tolist()))
    scores = [s + (more if r == row else 0) for s, r in zip(*map(np.ndarray.tolist, lexical), strict=True)]
    better = ranking(lexical.rows.tolist(), scores)
    for fuse in (
        lambda side: reciprocal_rank([dense, side], weights=(alpha, 1 - alpha)),
        lambda side: weighted_scores(dense, side, alpha=alpha),
    ):
        before, after = priors(fuse(lexical)), priors(fuse(better))
        assert after[row] >= before[row] - 1e-5


def test_a_table_by_hand() -> None:
    """Ranks 1 and 2 on one side, 2 and 1 on the other: all the same; once on one side only: half of it."""
    first = ranking([4, 9], [2.0, 1.0])
    second = ranking([9, 4, 7], [5.0, 4.0, 3.0])
    fused = reciprocal_rank([first, second])
    assert fused.rows.tolist() == [4, 9, 7]
    assert np.exp(fused.scores).tolist() == pytest.approx([1 / 61 + 1 / 62, 1 / 61 + 1 / 62, 1 / 63])
    mixed = weighted_scores(ranking([1, 2], [math.log(3), 0.0]), ranking([2], [1.0]), alpha=0.5)
    assert mixed.rows.tolist() == [2, 1]
    assert np.exp(mixed.scores).tolist() == pytest.approx([0.5 * 0.25 + 0.5, 0.5 * 0.75])


def test_scores_far_apart_keep_their_logarithms() -> None:
    fused = weighted_scores(ranking([1, 2], [0.0, -2000.0]), ranking([], []), alpha=0.5)
    assert fused.scores.tolist() == pytest.approx([math.log(0.5), math.log(0.5) - 2000])


def test_nothing_on_either_side() -> None:
    nothing = ranking([], [])
    assert len(reciprocal_rank([nothing, nothing]).rows) == 0
    assert len(weighted_scores(nothing, nothing, alpha=0.5).rows) == 0
    one = ranking([3], [1.0])
    assert weighted_scores(nothing, one, alpha=0.25).rows.tolist() == [3]
    assert len(weighted_scores(one, nothing, alpha=0.0).rows) == 0


def test_a_weight_below_all_numbers_is_none() -> None:
    fused = weighted_scores(
        ranking([1, 2], [3e38, -3e38]), ranking([], []), alpha=1.0, dense_scale=LARGEST, lexical_scale=LARGEST
    )
    assert fused.rows.tolist() == [1]
    assert fused.scores.tolist() == [0.0]
