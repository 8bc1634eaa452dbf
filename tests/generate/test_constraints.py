"""Constraints against transformers' logits processors, on random scores and sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rag_infer import GenerationConfig
from rag_infer.generate.constraints import processors

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
            for apply in chosen:
                apply(got, tuple(tokens.tolist()))
            np.testing.assert_allclose(got, expected[0].numpy(), rtol=1e-6)


def test_forced_tokens() -> None:
    config = GenerationConfig(forced_bos_token_id=4, forced_eos_token_id=EOS, max_new_tokens=3)
    chosen = processors(config, eos_token_ids=[EOS], vocab_size=VOCAB)
    for length, forced in ((0, 4), (1, None), (2, EOS)):
        scores = np.zeros(VOCAB, dtype=np.float32)
        for apply in chosen:
            apply(scores, (1,) * length)
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
