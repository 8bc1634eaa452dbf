"""Constraints act on the marginal, as transformers' processors would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rag_infer import GenerationConfig
from rag_infer.errors import GenerationError
from tests.generate.conftest import TinyRag, arrays, random_contexts
from tests.tiny_llama import END, PAD, VOCAB

SCORES = [[0.4, 1.1, -0.6]]


CONSTRAINTS: list[dict[str, Any]] = [
    {"min_length": 12},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.5},
    {"forced_eos_token_id": END},
    {"forced_bos_token_id": 77},
    {"min_length": 6, "no_repeat_ngram_size": 1, "repetition_penalty": 1.3, "forced_eos_token_id": 9},
]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("settings", CONSTRAINTS, ids=str)
def test_constraints_act_on_the_marginal(tiny: TinyRag, settings: dict[str, Any], num_beams: int) -> None:
    length, changed = 16, 0
    free = GenerationConfig(max_new_tokens=length, num_beams=num_beams)
    for seed in range(3):
        contexts = random_contexts(seed, questions=1, num_docs=3)
        marginal = tiny.marginal(contexts[0], SCORES[0])
        expected = tiny.search(marginal, max_new_tokens=length, num_beams=num_beams, **settings)
        config = GenerationConfig(max_new_tokens=length, num_beams=num_beams, **settings)
        output = tiny.generator.generate_from_contexts(*arrays(contexts, SCORES), config=config)
        assert output.sequences.tolist() == expected.sequences.tolist()
        if num_beams > 1:
            np.testing.assert_allclose(output.scores, expected.sequences_scores.numpy(), atol=1e-4)
        unconstrained = tiny.generator.generate_from_contexts(*arrays(contexts, SCORES), config=free)
        changed += output.sequences.tolist() != unconstrained.sequences.tolist()
    assert changed, "the constraint never mattered"


@pytest.mark.parametrize("num_beams", [1, 3])
def test_bad_words(tiny: TinyRag, num_beams: int) -> None:
    contexts = random_contexts(5, questions=1, num_docs=3)
    given, marginal = arrays(contexts, SCORES), tiny.marginal(contexts[0], SCORES[0])
    config = GenerationConfig(max_new_tokens=10, num_beams=num_beams)
    free = tiny.generator.generate_from_contexts(*given, config=config).sequences[0].tolist()
    for bad in ([free[:1]], [free[:2]], [free[1:2], free[:3]], [free[1:4], [END]]):
        output = tiny.generator.generate_from_contexts(*given, config=config.updated({"bad_words_ids": bad}))
        expected = tiny.search(marginal, max_new_tokens=10, num_beams=num_beams, bad_words_ids=bad)
        assert output.sequences.tolist() == expected.sequences.tolist()
        assert output.sequences[0].tolist() != free


def all_but(*kept: int) -> tuple[tuple[int], ...]:
    return tuple((t,) for t in range(VOCAB) if t not in kept)


def test_fewer_sequences_than_asked_for(tiny: TinyRag) -> None:
    config = GenerationConfig(
        num_beams=4, num_return_sequences=4, max_new_tokens=1, bad_words_ids=all_but(5, 6, END)
    )
    given = arrays(random_contexts(1, questions=1, num_docs=3), SCORES)
    output = tiny.generator.generate_from_contexts(*given, config=config)
    assert sorted(output.sequences[:3, 0].tolist()) == [END, 5, 6]
    assert output.sequences[3].tolist() == [PAD]
    assert np.isfinite(output.scores[:3]).all()
    assert np.isneginf(output.scores[3])
    prior = np.exp(SCORES[0]) / np.exp(SCORES[0]).sum()
    np.testing.assert_allclose(output.doc_posterior[3, 0], prior, atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 0}], ids=str)
def test_constraints_that_leave_nothing(tiny: TinyRag, settings: dict[str, Any]) -> None:
    banned = {"bad_words_ids": all_but(5, 6, END), "no_repeat_ngram_size": 1, "min_length": 6}
    given = arrays(random_contexts(1, questions=1, num_docs=3), SCORES)
    with pytest.raises(GenerationError, match="question 0: the constraints leave no possible next token"):
        tiny.generator.generate_from_contexts(*given, config=GenerationConfig(**banned, **settings))
