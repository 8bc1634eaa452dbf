"""`Generator.score` gives the losses of transformers' RAG classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.parity.references import Pair, loss
from tests.parity.settings import FIRST_WORD, draw

SETTINGS: list[tuple[str, dict[str, Any]]] = [
    (strategy, settings)
    for strategy, variants in {
        "rag-token": [{}, {"epsilon": 0.1}, {"reduce_loss": True}],
        "rag-sequence": [
            {},
            {"epsilon": 0.1},
            {"reduce_loss": True, "epsilon": 0.3},
            {"exclude_bos_score": True},
        ],
    }.items()
    for settings in variants
]


@pytest.mark.parametrize("family", ["bart", "t5", "mbart", "pegasus", "marian"])
@pytest.mark.parametrize(("strategy", "settings"), SETTINGS)
def test_loss(pair: Callable[[str, int], Pair], family: str, strategy: str, settings: dict[str, Any]) -> None:
    model, generator = pair(family, 0)
    config = model.config
    for seed in range(4):
        case = draw(
            seed, vocab_size=config.vocab_size, pad_id=config.pad_token_id, eos_id=config.eos_token_id
        )
        random = np.random.default_rng(seed)
        questions = len(case.doc_scores)
        # At least two tokens: from answers of one transformers loses the prior (test_short_answers).
        lengths = random.integers(3, 9, questions)
        labels = random.integers(FIRST_WORD, config.vocab_size - 1, (questions, 9))
        labels[:, 0] = config.decoder_start_token_id
        if config.bos_token_id is not None:
            labels[:, 1] = config.bos_token_id
        padded = np.where(np.arange(9) < lengths[:, None], labels, config.pad_token_id).astype(np.int64)
        wanted = loss(model, strategy, case, padded, **settings)
        ours = np.where(padded == config.pad_token_id, -100, padded)
        ours[:, 0] = config.decoder_start_token_id
        found = generator.score(
            case.input_ids, case.attention_mask, case.doc_scores, ours, strategy=strategy, **settings
        )
        assert found.shape == wanted.shape
        assert np.allclose(found, wanted, atol=1e-4, rtol=1e-5), (seed, found, wanted)


def test_short_answers(pair: Callable[[str, int], Pair]) -> None:
    model, generator = pair("bart", 0)
    config = model.config
    ids = {"pad_id": config.pad_token_id, "eos_id": config.eos_token_id}
    drawn = (draw(seed, vocab_size=config.vocab_size, **ids) for seed in range(100))
    case = next(case for case in drawn if case.n_docs > 2)
    questions = len(case.doc_scores)
    labels = np.tile(np.array([[config.decoder_start_token_id, 30]]), (questions, 1))
    arrays = (case.input_ids, case.attention_mask, case.doc_scores, labels)
    like_transformers = generator.score(*arrays, strategy="rag-sequence", compat="transformers-4.57")
    assert np.allclose(like_transformers, loss(model, "rag-sequence", case, labels), atol=1e-4, rtol=1e-5)
    # With one token both strategies are the same sum; transformers leaves the prior out of it.
    right = generator.score(*arrays, strategy="rag-sequence")
    assert np.allclose(right, generator.score(*arrays, strategy="rag-token"), atol=1e-4, rtol=1e-5)
    assert not np.allclose(right, like_transformers, atol=1e-2)
