"""MiniLM and SmolLM2 in the demo's bundle, against transformers on the same weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rag_infer.bundle import Bundle
from rag_infer.compose import CausalComposer
from rag_infer.encode import TextEncoder
from rag_infer.export.sample_questions import SAMPLES
from rag_infer.generator import Generator
from rag_infer.text import Tokenizer

pytestmark = [pytest.mark.real_model, pytest.mark.slow]

TOKENS = 20


def test_minilm_vectors(demo_bundle: Path, minilm_folder: Path, wiki_summaries: Path) -> None:
    articles = list(json.loads(wiki_summaries.read_text(encoding="utf-8")).values())[::500]
    texts = [f"{a['title']}. {a['extract']}" for a in articles] + [
        "Who built the Eiffel Tower?",
        "",
        "x " * 2000,
    ]
    bundle = Bundle.load(demo_bundle, check="size")
    part = bundle.manifest.question_encoder
    assert part is not None
    found = TextEncoder.from_bundle(bundle, part).encode(texts).astype(np.float64)
    # sentence-transformers' recipe: mean of the tokens under the mask, then length 1.
    tokenizer, model = AutoTokenizer.from_pretrained(minilm_folder), AutoModel.from_pretrained(minilm_folder)
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=part.max_length, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    wanted = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1)).numpy().astype(np.float64)
    cosine = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert len(texts) > 20
    assert (1 - cosine).max() < 1e-5


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Any:
    """As transformers itself reads the file."""
    return AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32
    ).eval()


@pytest.fixture(scope="module")
def generator(demo_bundle: Path) -> Generator:
    return Generator.from_pretrained(demo_bundle)


@pytest.fixture(scope="module")
def prompts(demo_bundle: Path) -> list[list[int]]:
    """Whole prompts of three sample questions."""
    bundle = Bundle.load(demo_bundle, check="size")
    part = bundle.manifest.generator
    assert part is not None
    composer = CausalComposer(Tokenizer(bundle.file(part, "tokenizer.json")), part)
    contexts = [composer.compose(s.question, [(s.title, s.text)])[0] for s in SAMPLES[::7]]
    return [[*composer.preamble_ids, *c.passage_ids, *c.question_ids] for c in contexts]


def batch(prompts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    width = max(map(len, prompts))
    ids = np.array([p + [0] * (width - len(p)) for p in prompts], dtype=np.int64)
    mask = np.array([[1] * len(p) + [0] * (width - len(p)) for p in prompts], dtype=np.int64)
    return ids, mask


def test_smollm2_logits(generator: Generator, smollm2: Any, prompts: list[list[int]]) -> None:
    answer = generator.tokenizer.encode(" the Black Sea, and so on.")
    found = generator._model.decoder.teacher_force(prompts, answer)
    for row, prompt in enumerate(prompts):
        with torch.no_grad():
            wanted = smollm2(torch.tensor([[*prompt, *answer[:-1]]])).logits[0, len(prompt) - 1 :].numpy()
        np.testing.assert_allclose(found[row], wanted, atol=1e-5 * np.abs(wanted).max())


def test_smollm2_greedy_tokens(generator: Generator, smollm2: Any, prompts: list[list[int]]) -> None:
    ids, mask = batch(prompts)
    config = generator.defaults.updated(
        {"max_new_tokens": TOKENS, "stop_strings": (), "begin_suppress_tokens": ()}
    )
    scores = np.zeros((len(prompts), 1), dtype=np.float32)
    output = generator.generate_from_contexts(ids, mask, scores, config=config)
    settings = GenerationConfig(max_new_tokens=TOKENS, do_sample=False, eos_token_id=2, pad_token_id=2)
    for row, prompt in zip(output.sequences, prompts, strict=True):
        start = torch.tensor([prompt])
        wanted = smollm2.generate(start, attention_mask=torch.ones_like(start), generation_config=settings)
        new = wanted[0, len(prompt) :].tolist()
        assert row.tolist() == new + [2] * (len(row) - len(new))


def test_rag_token_over_real_passages(generator: Generator, smollm2: Any) -> None:
    """Lewis et al. 2020, section 2.1: p(y_t | x, y_<t) = sum over z of p(z | x) p(y_t | x, z, y_<t)."""
    sample = SAMPLES[3]
    passages = [(s.title, s.text) for s in (SAMPLES[2], SAMPLES[10], SAMPLES[16])]
    composer = generator.composer
    contexts = composer.compose(sample.question, passages)
    scores = np.array([[3.0, 1.0, 2.0]], dtype=np.float32)
    rows = [[*composer.preamble_ids, *c.passage_ids, *c.question_ids] for c in contexts]
    config = generator.defaults.updated(
        {"max_new_tokens": 6, "stop_strings": (), "begin_suppress_tokens": ()}
    )
    output = generator.generate_from_contexts(*batch(rows), scores, config=config)
    priors = torch.log_softmax(torch.tensor(scores[0]).double(), dim=0)
    answer: list[int] = []
    total = 0.0
    for token in output.sequences[0].tolist():
        with torch.no_grad():
            logits = torch.stack([smollm2(torch.tensor([[*r, *answer]])).logits[0, -1] for r in rows])
        marginal = torch.logsumexp(priors[:, None] + torch.log_softmax(logits.double(), dim=1), dim=0)
        assert token == int(marginal.argmax())
        total += float(marginal[token])
        answer.append(token)
    assert output.scores[0] == pytest.approx(total, abs=1e-3)
