"""GGUF files of quantised tensors: dequantised as llama.cpp's own library does, and as transformers reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from rag_infer.errors import ExportError
from rag_infer.export import export_bundle, reverify_bundle
from tests.export.test_generators import decoder, logits
from tests.export.test_gguf import write_gguf
from tests.tiny_llama import write_llama

TYPES = {
    "F16": gguf.GGMLQuantizationType.F16,
    "BF16": gguf.GGMLQuantizationType.BF16,
    "Q8_0": gguf.GGMLQuantizationType.Q8_0,
    "Q4_1": gguf.GGMLQuantizationType.Q4_1,
}
PROMPTS, ANSWER = [[5, 9, 40, 41, 7], list(range(20, 60))], [50, 60, 70]


def matrices_in(kind: gguf.GGMLQuantizationType) -> Callable[[gguf.GGUFWriter], None]:
    """Every matrix in another type; norms stay float32, as llama.cpp writes them."""

    def change(writer: gguf.GGUFWriter) -> None:
        plain = writer.add_tensor

        def add(name: str, array: NDArray[np.float32]) -> None:
            if array.ndim == 1:
                plain(name, array)
            else:
                plain(name, gguf.quants.quantize(array, kind), raw_dtype=kind)

        writer.add_tensor = add

    return change


@pytest.mark.parametrize("name", TYPES)
def test_logits(tmp_path: Path, name: str) -> None:
    # Rows of 64 and 96: whole blocks of 32.
    made = write_llama(tmp_path / "c", hidden_size=64, intermediate_size=96, tie_word_embeddings=True)
    write_gguf(tmp_path / "c.gguf", made, change=matrices_in(TYPES[name]))
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c.gguf")
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="c.gguf", dtype=torch.float32).eval()
    assert not torch.equal(model.model.embed_tokens.weight, made.model.embed_tokens.weight)
    found = decoder(bundle).teacher_force(PROMPTS, ANSWER)
    for row, prompt in zip(found, PROMPTS, strict=True):
        wanted = logits(model, [*prompt, *ANSWER[:-1]])[len(prompt) - 1 :]
        np.testing.assert_allclose(row, wanted, atol=1e-4 * np.abs(wanted).max())
    assert [check.against for check in reverify_bundle(bundle.folder)] == ["sha256", "PyTorch"]


def test_folder_of_one_file(tmp_path: Path) -> None:
    made = write_llama(tmp_path / "c")
    (tmp_path / "g").mkdir()
    write_gguf(tmp_path / "g" / "one.gguf", made)
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "g")
    assert bundle.manifest.parity["generator"]["checkpoint"] == "one.gguf"
    write_gguf(tmp_path / "g" / "two.gguf", made)
    with pytest.raises(ExportError, match="it has 2 GGUF files"):
        export_bundle(tmp_path / "b2", generator=tmp_path / "g")


def test_another_architecture(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(str(tmp_path / "c.gguf"), "qwen2")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ExportError, match="has the architecture 'qwen2': only 'llama' is supported"):
        export_bundle(tmp_path / "b", generator=tmp_path / "c.gguf")
    assert [p.name for p in tmp_path.iterdir()] == ["c.gguf"]


def test_an_encoder_is_no_gguf_file(tmp_path: Path) -> None:
    write_gguf(tmp_path / "c.gguf", write_llama(tmp_path / "c"))
    with pytest.raises(ExportError, match="text encoders are read from safetensors folders"):
        export_bundle(tmp_path / "b", question_encoder=tmp_path / "c.gguf")


def test_a_tokenizer_beside_the_file(tmp_path: Path) -> None:
    """It goes before the file's own, and is told about where it cannot be read."""
    (tmp_path / "g").mkdir()
    write_gguf(tmp_path / "g" / "c.gguf", write_llama(tmp_path / "c"))
    beside = tmp_path / "g" / "tokenizer.json"
    beside.write_bytes((tmp_path / "c" / "tokenizer.json").read_bytes())
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "g" / "c.gguf")
    assert bundle.manifest.generator is not None
    beside.write_text("{")
    with pytest.raises(ExportError, match=r"tokenizer\.json"):
        export_bundle(tmp_path / "b2", generator=tmp_path / "g" / "c.gguf")
    assert {p.name for p in tmp_path.iterdir()} == {"b", "c", "g"}
