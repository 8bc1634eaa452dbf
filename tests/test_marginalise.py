"""The sums over passages, against their twins in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from rag_infer import marginalise
from tests.oracles import log_softmax, log_sum_exp, marginalise_log_probs, per_document_log_probs

TOLERANCE = 1e-5
SCORES = st.lists(st.floats(-50, 50, width=32) | st.just(-np.inf), min_size=1, max_size=6)


def random_step(
    seed: int, *, num_docs: int = 4, beams: int = 3, vocab: int = 50
) -> tuple[NDArray[np.float32], ...]:
    random = np.random.default_rng(seed)
    logits = random.normal(scale=4, size=(num_docs, beams, vocab)).astype(np.float32)
    return logits, log_softmax(random.normal(size=num_docs)).astype(np.float32)


@given(scores=SCORES, score_scale=st.sampled_from([1.0, 20.0, 0.05]))
def test_log_priors(scores: list[float], score_scale: float) -> None:
    array = np.array(scores, dtype=np.float32)
    found = marginalise.log_priors(array, score_scale)
    assert found.dtype == np.float32
    np.testing.assert_allclose(
        found, log_softmax(array.astype(np.float64) * score_scale), rtol=1e-6, atol=1e-6
    )
    if np.isfinite(array).any():
        assert np.exp(found.astype(np.float64)).sum() == pytest.approx(1, abs=1e-4)


def test_log_priors_of_several_questions() -> None:
    scores = np.array([[75.03, 74.5], [-np.inf, 1e4], [-np.inf, -np.inf]], dtype=np.float32)
    found = marginalise.log_priors(scores)
    for row, alone in zip(found, scores, strict=True):
        np.testing.assert_array_equal(row, marginalise.log_priors(alone))
    assert found[1:].tolist() == [[-np.inf, 0.0], [-np.inf, -np.inf]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_log_priors_refuse(bad: float) -> None:
    with pytest.raises(ValueError, match=f"must not be NaN or infinite, got \\[1.0, {bad}\\]"):
        marginalise.log_priors(np.array([1.0, bad], dtype=np.float32))


@pytest.mark.parametrize("seed", range(5))
def test_log_probs_and_top_tokens(seed: int) -> None:
    logits, priors = random_step(seed)
    expected = marginalise_log_probs(logits, priors)
    found = marginalise.log_probs(logits, priors)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)
    np.testing.assert_allclose(np.exp(found.astype(np.float64)).sum(axis=1), 1, atol=1e-5)
    values, tokens = marginalise.top_tokens(logits, priors, 7)
    np.testing.assert_array_equal(tokens, np.argsort(-expected, axis=1)[:, :7])
    np.testing.assert_allclose(values, np.take_along_axis(expected, tokens, axis=1), atol=TOLERANCE)


def test_more_top_tokens_than_there_are() -> None:
    logits, priors = random_step(0, vocab=3)
    values, tokens = marginalise.top_tokens(logits, priors, 5)
    assert (tokens[:, 3:] == -1).all()
    assert np.isneginf(values[:, 3:]).all()


@pytest.mark.parametrize("seed", range(5))
def test_token_posterior(seed: int) -> None:
    logits, priors = random_step(seed)
    priors[seed % 4] = -np.inf if seed else priors[0]
    tokens = np.random.default_rng(seed).integers(0, 50, size=(3, 6))
    marginal, posterior = marginalise.token_posterior(logits, priors, tokens)
    assert posterior.dtype == np.float32
    assert posterior.shape == (3, 6, 4)
    joint = per_document_log_probs(logits, priors) + priors.astype(np.float64)[:, None, None]
    for beam, rank in np.ndindex(3, 6):
        column = joint[:, beam, tokens[beam, rank]]
        total = log_sum_exp(column, axis=0)
        assert marginal[beam, rank] == pytest.approx(float(total), abs=TOLERANCE)
        np.testing.assert_allclose(posterior[beam, rank], np.exp(column - total), atol=TOLERANCE)
    np.testing.assert_allclose(posterior.sum(axis=2), 1, atol=1e-6)


def test_posterior_of_tokens_that_hardly_or_never_occur() -> None:
    logits = np.zeros((2, 1, 3), dtype=np.float32)
    logits[:, 0, 1] = [-400, -401]  # far below the smallest float32 probability
    logits[:, 0, 2] = -np.inf
    priors = np.log(np.array([0.25, 0.75], dtype=np.float32))
    marginal, posterior = marginalise.token_posterior(logits, priors, np.array([[1, 2]]))
    odds = np.array([0.25, 0.75 * np.exp(-1)])
    np.testing.assert_allclose(posterior[0, 0], odds / odds.sum(), rtol=1e-4)
    assert np.isneginf(marginal[0, 1])
    np.testing.assert_allclose(posterior[0, 1], [0.25, 0.75], rtol=1e-6)


@pytest.mark.parametrize("length", [1, 5])
def test_sequence_log_prob(length: int) -> None:
    logits, priors = random_step(length, beams=length)
    tokens = np.random.default_rng(length).integers(0, 50, size=(length, 1))
    chosen = np.stack([log_softmax(logits)[:, t, tokens[t, 0]] for t in range(length)], axis=1)
    prior = priors.astype(np.float64)
    by_token = log_sum_exp(chosen + prior[:, None], axis=0).sum()
    by_sequence = log_sum_exp(chosen.sum(axis=1) + prior, axis=0)
    for strategy, expected in (("rag-token", by_token), ("rag-sequence", by_sequence)):
        found = marginalise.sequence_log_prob(logits, priors, tokens, strategy=strategy)
        assert found == pytest.approx(float(expected), abs=1e-4)
