"""Randomly drawn questions, contexts and settings, each known by its seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Below it the ids are special tokens of every family.
FIRST_WORD = 6


@dataclass(frozen=True)
class Case:
    """One call of ``generate``.

    Attributes:
        input_ids, attention_mask: int64 ``[questions * n_docs, tokens]``, of unequal length, right-padded.
        doc_scores: float32 ``[questions, n_docs]``.
        settings: by transformers' names.
    """

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]
    doc_scores: NDArray[np.float32]
    settings: dict[str, Any]

    @property
    def n_docs(self) -> int:
        """Passages per question."""
        return int(self.doc_scores.shape[1])


def draw(seed: int, *, vocab_size: int, pad_id: int, eos_id: int) -> Case:
    """The case of a seed."""
    random = np.random.default_rng(seed)
    questions, n_docs = int(random.integers(1, 4)), int(random.integers(1, 9))
    rows, width = questions * n_docs, int(random.integers(2, 25))
    lengths = random.integers(1, width + 1, rows)
    lengths[0] = width
    mask = (np.arange(width) < lengths[:, None]).astype(np.int64)
    # The pad id inside a context would not be attended to in transformers, which guesses the mask from it.
    ids = random.integers(FIRST_WORD, vocab_size - 1, (rows, width))
    scores = random.normal(size=(questions, n_docs)) * random.choice([0.5, 3.0, 10.0])
    if random.random() < 0.15:
        scores[:] = scores[:, :1]  # equal passages
    return Case(
        np.where(mask.astype(bool), ids, pad_id).astype(np.int64),
        mask,
        scores.astype(np.float32),
        _settings(random, vocab_size, eos_id),
    )


def _settings(random: np.random.Generator, vocab_size: int, eos_id: int) -> dict[str, Any]:
    def word() -> int:
        return int(random.integers(FIRST_WORD, vocab_size - 1))

    beams, length = int(random.integers(1, 6)), int(random.integers(3, 16))
    found: dict[str, Any] = {
        "num_beams": beams,
        "max_length": length,
        "num_return_sequences": int(random.integers(1, beams + 1)),
    }
    choices: dict[str, tuple[float, list[Any]]] = {  # how often it is set, and to what
        "min_length": (0.3, list(range(1, length))),
        "length_penalty": (0.4, [0.0, 0.5, 1.5, 2.0, -1.0]),
        "early_stopping": (0.4, [True, False, "never"]),
        "no_repeat_ngram_size": (0.3, [1, 2, 3]),
        "repetition_penalty": (0.2, [0.8, 1.3, 2.0]),
        "bad_words_ids": (0.2, [[[word()], [word()], [word(), word()]]]),
        "forced_bos_token_id": (0.2, [word()]),
        "forced_eos_token_id": (0.3, [eos_id]),
        "begin_suppress_tokens": (0.1, [[word(), word()]]),
    }
    for name, (share, values) in choices.items():
        chosen = values[random.integers(len(values))]
        if random.random() < share:
            found[name] = chosen
    return found
