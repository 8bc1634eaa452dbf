"""Checks of arrays that callers hand in: refused with the numbers, never converted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

IGNORED_LABEL = -100


def check_array(name: str, array: object, dtype: type[np.generic], shape: tuple[int | None, ...]) -> None:
    """Refuse anything but an array of this dtype and shape; None allows any length.

    Raises:
        TypeError: not an array, or of another dtype.
        ValueError: of another shape.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name} must be a numpy array, got {type(array).__name__}")
    if array.dtype != dtype:
        raise TypeError(f"{name} must be {np.dtype(dtype).name}, got {array.dtype.name}")
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} must have the shape [{wanted}], got {list(array.shape)}")


def check_contexts(
    input_ids: NDArray[Any], attention_mask: NDArray[Any], doc_scores: NDArray[Any], *, vocab_size: int
) -> list[tuple[int, ...]]:
    """The attended tokens of each context, as `Generator.generate_from_contexts` takes them.

    Raises:
        TypeError: a wrong dtype.
        ValueError: a wrong shape, no question or no passage, a mask that is not ones and then zeros, a token outside
            the vocabulary, a score that is NaN or plus infinity, a question whose passages all have weight zero.
    """
    count = check_scores(doc_scores)
    check_array("context_input_ids", input_ids, np.int64, (count, None))
    check_array("context_attention_mask", attention_mask, np.int64, input_ids.shape)
    rows = []
    for i, (ids, mask) in enumerate(zip(input_ids, attention_mask, strict=True)):
        length = int(np.count_nonzero(mask))
        if length == 0:
            raise ValueError(f"context {i} has no attended token")
        if (mask[:length] != 1).any():
            raise ValueError(
                f"the mask of context {i} must be ones and then zeros (right-padded), got {mask.tolist()}"
            )
        row = ids[:length]
        _check_vocabulary(f"context {i}", row, vocab_size)
        rows.append(tuple(row.tolist()))
    return rows


def check_scores(doc_scores: NDArray[Any]) -> int:
    """How many contexts there are: one for each score.

    Raises:
        TypeError, ValueError: as `check_contexts`, of the scores.
    """
    check_array("doc_scores", doc_scores, np.float32, (None, None))
    if doc_scores.size == 0:
        raise ValueError(
            f"doc_scores must name at least one question and one passage, got shape {list(doc_scores.shape)}"
        )
    if np.isnan(doc_scores).any() or np.isposinf(doc_scores).any():
        raise ValueError(f"doc_scores must not be NaN or plus infinity, got {doc_scores.tolist()}")
    hopeless = np.flatnonzero(np.isneginf(doc_scores).all(axis=1))
    if hopeless.size:
        raise ValueError(
            f"all passages of question {hopeless[0]} have weight zero (scores of minus infinity)"
        )
    return int(doc_scores.size)


def check_labels(labels: NDArray[Any], *, questions: int, vocab_size: int) -> list[tuple[int, ...]]:
    """The answers to score, without their padding of -100.

    Raises:
        TypeError, ValueError: as `check_contexts`; an answer without tokens, or padded before its end.
    """
    check_array("labels", labels, np.int64, (questions, None))
    rows = []
    for i, label in enumerate(labels):
        length = int(np.count_nonzero(label != IGNORED_LABEL))
        row = label[:length]
        if length == 0:
            raise ValueError(f"labels of question {i} hold no token")
        if (row == IGNORED_LABEL).any():
            raise ValueError(
                f"labels of question {i} must be right-padded with {IGNORED_LABEL}, got {label.tolist()}"
            )
        _check_vocabulary(f"labels of question {i}", row, vocab_size)
        rows.append(tuple(row.tolist()))
    return rows


def _check_vocabulary(name: str, row: NDArray[np.int64], vocab_size: int) -> None:
    if row.min() < 0 or row.max() >= vocab_size:
        bad = int(row[(row < 0) | (row >= vocab_size)][0])
        raise ValueError(f"{name}: token id {bad} is outside the vocabulary of {vocab_size}")
