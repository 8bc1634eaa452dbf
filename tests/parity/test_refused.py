"""Wrong input to an encoder-decoder gets a typed error that names the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rag_infer import GenerationConfig
from rag_infer.errors import GenerationError
from tests.parity.references import Pair


def arrays(**changes: Any) -> dict[str, Any]:
    """One question with two passages."""
    ids = np.full((2, 4), 20, dtype=np.int64)
    given = {
        "context_input_ids": ids,
        "context_attention_mask": np.ones_like(ids),
        "doc_scores": np.zeros((1, 2), dtype=np.float32),
    }
    return {**given, **changes}


MASKED = np.array([[1, 1, 1, 1], [0, 0, 0, 0]])
BAD_ARRAYS: list[tuple[dict[str, Any], str]] = [
    ({"context_attention_mask": MASKED}, "context 1 has no attended token"),
    ({"doc_scores": np.array([[0.0, np.nan]], dtype=np.float32)}, "NaN"),
    ({"doc_scores": np.zeros((2, 2), dtype=np.float32)}, r"\[4, any\]"),
    ({"context_input_ids": np.full((2, 4), 96)}, "token id 96 is outside the vocabulary of 96"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_ARRAYS)
def test_arrays(pair: Callable[[str, int], Pair], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair("bart", 0).generator.generate_from_contexts(**arrays(**changes))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 1}, "max_length=1 leaves no room"),
        ({"max_length": 65}, "65 tokens is above the model's 64 positions"),
        ({"max_new_tokens": 64}, "65 tokens is above the model's 64 positions"),
        ({"bad_words_ids": [[i] for i in range(96)]}, "bans all 96 tokens"),
        ({"forced_bos_token_id": 96}, "token 96, the vocabulary has 96"),
    ],
)
def test_settings(pair: Callable[[str, int], Pair], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair("bart", 0).generator.generate_from_contexts(**arrays(), config=GenerationConfig(**settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences=3 is above num_beams=2"),
        ({"min_length": 9, "max_length": 5}, "min_length=9 is above"),
        ({"strategy": "rag"}, "unknown strategy 'rag'"),
        ({"compat": "transformers-3"}, "unknown compat 'transformers-3'"),
    ],
)
def test_contradictions(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationConfig(**settings)


def test_labels(pair: Callable[[str, int], Pair]) -> None:
    generator = pair("bart", 0).generator
    with pytest.raises(ValueError, match="token id 96 is outside the vocabulary of 96"):
        generator.score(**arrays(), labels=np.array([[2, 96]]))
    with pytest.raises(ValueError, match="no token to score"):
        generator.score(**arrays(), labels=np.array([[2, -100]]))
    with pytest.raises(ValueError, match="epsilon must be between 0 and 1, got 2"):
        generator.score(**arrays(), labels=np.array([[2, 7]]), epsilon=2.0)


def test_a_context_beyond_the_positions(pair: Callable[[str, int], Pair]) -> None:
    ids = np.full((2, 65), 20, dtype=np.int64)
    with pytest.raises(GenerationError, match="65 tokens is above the model's 64 positions"):
        pair("bart", 0).generator.generate_from_contexts(
            **arrays(context_input_ids=ids, context_attention_mask=np.ones_like(ids))
        )


def test_sampling_is_repeatable(pair: Callable[[str, int], Pair]) -> None:
    generator = pair("t5", 0).generator
    for strategy in ("rag-token", "rag-sequence"):
        config = GenerationConfig(strategy=strategy, do_sample=True, seed=7, max_length=12)
        first, second = (generator.generate_from_contexts(**arrays(), config=config) for _ in range(2))
        assert np.array_equal(first.sequences, second.sequences)
        other = [
            generator.generate_from_contexts(**arrays(), config=config.updated({"seed": seed})).sequences
            for seed in range(8, 12)
        ]
        assert any(o.shape != first.sequences.shape or (o != first.sequences).any() for o in other)


def test_the_shortest_may_be_the_longest(pair: Callable[[str, int], Pair]) -> None:
    """As in transformers, both counted with the start token."""
    config = GenerationConfig(min_length=9, max_length=9)
    output = pair("bart", 0).generator.generate_from_contexts(**arrays(), config=config)
    assert output.sequences.shape == (1, 9)
    with pytest.raises(ValueError, match="min_length=21 is above the maximum of 20 tokens"):
        pair("bart", 0).generator.generate_from_contexts(**arrays(), config=GenerationConfig(min_length=21))


def test_none_is_no_number() -> None:
    with pytest.raises(TypeError, match="num_beams must be a whole number, got None"):
        GenerationConfig(num_beams=None)  # type: ignore[arg-type]
    assert GenerationConfig(top_k=None).top_k == 0  # type: ignore[arg-type]
