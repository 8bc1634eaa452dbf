"""Constraints against transformers' logits processors, on random scores and sequences."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rag_infer import GenerationConfig, marginalise
from rag_infer.generate import candidates
from rag_infer.generate.candidates import NextTokens
from rag_infer.generate.constraints import processors
from rag_infer.generate.head import KernelMarginals
from tests.generate.twins import constrained

VOCAB = 30
EOS = 2


def reference(settings: dict[str, Any]) -> list[Any]:
    from transformers.generation import logits_process as lp

    made: list[Any] = []
    if "repetition_penalty" in settings:
        made.append(lp.RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    if "no_repeat_ngram_size" in settings:
        made.append(lp.NoRepeatNGramLogitsProcessor(settings["no_repeat_ngram_size"]))
    if "bad_words_ids" in settings:
        made.append(lp.NoBadWordsLogitsProcessor(settings["bad_words_ids"], eos_token_id=EOS))
    if "begin_suppress_tokens" in settings:
        made.append(lp.SuppressTokensAtBeginLogitsProcessor(settings["begin_suppress_tokens"], begin_index=0))
    if "min_length" in settings:
        made.append(lp.MinLengthLogitsProcessor(settings["min_length"], EOS))
    return made


@pytest.mark.parametrize(
    "settings",
    [
        {"repetition_penalty": 1.3},
        {"repetition_penalty": 0.7},
        {"begin_suppress_tokens": [4, EOS]},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2},
        {"no_repeat_ngram_size": 3},
        {"bad_words_ids": [[5], [7, 8], [3, 4, 5], [EOS]]},
        {"min_length": 6},
        {
            "no_repeat_ngram_size": 2,
            "repetition_penalty": 1.2,
            "bad_words_ids": [[1], [2, 3]],
            "min_length": 4,
        },
    ],
)
def test_equals_transformers(settings: dict[str, Any]) -> None:
    import torch

    random = np.random.default_rng(5)
    chosen = processors(GenerationConfig(**settings), eos_token_ids=[EOS], vocab_size=VOCAB)
    for length in (1, 2, 3, 5, 8):
        for _ in range(20):
            # A small alphabet, so that n-grams repeat.
            tokens = random.integers(1, 9, size=length)
            scores = np.log(random.dirichlet(np.ones(VOCAB))).astype(np.float32)
            expected = torch.from_numpy(scores[None].copy())
            for process in reference(settings):
                # transformers skips a bad word that is longer than the sequence; its sequences have a start token.
                start = [0] if type(process).__name__ == "NoBadWordsLogitsProcessor" else []
                expected = process(torch.tensor([[*start, *tokens.tolist()]]), expected)
            got = scores.copy()
            for process in chosen:
                process.apply(got, tuple(tokens.tolist()))
            np.testing.assert_allclose(got, expected[0].numpy(), rtol=1e-6)


TOKENS = st.integers(0, 5)  # few, so that n-grams repeat
SETTINGS = st.fixed_dictionaries(
    {"max_new_tokens": st.integers(7, 9)},
    optional={
        "repetition_penalty": st.floats(0.5, 2.0),
        "no_repeat_ngram_size": st.integers(1, 4),
        "bad_words_ids": st.lists(st.lists(TOKENS, min_size=1, max_size=3), max_size=4),
        "min_length": st.integers(0, 6),
        "begin_suppress_tokens": st.lists(TOKENS, max_size=2),
        "forced_bos_token_id": TOKENS,
        "forced_eos_token_id": TOKENS,
    },
)


@given(settings=SETTINGS, tokens=st.lists(TOKENS, max_size=9), begun=st.integers(0, 1), data=st.data())
def test_equals_the_twin(
    settings: dict[str, Any], tokens: list[int], begun: int, data: st.DataObject
) -> None:
    config = GenerationConfig(**settings)
    tokens = [0] * begun + tokens
    drawn = data.draw(st.lists(st.floats(-20, 0, width=32), min_size=8, max_size=8))
    scores = np.array(drawn, dtype=np.float32)
    expected = constrained(scores.tolist(), tokens, config, eos=EOS, begun=begun)
    for process in processors(config, eos_token_ids=[EOS], vocab_size=8, begun=begun):
        process.apply(scores, tuple(tokens))
    np.testing.assert_allclose(scores, np.array(expected, dtype=np.float32), rtol=1e-6)


@given(settings=SETTINGS, data=st.data(), k=st.integers(1, 8))
def test_looking_at_few_tokens_finds_what_looking_at_all_finds(
    settings: dict[str, Any], data: st.DataObject, k: int
) -> None:
    beams = data.draw(st.lists(st.lists(TOKENS, min_size=4, max_size=4), min_size=1, max_size=3))
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    # Whole numbers: scores tie.
    logits = random.integers(-3, 3, size=(2, len(beams), 40)).astype(np.float32)
    priors = np.log(np.array([0.4, 0.6], dtype=np.float32))
    chosen = processors(GenerationConfig(**settings), eos_token_ids=[EOS], vocab_size=40)
    few = NextTokens(KernelMarginals(logits, priors), beams, chosen).best(k)
    with mock.patch.object(candidates, "MANY_TOUCHED", -1):
        scores, tokens = NextTokens(KernelMarginals(logits, priors), beams, chosen).best(k)
    np.testing.assert_array_equal(few[0], scores)
    possible = np.isfinite(scores)
    np.testing.assert_array_equal(few[1][possible], tokens[possible])


def test_a_constraint_with_nothing_to_say_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer is past its shortest length and its suppressed beginning: the kernel's best tokens are the best."""
    chosen = processors(
        GenerationConfig(min_length=2, begin_suppress_tokens=[4], max_length=9),
        eos_token_ids=[EOS],
        vocab_size=40,
    )
    logits = np.random.default_rng(3).normal(size=(2, 1, 40)).astype(np.float32)
    priors = np.log(np.array([0.4, 0.6], dtype=np.float32))
    asked: list[int] = []
    gather = marginalise.token_posterior
    monkeypatch.setattr(marginalise, "token_posterior", lambda *a, **k: asked.append(1) or gather(*a, **k))
    for length, gathers in ((0, 1), (1, 2), (2, 2), (3, 2)):
        found = NextTokens(KernelMarginals(logits, priors), [(5,) * length], chosen).best(4)
        assert len(asked) == gathers
    for part, same in zip(found, marginalise.top_tokens(logits, priors, 4), strict=True):
        np.testing.assert_array_equal(part, same)


def test_forced_tokens() -> None:
    config = GenerationConfig(forced_bos_token_id=4, forced_eos_token_id=EOS, max_new_tokens=3)
    chosen = processors(config, eos_token_ids=[EOS], vocab_size=VOCAB)
    for length, forced in ((0, 4), (1, None), (2, EOS)):
        scores = np.zeros(VOCAB, dtype=np.float32)
        for process in chosen:
            process.apply(scores, (1,) * length)
        expected = list(range(VOCAB)) if forced is None else [forced]
        assert np.flatnonzero(np.isfinite(scores)).tolist() == expected


def test_none_asked_for() -> None:
    assert processors(GenerationConfig(), eos_token_ids=[EOS], vocab_size=VOCAB) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bad_words_ids": [[VOCAB]]}, "bad_words_ids holds token 30, the vocabulary has 30"),
        ({"forced_eos_token_id": -1}, "forced_eos_token_id holds token -1"),
        ({"bad_words_ids": [[i] for i in range(VOCAB)]}, "bans all 30 tokens"),
    ],
)
def test_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        processors(GenerationConfig(**settings), eos_token_ids=[EOS], vocab_size=VOCAB)
