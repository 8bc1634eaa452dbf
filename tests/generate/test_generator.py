"""The generator alone: scores of given answers, and prompts in pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rag_infer import GenerationConfig
from tests.generate.conftest import MarginalLlama, TinyRag, arrays, random_contexts
from tests.tiny_llama import VOCAB

SCORES = [[0.4, 1.1, -0.6]]


def loss(marginal: MarginalLlama, answer: list[int], strategy: str) -> float:
    """-log p(y|x) in float64, token by token."""
    per_document = torch.stack(
        [
            marginal.per_document(torch.tensor([answer[:t]], dtype=torch.int64))[:, 0, token]
            for t, token in enumerate(answer)
        ],
        dim=1,
    )
    priors = marginal.log_priors
    if strategy == "rag-token":
        return -float(torch.logsumexp(per_document + priors[:, None], dim=0).sum())
    return -float(torch.logsumexp(per_document.sum(dim=1) + priors, dim=0))


@pytest.mark.parametrize("strategy", ["rag-token", "rag-sequence"])
@pytest.mark.parametrize("num_docs", [1, 4])
def test_score(tiny: TinyRag, strategy: str, num_docs: int) -> None:
    contexts = random_contexts(num_docs, questions=3, num_docs=num_docs)
    random = np.random.default_rng(num_docs)
    scores = random.normal(size=(3, num_docs)).astype(np.float32)
    if num_docs > 1:
        scores[0, 2] = -np.inf
    answers = [random.integers(4, VOCAB, size=n).tolist() for n in (1, 9, 4)]
    labels = np.array([a + [-100] * (9 - len(a)) for a in answers], dtype=np.int64)
    found = tiny.generator.score(*arrays(contexts, scores), labels, strategy=strategy)
    assert found.dtype == np.float32
    expected = [
        loss(tiny.marginal(c, s.tolist()), a, strategy)
        for c, s, a in zip(contexts, scores, answers, strict=True)
    ]
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_score_of_what_was_generated(tiny: TinyRag) -> None:
    given = arrays(random_contexts(2, questions=1, num_docs=3), SCORES)
    for settings in ({}, {"do_sample": True, "seed": 3, "top_k": 0}):
        output = tiny.generator.generate_from_contexts(
            *given, config=GenerationConfig(max_new_tokens=10, **settings)
        )
        np.testing.assert_allclose(tiny.generator.score(*given, output.sequences), -output.scores, atol=1e-4)


def test_unknown_strategy(tiny: TinyRag) -> None:
    given = arrays(random_contexts(0, questions=1, num_docs=3), SCORES)
    with pytest.raises(ValueError, match="unknown strategy 'rag': expected 'rag-token' or 'rag-sequence'"):
        tiny.generator.score(*given, np.array([[5]]), strategy="rag")


@pytest.mark.parametrize("num_beams", [1, 3])
def test_composed_prompts_equal_whole_ones(tiny: TinyRag, num_beams: int) -> None:
    """`begin` reads preamble, passage and question apart; `generate_from_contexts` reads one row."""
    composer = tiny.generator.composer
    passages = [("River", "the river runs deep to the sea"), ("Cat", "on the mat"), ("", "red " * 60)]
    contexts = composer.compose("where is the red cat?", passages)
    whole = [[*composer.preamble_ids, *c.passage_ids, *c.question_ids] for c in contexts]
    config = GenerationConfig(max_new_tokens=12, num_beams=num_beams)
    expected = tiny.generator.generate_from_contexts(*arrays([whole], SCORES), config=config)
    priors = torch.log_softmax(torch.tensor(SCORES[0]), dim=0).numpy()
    for _ in range(2):  # the second time the preamble's keys and values are there
        (results,) = tiny.generator.begin([contexts], [priors], config).results()
        tokens = results[0].hypothesis.tokens
        assert list(tokens) == expected.sequences[0].tolist()
        assert results[0].ranked_score == pytest.approx(float(expected.scores[0]), abs=1e-4)
