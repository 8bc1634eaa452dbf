"""GGUF files: the same model as from safetensors, and settings that are refused instead of dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import LlamaForCausalLM

from rag_infer.errors import ExportError
from rag_infer.export import export_bundle
from rag_infer.export.gguf_file import GLOBAL_TENSORS, LAYER_TENSORS, GgufFile, halves_together
from tests.export.test_generators import decoder
from tests.tiny_llama import BOS, END, PAD, SPECIAL, VOCAB, make_tokenizer, write_llama


def halves_apart(array: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """The inverse of `halves_together`: transformers' order of rows to GGUF's."""
    halves = array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(array.shape))


def write_gguf(
    path: Path, model: LlamaForCausalLM, *, change: Callable[[gguf.GGUFWriter], None] = lambda writer: None
) -> None:
    """The model and the tests' tokenizer as llama.cpp's converter lays them out."""
    config = model.config
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer)
    change(writer)
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    for theirs, ours in GLOBAL_TENSORS.items():
        if not (config.tie_word_embeddings and theirs == "output.weight"):
            writer.add_tensor(theirs, weights[ours])
    for layer in range(config.num_hidden_layers):
        for theirs, ours in LAYER_TENSORS.items():
            array = weights[f"model.layers.{layer}.{ours}.weight"]
            array = halves_apart(array, heads[ours]) if ours in heads else array
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_tokenizer(writer: gguf.GGUFWriter) -> None:
    made = make_tokenizer()
    tokens = [made.id_to_token(i) for i in range(VOCAB)]
    merges = json.loads(made.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(False)


@pytest.mark.parametrize("tied", [True, False])
def test_equals_the_safetensors_checkpoint(tmp_path: Path, tied: bool) -> None:
    model = write_llama(tmp_path / "c", tie_word_embeddings=tied)
    write_gguf(tmp_path / "c.gguf", model)
    folder = export_bundle(tmp_path / "from-folder", generator=tmp_path / "c")
    file = export_bundle(tmp_path / "from-file", generator=tmp_path / "c.gguf")
    assert file.manifest.generator == folder.manifest.generator
    prompts, answer = [[5, 9, 40, 41, 7], list(range(20, 90))], [50, 60, 70]
    found = decoder(file).teacher_force(prompts, answer)
    np.testing.assert_array_equal(found, decoder(folder).teacher_force(prompts, answer))


def test_tokenizer(tmp_path: Path) -> None:
    write_gguf(tmp_path / "c.gguf", write_llama(tmp_path / "c"))
    found, wanted = GgufFile(tmp_path / "c.gguf").tokenizer(), make_tokenizer()
    for text in ("Question: where is the red cat?", " a\n\n\tb ", "<turn>Größe, 東京 <end>", "", "2001: 42"):
        assert found.encode(text).ids == wanted.encode(text).ids
        assert found.decode(found.encode(text).ids) == wanted.decode(wanted.encode(text).ids)


def test_order_of_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(24, 5)).astype(np.float32)
    np.testing.assert_array_equal(halves_together(halves_apart(rows, 3), 3), rows)
    assert not np.array_equal(halves_apart(rows, 3), rows)


REFUSED: dict[str, tuple[Callable[[gguf.GGUFWriter], Any], str]] = {
    "a setting": (
        lambda w: w.add_rope_scaling_factor(4.0),
        "has the setting llama.rope.scaling.factor = 4.0",
    ),
    "a tensor": (
        lambda w: w.add_tensor("blk.0.attn_sinks.weight", np.zeros(4, np.float32)),
        "has the tensor 'blk.0.attn_sinks.weight'",
    ),
    "a rotation of a part": (lambda w: w.add_rope_dimension_count(4), "rotates 4 of 8 dimensions"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused(tmp_path: Path, name: str) -> None:
    change, message = REFUSED[name]
    write_gguf(tmp_path / "c.gguf", write_llama(tmp_path / "c"), change=change)
    with pytest.raises(ExportError, match=message):
        export_bundle(tmp_path / "b", generator=tmp_path / "c.gguf")


def test_missing_tensor(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "c")
    model.config.num_hidden_layers = 1
    write_gguf(tmp_path / "c.gguf", model, change=lambda w: w.add_uint32("llama.block_count", 2))
    with pytest.raises(ExportError, match=r"missing: model\.layers\.1\."):
        export_bundle(tmp_path / "b", generator=tmp_path / "c.gguf")


def test_file_cut_short(tmp_path: Path) -> None:
    write_gguf(tmp_path / "c.gguf", write_llama(tmp_path / "c"))
    whole = (tmp_path / "c.gguf").read_bytes()
    (tmp_path / "c.gguf").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ExportError, match="is not a GGUF file"):
        export_bundle(tmp_path / "b", generator=tmp_path / "c.gguf")


def test_oracle_is_in_float32(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "c")
    write_gguf(tmp_path / "c.gguf", model)
    file = GgufFile(tmp_path / "c.gguf")
    weights = file.weights(file.config())
    assert all(value.dtype == torch.float32 for value in weights.values())
    for name, value in weights.items():
        torch.testing.assert_close(value, model.state_dict()[name], rtol=0, atol=0)
