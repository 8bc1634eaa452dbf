"""Sampling: the distribution equals transformers' warpers, and draws follow it."""

from __future__ import annotations

import numpy as np
import pytest

from rag_infer.generate.sample import sampling_distribution


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [0, 1, 7, 100])
@pytest.mark.parametrize("top_p", [0.2, 0.9, 1.0])
def test_equals_transformers(temperature: float, top_k: int, top_p: float) -> None:
    import torch
    from transformers.generation import logits_process as lp

    random = np.random.default_rng(1)
    for _ in range(10):
        scores = np.log(random.dirichlet(np.full(40, 0.3))).astype(np.float32)
        expected = torch.from_numpy(scores[None].copy())
        expected = lp.TemperatureLogitsWarper(temperature)(None, expected)
        if top_k:
            expected = lp.TopKLogitsWarper(top_k)(None, expected)
        if top_p < 1:
            expected = lp.TopPLogitsWarper(top_p)(None, expected)
        got = sampling_distribution(scores, temperature=temperature, top_k=top_k, top_p=top_p)
        np.testing.assert_allclose(got, torch.softmax(expected, -1)[0].numpy(), atol=1e-6)


def test_impossible_tokens_are_never_drawn() -> None:
    scores = np.array([-np.inf, np.log(0.5), np.log(0.5)], dtype=np.float32)
    assert sampling_distribution(scores, temperature=1.0, top_k=0, top_p=1.0).tolist() == [0.0, 0.5, 0.5]
