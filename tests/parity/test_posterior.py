"""What RAG-Token and RAG-Sequence say of the passages, against a direct computation in PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rag_infer import GenerationConfig
from rag_infer.session import Session
from tests.parity.references import Pair
from tests.parity.settings import Case, draw

Double = NDArray[np.float64]


def a_case(model: Any, *, n_docs: int = 3) -> Case:
    """The first drawn case with more than one question and at least this many passages."""
    config = model.config
    ids = {"pad_id": config.pad_token_id, "eos_id": config.eos_token_id}
    drawn = (draw(seed, vocab_size=config.vocab_size, **ids) for seed in range(1000))
    return next(c for c in drawn if len(c.doc_scores) > 1 and c.n_docs >= n_docs)


def per_passage(model: Any, case: Case, question: int, sequence: list[int]) -> tuple[Double, Double]:
    """(log p(z|x) ``[n_docs]``, log p(y_t | x, z, y_<t) ``[n_docs, tokens]``) of a sequence, start token first."""
    rows = slice(question * case.n_docs, (question + 1) * case.n_docs)
    with torch.no_grad():
        logits = model(
            input_ids=torch.from_numpy(case.input_ids[rows]),
            attention_mask=torch.from_numpy(case.attention_mask[rows]),
            decoder_input_ids=torch.tensor([sequence[:-1]] * case.n_docs),
            use_cache=False,
        ).logits
    log_probs = torch.log_softmax(logits.double(), -1)
    chosen = log_probs.gather(2, torch.tensor([sequence[1:]] * case.n_docs)[:, :, None])[:, :, 0]
    prior = torch.log_softmax(torch.from_numpy(case.doc_scores[question]).double(), 0)
    return prior.numpy(), chosen.numpy()


def length(row: NDArray[np.int64], model: Any) -> int:
    """Tokens of a returned row up to its end of text."""
    ends = np.flatnonzero(row[1:] == model.config.eos_token_id)
    return int(ends[0]) + 2 if ends.size else len(row)


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_rag_token(pair: Callable[[str, int], Pair], family: str) -> None:
    model, generator = pair(family, 0)
    case = a_case(model)
    output = generator.generate_from_contexts(
        case.input_ids,
        case.attention_mask,
        case.doc_scores,
        config=GenerationConfig(num_beams=3, max_length=8),
    )
    assert output.doc_posterior.shape == (*output.sequences.shape, case.n_docs)
    assert np.allclose(output.doc_posterior.sum(axis=2), 1, atol=1e-5)
    for question, row in enumerate(output.sequences):
        end = length(row, model)
        prior, chosen = per_passage(model, case, question, row[:end].tolist())
        joint = np.exp(prior[:, None] + chosen)
        wanted = (joint / joint.sum(axis=0)).T
        assert np.allclose(output.doc_posterior[question, 0], np.exp(prior), atol=1e-5)
        assert np.allclose(output.doc_posterior[question, 1:end], wanted, atol=1e-4)


@pytest.mark.parametrize("strategy", ["rag-sequence", "rag-sequence-fast"])
def test_rag_sequence(pair: Callable[[str, int], Pair], strategy: str) -> None:
    model, generator = pair("bart", 1)
    case = a_case(model)
    output = generator.generate_from_contexts(
        case.input_ids,
        case.attention_mask,
        case.doc_scores,
        config=GenerationConfig(strategy=strategy, num_beams=3, num_return_sequences=2, max_length=8),
    )
    questions = len(case.doc_scores)
    assert output.doc_posterior.shape == (questions * 2, case.n_docs)
    assert np.allclose(output.doc_posterior.sum(axis=1), 1, atol=1e-5)
    assert (np.diff(output.scores.reshape(questions, 2), axis=1) <= 0).all()
    for i, row in enumerate(output.sequences):
        sequence = row[: length(row, model)].tolist()
        prior, chosen = per_passage(model, case, i // 2, sequence)
        joint = prior + chosen.sum(axis=1)
        if strategy == "rag-sequence-fast":  # zero under the passages whose search did not find it
            found = output.doc_posterior[i] > 0
            assert found.any()
            joint = np.where(found, joint, -np.inf)
        total = np.logaddexp.reduce(joint)
        assert output.scores[i] == pytest.approx(total, abs=1e-3)
        assert np.allclose(output.doc_posterior[i], np.exp(joint - total), atol=1e-4)


def test_a_passage_of_weight_zero_says_nothing(pair: Callable[[str, int], Pair]) -> None:
    model, generator = pair("bart", 0)
    case = a_case(model)
    scores = case.doc_scores.copy()
    scores[:, -1] = -np.inf
    rows = np.arange(len(case.input_ids)).reshape(-1, case.n_docs)[:, :-1].ravel()
    for strategy in ("rag-token", "rag-sequence", "rag-sequence-fast"):
        config = GenerationConfig(
            strategy=strategy,
            num_beams=2,
            num_return_sequences=1 if strategy == "rag-token" else 9,
            max_length=8,
        )
        with_it = generator.generate_from_contexts(case.input_ids, case.attention_mask, scores, config=config)
        without = generator.generate_from_contexts(
            case.input_ids[rows], case.attention_mask[rows], scores[:, :-1].copy(), config=config
        )
        assert (with_it.doc_posterior[..., -1] == 0).all()
        assert np.array_equal(with_it.sequences, without.sequences)


def test_batches_and_lengths_change_nothing(pair: Callable[[str, int], Pair]) -> None:
    model, generator = pair("bart", 0)
    case = a_case(model)
    for strategy in ("rag-token", "rag-sequence"):
        config = GenerationConfig(strategy=strategy, num_beams=3, max_length=9)
        together = generator.generate_from_contexts(
            case.input_ids, case.attention_mask, case.doc_scores, config=config
        )
        for i in range(len(case.doc_scores)):
            rows = slice(i * case.n_docs, (i + 1) * case.n_docs)
            alone = generator.generate_from_contexts(
                case.input_ids[rows], case.attention_mask[rows], case.doc_scores[i : i + 1], config=config
            )
            end = length(alone.sequences[0], model)
            assert together.sequences[i, :end].tolist() == alone.sequences[0, :end].tolist()
            assert together.scores[i] == pytest.approx(alone.scores[0], abs=1e-4)


def test_contexts_are_read_once(pair: Callable[[str, int], Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    """5 passages and 4 beams: 5 contexts encoded; transformers encodes 105 (5, and 5 for each of 20)."""
    model, generator = pair("bart", 0)
    read: list[int] = []
    run = Session.run

    def counted(self: Session, inputs: Any, *arguments: Any, **settings: Any) -> Any:
        if self.path.name == "encoder.onnx":
            read.append(len(inputs["input_ids"]))
        return run(self, inputs, *arguments, **settings)

    monkeypatch.setattr(Session, "run", counted)
    rows = np.full((5, 6), 20, dtype=np.int64) + np.arange(5)[:, None]
    output = generator.generate_from_contexts(
        rows,
        np.ones_like(rows),
        np.zeros((1, 5), dtype=np.float32),
        config=GenerationConfig(strategy="rag-sequence", num_beams=4, max_length=8),
    )
    assert model.config.vocab_size > output.sequences.max()
    assert sum(read) == 5
