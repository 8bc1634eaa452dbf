"""RAG-Token from contexts to sequences, against the formula in PyTorch and transformers' own search on the marginal.

p(y_t | x, y_<t) = sum_z p(z|x) p(y_t | x, z, y_<t)   (Lewis et al. 2020, section 2.1)
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from rag_infer import GenerationConfig
from rag_infer.generator import GeneratorOutput
from tests.generate.conftest import MarginalLlama, TinyRag, arrays, random_contexts
from tests.tiny_llama import END, PAD

SCORE_TOLERANCE = 1e-4
POSTERIOR_TOLERANCE = 1e-5
LENGTH = 12


def greedy(marginal: MarginalLlama, length: int) -> tuple[list[int], float, list[list[float]]]:
    """(tokens, log p(y|x), p(z_t | x, y_<=t) of each token), token by token as the formula has it."""
    tokens: list[int] = []
    total, posteriors = 0.0, []
    while len(tokens) < length and END not in tokens:
        joint = marginal.joint(torch.tensor([tokens], dtype=torch.int64))[:, 0]
        log_probs = torch.logsumexp(joint, dim=0)
        tokens.append(int(log_probs.argmax()))
        total += float(log_probs[tokens[-1]])
        posteriors.append(torch.softmax(joint[:, tokens[-1]], dim=0).tolist())
    return tokens, total, posteriors


def row(output: GeneratorOutput, index: int) -> list[int]:
    return [t for t in output.sequences[index].tolist() if t != PAD]


def assert_greedy(output: GeneratorOutput, index: int, marginal: MarginalLlama) -> None:
    tokens, score, posteriors = greedy(marginal, LENGTH)
    assert row(output, index) == tokens
    assert output.scores[index] == pytest.approx(score, abs=SCORE_TOLERANCE)
    found = output.doc_posterior[index]
    np.testing.assert_allclose(found[: len(tokens)], posteriors, atol=POSTERIOR_TOLERANCE)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    prior = np.broadcast_to(np.exp(marginal.log_priors.numpy()), found[len(tokens) :].shape)
    np.testing.assert_allclose(found[len(tokens) :], prior, atol=1e-6)


@pytest.mark.parametrize("num_docs", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("questions", [1, 3])
def test_greedy_is_the_formula(tiny: TinyRag, questions: int, num_docs: int) -> None:
    seed = 10 * questions + num_docs
    contexts = random_contexts(seed, questions=questions, num_docs=num_docs)
    scores = np.random.default_rng(seed).normal(scale=2, size=(questions, num_docs)).astype(np.float32)
    output = tiny.generator.generate_from_contexts(
        *arrays(contexts, scores), config=GenerationConfig(max_new_tokens=LENGTH)
    )
    assert (output.sequences.dtype, output.scores.dtype) == (np.int64, np.float32)
    assert output.doc_posterior.dtype == np.float32
    assert output.doc_posterior.shape == (*output.sequences.shape, num_docs)
    for i in range(questions):
        assert_greedy(output, i, tiny.marginal(contexts[i], scores[i].tolist()))


def test_a_passage_of_weight_zero_changes_nothing(tiny: TinyRag) -> None:
    contexts = random_contexts(3, questions=1, num_docs=4)
    config = GenerationConfig(max_new_tokens=LENGTH)
    scores = [[0.5, -np.inf, 1.5, -0.5]]
    output = tiny.generator.generate_from_contexts(*arrays(contexts, scores), config=config)
    assert_greedy(output, 0, tiny.marginal(contexts[0], scores[0]))
    assert (output.doc_posterior[0, :, 1] == 0).all()
    kept = [0, 2, 3]
    without = tiny.generator.generate_from_contexts(
        *arrays([[contexts[0][z] for z in kept]], [[scores[0][z] for z in kept]]), config=config
    )
    assert row(output, 0) == row(without, 0)
    np.testing.assert_allclose(output.doc_posterior[..., kept], without.doc_posterior, atol=1e-5)


def test_only_differences_of_scores_count(tiny: TinyRag) -> None:
    contexts = random_contexts(4, questions=1, num_docs=3)
    config = GenerationConfig(max_new_tokens=LENGTH)
    low, high = (
        tiny.generator.generate_from_contexts(*arrays(contexts, [[s, s + 1, s - 2]]), config=config)
        for s in (0.0, 8192.0)
    )
    assert low.sequences.tolist() == high.sequences.tolist()
    np.testing.assert_allclose(low.scores, high.scores, atol=SCORE_TOLERANCE)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3, "num_return_sequences": 2}])
def test_a_batch_equals_one_at_a_time(tiny: TinyRag, settings: dict[str, Any]) -> None:
    contexts = random_contexts(7, questions=5, num_docs=3)
    scores = np.random.default_rng(7).normal(size=(5, 3)).tolist()
    config = GenerationConfig(max_new_tokens=LENGTH, **settings)
    count = config.num_return_sequences
    batch = tiny.generator.generate_from_contexts(*arrays(contexts, scores), config=config)
    assert len({len(row(batch, i)) for i in range(5 * count)}) > 1, "all end together: nothing is tested"
    for i in range(5):
        alone = tiny.generator.generate_from_contexts(*arrays([contexts[i]], [scores[i]]), config=config)
        assert [row(alone, j) for j in range(count)] == [row(batch, i * count + j) for j in range(count)]
        rows = slice(i * count, (i + 1) * count)
        np.testing.assert_allclose(alone.scores, batch.scores[rows], atol=SCORE_TOLERANCE)
        length = alone.sequences.shape[1]
        np.testing.assert_allclose(alone.doc_posterior, batch.doc_posterior[rows, :length], atol=1e-5)


def beam_settings(seed: int) -> dict[str, Any]:
    choice = random.Random(seed)
    beams = choice.choice([2, 3, 4])
    return {
        "num_beams": beams,
        "num_return_sequences": choice.randint(1, beams),
        "length_penalty": choice.choice([0.0, 1.0, 2.0]),
        "early_stopping": choice.choice([True, False]),
    }


@pytest.mark.parametrize("seed", range(24))
def test_beam_search_is_transformers_on_the_marginal(tiny: TinyRag, seed: int) -> None:
    settings = beam_settings(seed)
    num_docs = 1 + seed % 4
    contexts = random_contexts(100 + seed, questions=1, num_docs=num_docs)
    scores = np.random.default_rng(seed).normal(size=(1, num_docs)).astype(np.float32)
    marginal = tiny.marginal(contexts[0], scores[0].tolist())
    expected = tiny.search(marginal, max_new_tokens=LENGTH, **settings)
    output = tiny.generator.generate_from_contexts(
        *arrays(contexts, scores), config=GenerationConfig(max_new_tokens=LENGTH, **settings)
    )
    assert output.sequences.tolist() == expected.sequences.tolist(), f"settings {settings}"
    np.testing.assert_allclose(output.scores, expected.sequences_scores.numpy(), atol=SCORE_TOLERANCE)
    for i in range(settings["num_return_sequences"]):
        tokens = row(output, i)
        for t, token in enumerate(tokens):
            joint = marginal.joint(torch.tensor([tokens[:t]], dtype=torch.int64))[:, 0, token]
            posterior = torch.softmax(joint, dim=0).numpy()
            np.testing.assert_allclose(output.doc_posterior[i, t], posterior, atol=POSTERIOR_TOLERANCE)
