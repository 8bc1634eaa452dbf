"""Arrays that are refused, and limits that are told."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rag_infer import GenerationConfig, Generator
from rag_infer.errors import GenerationError
from tests.generate.conftest import MAX_POSITIONS, Arrays, TinyRag, arrays, random_contexts
from tests.tiny_llama import PAD, VOCAB

SCORES = [[0.4, 1.1, -0.6]]


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


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (-1, ValueError, "passage_cache_mb must be at least 0, got -1"),
        (1.5, TypeError, "passage_cache_mb must be a whole number, got 1.5"),
        (True, TypeError, "passage_cache_mb must be a whole number, got True"),
    ],
)
def test_bad_sizes_of_the_passage_cache(
    tiny: TinyRag, size: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Generator.from_pretrained(tiny.folder, passage_cache_mb=size)
