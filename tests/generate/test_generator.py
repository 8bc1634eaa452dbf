"""The generator's other promises: scores of given answers, constraints and sampling on the marginal, bad arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rag_infer import GenerationConfig
from rag_infer.errors import GenerationError
from tests.generate.conftest import (
    END,
    MAX_POSITIONS,
    PAD,
    VOCAB,
    Arrays,
    MarginalLlama,
    TinyRag,
    arrays,
    random_contexts,
)

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


def bad_arrays() -> dict[str, tuple[dict[str, Any], type[Exception], str]]:
    """Name: (arrays to put in place of good ones of 2 questions, 3 passages, 7 tokens; the error; its message)."""
    ids, mask = np.full((6, 7), 5, dtype=np.int64), np.ones((6, 7), dtype=np.int64)
    scores = np.zeros((2, 3), dtype=np.float32)

    def changed(array: Any, at: Any, value: float) -> Any:
        array = array.copy()
        array[at] = value
        return array

    return {
        "ids int32": ({"ids": ids.astype(np.int32)}, TypeError, "int64, got int32"),
        "mask bool": ({"mask": mask.astype(bool)}, TypeError, "int64, got bool"),
        "scores float64": ({"scores": scores.astype(float)}, TypeError, "float32, got float64"),
        "ids a list": ({"ids": ids.tolist()}, TypeError, "numpy array, got list"),
        "ids flat": ({"ids": ids[0]}, ValueError, r"\[6, any\], got \[7\]"),
        "too few rows": ({"ids": ids[:5], "mask": mask[:5]}, ValueError, r"\[6, any\], got \[5, 7\]"),
        "mask narrower": ({"mask": mask[:, :6]}, ValueError, r"\[6, 7\], got \[6, 6\]"),
        "scores flat": ({"scores": scores[0]}, ValueError, r"\[any, any\], got \[3\]"),
        "no question": ({"scores": scores[:0]}, ValueError, r"\[0, 3\]"),
        "no passage": ({"scores": scores[:, :0]}, ValueError, r"\[2, 0\]"),
        "no token": ({"mask": changed(mask, 4, 0)}, ValueError, "context 4"),
        "left padding": ({"mask": changed(mask, (3, 0), 0)}, ValueError, "context 3"),
        "mask of 2": ({"mask": changed(mask, (3, 0), 2)}, ValueError, "2"),
        "NaN": ({"scores": changed(scores, (1, 2), np.nan)}, ValueError, "nan"),
        "plus infinity": ({"scores": changed(scores, (1, 2), np.inf)}, ValueError, "inf"),
        "hopeless": ({"scores": changed(scores, 1, -np.inf)}, ValueError, "question 1"),
        "id too large": (
            {"ids": changed(ids, (2, 1), VOCAB)},
            ValueError,
            "context 2: token id 300 .* of 300",
        ),
        "id negative": ({"ids": changed(ids, (2, 1), -1)}, ValueError, "context 2: token id -1 "),
    }


@pytest.mark.parametrize("name", bad_arrays())
def test_bad_arrays(tiny: TinyRag, name: str) -> None:
    changes, error, message = bad_arrays()[name]
    good = {
        "ids": np.full((6, 7), 5),
        "mask": np.ones((6, 7), np.int64),
        "scores": np.zeros((2, 3), np.float32),
    }
    given = list({**good, **changes}.values())
    with pytest.raises(error, match=message):
        tiny.generator.generate_from_contexts(*given)
    with pytest.raises(error, match=message):
        tiny.generator.score(*given, np.array([[5], [6]]))


def test_what_is_padding_does_not_count(tiny: TinyRag) -> None:
    ids, mask, scores = arrays(random_contexts(1, questions=1, num_docs=3), SCORES)
    expected = tiny.generator.generate_from_contexts(ids, mask, scores)
    ids = np.where(mask == 1, ids, -100)
    assert (
        tiny.generator.generate_from_contexts(ids, mask, scores).sequences.tolist()
        == expected.sequences.tolist()
    )


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (np.array([[5.0]]), TypeError, "labels must be int64, got float64"),
        (np.array([5]), ValueError, r"\[1, any\], got \[1\]"),
        (np.array([[5], [6]]), ValueError, r"\[1, any\], got \[2, 1\]"),
        (np.array([[-100, -100]]), ValueError, "question 0 hold no token"),
        (np.array([[5, 300]]), ValueError, "token id 300 is outside the vocabulary of 300"),
        (np.array([[5, -1]]), ValueError, "token id -1"),
        (np.array([[5, -100, 6]]), ValueError, "question 0"),
    ],
)
def test_bad_labels(tiny: TinyRag, labels: Any, error: type[Exception], message: str) -> None:
    given = arrays(random_contexts(0, questions=1, num_docs=3), SCORES)
    with pytest.raises(error, match=message):
        tiny.generator.score(*given, labels)


def long_context(length: int) -> Arrays:
    return np.full((1, length), 5), np.ones((1, length), dtype=np.int64), np.zeros((1, 1), dtype=np.float32)


def test_contexts_longer_than_the_positions(tiny: TinyRag) -> None:
    with pytest.raises(GenerationError, match=f"{MAX_POSITIONS + 1} tokens .* {MAX_POSITIONS} positions"):
        tiny.generator.generate_from_contexts(*long_context(MAX_POSITIONS + 1))
    last = tiny.generator.generate_from_contexts(
        *long_context(MAX_POSITIONS - 1), config=GenerationConfig(max_new_tokens=1)
    )
    assert PAD not in last.sequences


def test_answers_longer_than_the_positions(tiny: TinyRag) -> None:
    given = long_context(MAX_POSITIONS - 4)
    config = GenerationConfig(max_new_tokens=30, min_length=30)
    with pytest.raises(GenerationError, match=f"{MAX_POSITIONS} positions"):
        tiny.generator.generate_from_contexts(*given, config=config)
    with pytest.raises(GenerationError, match=f"{MAX_POSITIONS} positions"):
        tiny.generator.score(*given, np.full((1, 30), 7))
