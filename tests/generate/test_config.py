"""Settings: unknown names and values that cannot be meant are errors that name them."""

from __future__ import annotations

from typing import Any

import pytest

from rag_infer import GenerationConfig


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "rag"}, "unknown strategy 'rag'"),
        ({"num_beams": 0}, "num_beams must be at least 1, got 0"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"max_new_tokens": -1}, "max_new_tokens must be at least 1, got -1"),
        ({"num_return_sequences": 2}, "num_return_sequences=2 is above num_beams=1"),
        ({"min_length": 40}, "min_length=40 is above the maximum of 32"),
        ({"temperature": 0.0}, "temperature must be above 0"),
        ({"temperature": float("inf")}, "temperature must be above 0 and finite"),
        ({"length_penalty": float("nan")}, "length_penalty must be at most 50"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"top_k": -1}, "top_k must be at least 0, got -1"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0"),
        ({"early_stopping": "sometimes"}, "early_stopping must be"),
        ({"do_sample": True, "num_beams": 2}, "do_sample=True with num_beams=2"),
        ({"bad_words_ids": [[]]}, "empty sequence"),
        ({"stop_strings": [""]}, "empty string"),
    ],
)
def test_refuses(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GenerationConfig(**settings)


def test_unknown_name() -> None:
    with pytest.raises(TypeError, match="num_beam"):
        GenerationConfig(num_beam=2)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unknown generation setting 'num_beam'"):
        GenerationConfig().updated({"num_beam": 2})


def test_a_string_is_no_list_of_stop_strings() -> None:
    with pytest.raises(TypeError, match="stop_strings must be a sequence"):
        GenerationConfig(stop_strings="\n")  # type: ignore[arg-type]


def test_lists_become_tuples() -> None:
    config = GenerationConfig(bad_words_ids=[[1, 2]], stop_strings=["."])  # type: ignore[arg-type]
    assert config.bad_words_ids == ((1, 2),)
    assert config.stop_strings == (".",)


def test_max_new_tokens_goes_before_max_length() -> None:
    assert GenerationConfig(max_length=7).max_tokens == 7
    assert GenerationConfig(max_length=7, max_new_tokens=9).max_tokens == 9
