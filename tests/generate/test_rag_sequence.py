"""RAG-Sequence over a decoder-only generator, against the formula in PyTorch.

log p(y|x) = log sum_z p(z|x) prod_t p(y_t | x, z, y_<t)   (Lewis et al. 2020, section 2.1)
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rag_infer import GenerationConfig
from tests.generate.conftest import MarginalLlama, TinyRag, arrays, random_contexts
from tests.tiny_llama import END

LENGTH = 8


def joint(marginal: MarginalLlama, tokens: list[int]) -> torch.Tensor:
    """Log p(z|x) p(y|x,z), float64 ``[docs]``."""
    total = marginal.log_priors.double().clone()
    for i, token in enumerate(tokens):
        total += marginal.per_document(torch.tensor([tokens[:i]], dtype=torch.int64))[:, 0, token]
    return total


def greedy_of(marginal: MarginalLlama, document: int) -> list[int]:
    """A passage's own best answer."""
    tokens: list[int] = []
    while len(tokens) < LENGTH and END not in tokens:
        log_probs = marginal.per_document(torch.tensor([tokens], dtype=torch.int64))[document, 0]
        tokens.append(int(log_probs.argmax()))
    return tokens


@pytest.mark.parametrize("seed", range(4))
def test_thorough(tiny: TinyRag, seed: int) -> None:
    contexts = random_contexts(seed, questions=2, num_docs=3)
    scores = np.random.default_rng(seed).normal(scale=2, size=(2, 3)).astype(np.float32)
    config = GenerationConfig(strategy="rag-sequence", max_new_tokens=LENGTH)
    output = tiny.generator.generate_from_contexts(*arrays(contexts, scores), config=config)
    for i in range(2):
        marginal = tiny.marginal(contexts[i], scores[i].tolist())
        candidates = [greedy_of(marginal, z) for z in range(3)]
        joints = [joint(marginal, c) for c in candidates]
        totals = [float(torch.logsumexp(j, 0)) for j in joints]
        best = int(np.argmax(totals))
        found = output.sequences[i, : len(candidates[best])].tolist()
        assert found == candidates[best]
        assert output.scores[i] == pytest.approx(totals[best], abs=1e-4)
        wanted = torch.softmax(joints[best], 0).numpy()
        np.testing.assert_allclose(output.doc_posterior[i], wanted, atol=1e-5)


def test_prompts_are_read_once_more_and_no_more(tiny: TinyRag, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many answers are scored."""
    contexts = random_contexts(1, questions=1, num_docs=3)
    scores = np.zeros((1, 3), dtype=np.float32)
    decoder = type(tiny.generator._model.decoder)
    read = []
    prefill = decoder.prefill

    def counted(self: object, preamble: object, pieces: list[list[object]], **settings: object) -> object:
        read.append(len(pieces[0]))
        return prefill(self, preamble, pieces, **settings)  # type: ignore[attr-defined]

    monkeypatch.setattr(decoder, "prefill", counted)
    config = GenerationConfig(strategy="rag-sequence", num_beams=4, max_new_tokens=LENGTH)
    tiny.generator.generate_from_contexts(*arrays(contexts, scores), config=config)
    assert read == [3, 3]
