"""Samples are drawn from the marginal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rag_infer import GenerationConfig
from tests.generate.conftest import TinyRag, arrays, random_contexts
from tests.tiny_llama import PAD, VOCAB

SCORES = [[0.4, 1.1, -0.6]]


def chi_square(draws: np.ndarray, expected: np.ndarray) -> tuple[float, int]:
    """(statistic, degrees of freedom); tokens expected fewer than 5 times count as one."""
    counts, expected = np.bincount(draws, minlength=VOCAB), expected * len(draws)
    assert (counts[expected == 0] == 0).all(), "a token that cannot be was drawn"
    rare = expected < 5
    found, wanted = counts[~rare], expected[~rare]
    if expected[rare].sum() > 0:
        found, wanted = np.append(found, counts[rare].sum()), np.append(wanted, expected[rare].sum())
    return float(((found - wanted) ** 2 / wanted).sum()), len(wanted) - 1


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.6}, {"temperature": 1.5, "top_k": 20}], ids=str)
@pytest.mark.parametrize("one_seed", [True, False])
def test_samples_follow_the_marginal(tiny: TinyRag, settings: dict[str, Any], one_seed: bool) -> None:
    contexts = random_contexts(8, questions=1, num_docs=3)
    given = arrays(contexts, SCORES)
    scores = tiny.marginal(contexts[0], SCORES[0])(torch.tensor([[PAD]])).logits[0, 0]
    scores = scores / settings.get("temperature", 1.0)
    if "top_k" in settings:
        scores[scores < scores.topk(settings["top_k"]).values[-1]] = -torch.inf
    expected = torch.softmax(scores, dim=0).numpy()
    base = GenerationConfig(do_sample=True, max_new_tokens=1, **{"top_k": 0, **settings})
    many, each = ([17], 2000) if one_seed else (range(500), 1)
    configs = [base.updated({"seed": seed, "num_return_sequences": each}) for seed in many]
    draws = [tiny.generator.generate_from_contexts(*given, config=c).sequences[:, 0] for c in configs]
    statistic, freedom = chi_square(np.concatenate(draws), expected)
    # Mean and variance of the statistic are its degrees of freedom and twice that; four deviations.
    assert statistic < freedom + 4 * np.sqrt(2 * freedom)


def test_a_seed_repeats_and_another_differs(tiny: TinyRag) -> None:
    given = arrays(random_contexts(9, questions=2, num_docs=3), SCORES * 2)
    config = GenerationConfig(do_sample=True, max_new_tokens=10, num_return_sequences=3, seed=4)
    first, second, other = (
        tiny.generator.generate_from_contexts(*given, config=config.updated({"seed": s})) for s in (4, 4, 5)
    )
    np.testing.assert_array_equal(first.sequences, second.sequences)
    np.testing.assert_array_equal(first.scores, second.scores)
    assert first.sequences.tolist() != other.sequences.tolist()
    assert (np.diff(first.scores.reshape(2, 3), axis=1) <= 0).all(), "samples come best first"


def test_top_k_of_one_is_greedy(tiny: TinyRag) -> None:
    given = arrays(random_contexts(10, questions=2, num_docs=3), SCORES * 2)
    config = GenerationConfig(max_new_tokens=10)
    greedy = tiny.generator.generate_from_contexts(*given, config=config)
    for settings in ({"top_k": 1}, {"top_p": 1e-6}, {"temperature": 1e-5}):
        sampling = config.updated({"do_sample": True, "seed": 1, **settings})
        found = tiny.generator.generate_from_contexts(*given, config=sampling)
        assert found.sequences.tolist() == greedy.sequences.tolist()
        np.testing.assert_allclose(found.scores, greedy.scores, atol=1e-5)
