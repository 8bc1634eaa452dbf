"""Llama checkpoints: logits and greedy tokens of the bundle against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from rag_infer.bundle import Bundle
from rag_infer.errors import ExportError
from rag_infer.export import export_bundle
from rag_infer.generate.causal import CausalDecoder
from rag_infer.session import Session
from tests.export.checkpoints import write_json
from tests.tiny_llama import END, PAD, make_tokenizer, write_llama

KINDS: dict[str, dict[str, Any]] = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "every head its own keys": {"num_key_value_heads": 4},
    "wide heads": {"head_dim": 16},
    "llama3 frequencies": {
        "rope_scaling": {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    },
}


def decoder(bundle: Bundle) -> CausalDecoder:
    part = bundle.manifest.generator
    assert part is not None
    return CausalDecoder(Session(bundle.file(part, part.graph), threads=1), part)


def logits(model: LlamaForCausalLM, tokens: list[int]) -> np.ndarray:
    """After every token, float32 ``[tokens, vocab]``."""
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_logits(tmp_path: Path, kind: str) -> None:
    model = write_llama(tmp_path / "c", **KINDS[kind])
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c")
    run = decoder(bundle)
    prompts = [[5, 9, 40, 41, 7], list(range(20, 90)), [200, 201]]
    answer = [50, 60, 70, 80]
    found = run.teacher_force(prompts, answer)
    for row, prompt in enumerate(prompts):
        wanted = logits(model, [*prompt, *answer[:-1]])[len(prompt) - 1 :]
        np.testing.assert_allclose(found[row], wanted, atol=1e-4 * np.abs(wanted).max())


def test_beams_that_cross(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "c")
    run = decoder(export_bundle(tmp_path / "b", generator=tmp_path / "c"))
    prompts = [[5, 9, 40], list(range(20, 33))]
    state, _ = run.prefill((), [[p[:2] for p in prompts], [p[2:] for p in prompts]], reserve=2)
    run.step(state, np.zeros((2, 3), dtype=np.int64), np.array([[50, 51, 52], [60, 61, 62]]))
    found = run.step(state, np.array([[2, 0, 0], [1, 1, 2]]), np.array([[70, 71, 72], [80, 81, 82]]))
    sequences = [
        [[*prompts[0], 52, 70], [*prompts[0], 50, 71], [*prompts[0], 50, 72]],
        [[*prompts[1], 61, 80], [*prompts[1], 61, 81], [*prompts[1], 62, 82]],
    ]
    wanted = np.array([[logits(model, s)[-1] for s in row] for row in sequences])
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    sizes = {}
    for name in ("tied", "untied"):
        write_llama(tmp_path / name, **KINDS[name])
        bundle = export_bundle(tmp_path / f"b-{name}", generator=tmp_path / name)
        sizes[name] = bundle.manifest.files["generator/decoder.onnx.data"].size
    # Head and embedding, [300, 32] float32, each begin at a multiple of 64 KiB only where they are larger.
    assert sizes["untied"] - sizes["tied"] == 300 * 32 * 4


def test_an_answer_does_not_begin_with_its_end(tmp_path: Path) -> None:
    write_llama(tmp_path / "c")
    generation = export_bundle(tmp_path / "b", generator=tmp_path / "c").manifest.generation
    newline = make_tokenizer().encode("\n").ids
    assert generation["begin_suppress_tokens"] == sorted([END, *newline])
    assert generation["stop_strings"] == ["\n"]


def test_manifest(tmp_path: Path) -> None:
    write_llama(tmp_path / "c")
    part = export_bundle(tmp_path / "b", generator=tmp_path / "c").manifest.generator
    assert part is not None
    assert (part.vocab_size, part.num_layers, part.num_kv_heads, part.head_dim) == (300, 2, 2, 8)
    assert (part.max_positions, part.bos_token_id, part.eos_token_ids, part.pad_token_id) == (
        2048,
        None,
        (END,),
        PAD,
    )
    graph = onnx.load(tmp_path / "b" / "generator" / "decoder.onnx", load_external_data=False)
    kinds = {node.op_type for node in graph.graph.node}
    assert {"RotaryEmbedding", "SimplifiedLayerNormalization"} <= kinds


def change(folder: Path, changes: dict[str, torch.Tensor | None]) -> None:
    """Change the stored weights; None takes one away."""
    weights = load_file(folder / "model.safetensors")
    for name, value in changes.items():
        weights.pop(name, None)
        if value is not None:
            weights[name] = value
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.layers.1.mlp.up_proj.weight": None}, "missing: model.layers.1.mlp.up_proj.weight"),
        ({"model.layers.7.extra": torch.zeros(2)}, "left over: model.layers.7.extra"),
        ({"model.norm.weight": torch.zeros(31)}, "of another shape: model.norm.weight"),
    ],
)
def test_weights_that_do_not_fit(
    tmp_path: Path, changes: dict[str, torch.Tensor | None], message: str
) -> None:
    write_llama(tmp_path / "c")
    change(tmp_path / "c", changes)
    with pytest.raises(ExportError, match=message):
        export_bundle(tmp_path / "b", generator=tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_unsupported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=8, vocab_size=20)).save_pretrained(
        tmp_path / "gpt2"
    )
    write_llama(tmp_path / "dynamic", rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    write_llama(tmp_path / "gelu", hidden_act="gelu")
    write_llama(tmp_path / "endless", eos_token_id=None)
    write_json(tmp_path / "endless" / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    (tmp_path / "endless" / "special_tokens_map.json").unlink()
    (tmp_path / "text.gguf").write_text("not a model")
    cases = {
        "gpt2": "model_type 'gpt2'.*the supported generators are of the Llama architecture",
        "dynamic": "rope_scaling of type 'dynamic' is not supported",
        "gelu": "hidden_act 'gelu' is not supported",
        "endless": "names no end-of-text token",
        "text.gguf": "is not a GGUF file",
        "none.gguf": "no checkpoint at",
    }
    for name, message in cases.items():
        with pytest.raises(ExportError, match=message):
            export_bundle(tmp_path / "b", generator=tmp_path / name)
