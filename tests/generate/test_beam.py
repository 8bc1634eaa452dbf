"""Greedy and beam search against transformers' own, on a small random model and one passage.

With one passage the marginal is the model itself, so transformers' generate is the reference for the search alone.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from rag_infer import GenerationConfig
from rag_infer.generate.candidates import NextTokens
from rag_infer.generate.constraints import processors
from rag_infer.generate.head import KernelMarginals
from rag_infer.generate.rag_token import new_search
from rag_infer.generate.search import Search

VOCAB = 40
EOS = [2, 3]
# Not 0: transformers takes a pad id of 0 for none, and fills with the end of text.
PAD = 1
PROMPT = [5, 9, 17, 4]
SCORE_TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    torch.manual_seed(11)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.5,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=EOS,
    )
    return LlamaForCausalLM(config).eval()


def drive(search: Search, model: LlamaForCausalLM, config: GenerationConfig) -> None:
    """Feed a search with the model's logits until it is done."""
    constraints = processors(config, eos_token_ids=EOS, vocab_size=VOCAB)
    priors = np.zeros(1, dtype=np.float32)
    while not search.done:
        sequences: Sequence[Sequence[int]] = [h.tokens for h in search.running] or [()]
        with torch.no_grad():
            logits = model(torch.tensor([[*PROMPT, *s] for s in sequences])).logits[:, -1].contiguous()
        search.advance(NextTokens(KernelMarginals(logits.numpy()[None], priors), sequences, constraints))


def settings_of(seed: int) -> dict[str, Any]:
    choice = random.Random(seed)
    beams = choice.choice([1, 1, 2, 3, 4, 5])
    return {
        "num_beams": beams,
        "num_return_sequences": choice.randint(1, beams),
        "max_new_tokens": choice.choice([1, 2, 5, 9, 16]),
        "length_penalty": choice.choice([1.0, 1.0, 0.0, 2.0, -1.0]) if beams > 1 else 1.0,
        "early_stopping": choice.choice([True, False, "never"]) if beams > 1 else False,
    }


@pytest.mark.filterwarnings("ignore:.*early_stopping.*:UserWarning")
@pytest.mark.parametrize("seed", range(60))
def test_equals_transformers(model: LlamaForCausalLM, seed: int) -> None:
    settings = settings_of(seed)
    config = GenerationConfig(**settings)
    search = new_search(config, lambda tokens: tokens[-1] in EOS, num_eos=len(EOS))
    drive(search, model, config)
    with torch.no_grad():
        expected = model.generate(
            torch.tensor([PROMPT]),
            attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
            do_sample=False,
            return_dict_in_generate=True,
            output_scores=True,
            **settings,
        )
    rows = expected.sequences[:, len(PROMPT) :].tolist()
    found = search.results()
    padded = [list(f.hypothesis.tokens) + [PAD] * (len(rows[0]) - len(f.hypothesis.tokens)) for f in found]
    assert padded == rows, f"settings {settings}"
    if settings["num_beams"] > 1:
        np.testing.assert_allclose(
            [f.ranked_score for f in found], expected.sequences_scores.numpy(), atol=SCORE_TOLERANCE
        )


def test_log_probs_are_of_the_model(model: LlamaForCausalLM) -> None:
    config = GenerationConfig(num_beams=3, max_new_tokens=6)
    search = new_search(config, lambda tokens: tokens[-1] in EOS, num_eos=len(EOS))
    drive(search, model, config)
    chain = search.results()[0].hypothesis.chain()
    ids = [*PROMPT, *(h.token for h in chain)]
    with torch.no_grad():
        log_probs = torch.log_softmax(model(torch.tensor([ids])).logits[0].double(), -1)
    for i, link in enumerate(chain):
        assert link.log_prob == pytest.approx(float(log_probs[len(PROMPT) - 1 + i, link.token]), abs=1e-5)
        assert link.posterior.tolist() == [1.0]
    assert search.decided() == chain


def test_decided_tokens_never_change(model: LlamaForCausalLM) -> None:
    config = GenerationConfig(num_beams=4, max_new_tokens=12)
    search = new_search(config, lambda tokens: tokens[-1] in EOS, num_eos=len(EOS))
    seen: list[int] = []
    priors = np.zeros(1, dtype=np.float32)
    while not search.done:
        sequences: Sequence[Sequence[int]] = [h.tokens for h in search.running] or [()]
        with torch.no_grad():
            logits = model(torch.tensor([[*PROMPT, *s] for s in sequences])).logits[:, -1].contiguous()
        search.advance(NextTokens(KernelMarginals(logits.numpy()[None], priors), sequences, []))
        decided = [h.token for h in search.decided()]
        assert decided[: len(seen)] == seen
        seen = decided
    assert tuple(seen) == search.results()[0].hypothesis.tokens


def test_sampling_is_repeatable_and_follows_the_distribution(model: LlamaForCausalLM) -> None:
    config = GenerationConfig(do_sample=True, num_return_sequences=400, max_new_tokens=1, top_k=0, seed=3)
    draws = []
    for _ in range(2):
        search = new_search(config, lambda tokens: tokens[-1] in EOS, num_eos=len(EOS))
        drive(search, model, config)
        draws.append([f.hypothesis.token for f in search.results()])
    assert draws[0] == draws[1]
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([PROMPT])).logits[0, -1], -1).numpy()
    observed = np.bincount(draws[0], minlength=VOCAB) / 400
    likely = expected >= 0.01
    # Four standard deviations of a multinomial share.
    allowed = 4 * np.sqrt(expected * (1 - expected) / 400)
    assert (np.abs(observed - expected) <= allowed)[likely].all()
