"""Channels are evened out before a Llama is quantised, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rag_infer.export.families.llama import LlamaDecoder
from rag_infer.export.smoothing import measure, smooth
from tests.tiny_llama import VOCAB, write_llama

LARGE, FACTOR = 3, 200.0


@pytest.mark.parametrize("tied", [False, True])
def test_the_model_computes_the_same_with_evener_channels(tmp_path: Path, tied: bool) -> None:
    model = write_llama(tmp_path, attention_bias=True, mlp_bias=True, tie_word_embeddings=tied)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.input_layernorm.weight[LARGE] *= FACTOR
            layer.post_attention_layernorm.weight[LARGE] *= FACTOR
            layer.mlp.up_proj.weight[LARGE] *= FACTOR
            layer.mlp.up_proj.bias[LARGE] *= FACTOR
            layer.mlp.down_proj.weight[:, LARGE] /= FACTOR
    before = {name: value.clone() for name, value in model.named_parameters()}
    random = torch.Generator().manual_seed(1)
    prompts = torch.randint(4, VOCAB, (3, 20), generator=random)
    smoothed = smooth(model, prompts.tolist())
    with torch.no_grad():
        expected, found = model(prompts).logits, smoothed(prompts).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    assert torch.equal(smoothed.model.embed_tokens.weight, model.model.embed_tokens.weight)
    head = LlamaDecoder(smoothed).head
    assert head is not None, "the exported graph would read the embedding"
    assert torch.equal(head.t(), smoothed.lm_head.weight)
    assert not torch.equal(smoothed.lm_head.weight, model.lm_head.weight)
    for way in ("self_attn.q_proj", "mlp.gate_proj", "mlp.down_proj"):
        typical = []
        for each in (model, smoothed):
            product = each.model.layers[1].get_submodule(way)
            shares = measure(each, [product], prompts.tolist())[product]
            typical.append(float(shares.median()))
        assert typical[1] > 3 * typical[0], "one channel took the range from all others"
