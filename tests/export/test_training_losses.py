"""The losses of training against slow twins, and the marginal's against the runtime's own scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rag_infer import marginalise
from rag_infer.export.training.contrastive import contrastive_loss
from rag_infer.export.training.marginal import IGNORED, STRATEGIES, marginal_loss
from rag_infer.export.training.schedule import Schedule


def slow_marginal(
    logits: np.ndarray, scores: np.ndarray, labels: np.ndarray, strategy: str
) -> float:  # float64, one probability after the other
    total = 0.0
    for question, label in enumerate(labels):
        weights = np.exp(scores[question] - scores[question].max())
        priors = weights / weights.sum()
        steps = [(t, y) for t, y in enumerate(label) if y != IGNORED]
        probs = np.exp(logits[question]) / np.exp(logits[question]).sum(-1, keepdims=True)
        if strategy == "rag-token":
            total += sum(np.log(sum(p * probs[z, t, y] for z, p in enumerate(priors))) for t, y in steps)
        else:
            total += np.log(
                sum(p * np.prod([probs[z, t, y] for t, y in steps]) for z, p in enumerate(priors))
            )
    return -total / len(labels)


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    questions=st.integers(1, 3),
    n_docs=st.integers(1, 4),
    lengths=st.lists(st.integers(1, 4), min_size=3, max_size=3),
)
def test_the_marginal_against_its_slow_twin(
    strategy: str, seed: int, questions: int, n_docs: int, lengths: list[int]
) -> None:
    draw = np.random.default_rng(seed)
    tokens, vocab = max(lengths), 7
    logits, scores = (
        draw.normal(size=(questions, n_docs, tokens, vocab)),
        draw.normal(size=(questions, n_docs)),
    )
    labels = draw.integers(0, vocab, (questions, tokens))
    for row, length in zip(labels, lengths, strict=False):
        row[length:] = IGNORED
    given_ = (torch.from_numpy(logits), torch.from_numpy(scores), torch.from_numpy(labels))
    found = marginal_loss(*given_, strategy=strategy).item()
    assert found == pytest.approx(slow_marginal(logits, scores, labels, strategy), abs=1e-10)


def test_the_marginal_is_that_of_the_runtime() -> None:
    draw = np.random.default_rng(0)
    logits, scores = draw.normal(size=(3, 4, 9)).astype(np.float32), draw.normal(size=3).astype(np.float32)
    label = np.array([1, 8, 0, 3])
    expected = marginalise.log_probs(logits, marginalise.log_priors(scores))[range(4), label].sum()
    found = marginal_loss(
        torch.from_numpy(logits)[None], torch.from_numpy(scores)[None], torch.from_numpy(label)[None]
    )
    assert -found.item() == pytest.approx(expected, abs=1e-5)


def test_gradients_reach_scores_and_pull_them_to_the_posterior() -> None:
    logits = torch.log(torch.tensor([[[[0.9, 0.1]], [[0.2, 0.8]]]]))
    scores = torch.zeros(1, 2, requires_grad=True)
    marginal_loss(logits, scores, torch.tensor([[1]])).backward()  # type: ignore[no-untyped-call]
    posterior = torch.tensor([[0.1, 0.8]]) / 0.9
    assert scores.grad is not None
    assert torch.allclose(scores.grad, 0.5 - posterior, atol=1e-6)


def test_a_passage_without_weight_does_not_count() -> None:
    logits = torch.randn(1, 2, 1, 5)
    alone = marginal_loss(logits[:, :1], torch.zeros(1, 1), torch.tensor([[2]]))
    both = marginal_loss(logits, torch.tensor([[0.0, -torch.inf]]), torch.tensor([[2]]))
    assert both.item() == pytest.approx(alone.item(), abs=1e-6)


def test_bad_input() -> None:
    logits, scores, labels = torch.zeros(2, 3, 1, 5), torch.zeros(2, 3), torch.zeros(2, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="strategy must be one of rag-token, rag-sequence, got 'rag'"):
        marginal_loss(logits, scores, labels, strategy="rag")
    with pytest.raises(ValueError, match=r"3 passages .* do not fit scores of shape \(2, 2\)"):
        marginal_loss(logits, scores[:, :2], labels)


def test_contrastive_against_its_slow_twin() -> None:
    draw = np.random.default_rng(0)
    logits, positive = draw.normal(size=(5, 6)), draw.random((5, 6)) < 0.4
    positive[2] = False  # a row without positives does not count
    each = []
    for row, right in zip(logits, positive, strict=True):
        probs = np.exp(row) / np.exp(row).sum()
        if right.any():
            each.append(-np.mean([np.log(p) for p, r in zip(probs, right, strict=True) if r]))
    found = contrastive_loss(torch.from_numpy(logits), torch.from_numpy(positive)).item()
    assert found == pytest.approx(float(np.mean(each)), abs=1e-12)
    assert len(each) == 4


def test_a_schedule_ends_after_its_warm_up() -> None:
    assert [Schedule(steps=2, learning_rate=1.0, warm_up=0).factor(step) for step in (0, 1)] == [1.0, 0.5]
    for steps, warm_up in ((20, 20), (10, 20), (0, 0), (5, -1)):
        with pytest.raises(ValueError, match="warm_up must be from 0 to below steps"):
            Schedule(steps=steps, learning_rate=1.0, warm_up=warm_up)


def test_a_contrastive_loss_needs_a_positive() -> None:
    with pytest.raises(ValueError, match="none of 2 rows has a positive"):
        contrastive_loss(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
