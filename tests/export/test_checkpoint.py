"""Loading a checkpoint whole: what is missing, left over or cut short is refused; how it is stored does not matter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import BertForMaskedLM, LlamaForCausalLM

from rag_infer.bundle import Bundle
from rag_infer.encode import TextEncoder
from rag_infer.errors import ExportError
from rag_infer.export import export_bundle, reverify_bundle
from tests.export.checkpoints import TEXTS, write_bert, write_dpr
from tests.export.test_generators import decoder, logits
from tests.tiny_llama import write_llama

Change = Callable[[dict[str, torch.Tensor]], Any]
PROMPTS, ANSWER = [[5, 9, 40, 41, 7], list(range(20, 60))], [50, 60, 70]


def change(folder: Path, changed: Change) -> None:
    """Change the stored weights."""
    weights = load_file(folder / "model.safetensors")
    changed(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def vectors(bundle: Bundle) -> NDArray[np.float32]:
    part = bundle.manifest.question_encoder
    assert part is not None
    return TextEncoder.from_bundle(bundle, part, threads=1).encode(TEXTS)


def add(name: str, *shape: int) -> Change:
    return lambda weights: weights.update({name: torch.zeros(shape)})


def remove(name: str) -> Change:
    return lambda weights: weights.pop(name)


BERT_MISFITS: dict[str, tuple[Change, str]] = {
    "missing": (
        remove("encoder.layer.1.output.dense.bias"),
        r"missing: encoder\.layer\.1\.output\.dense\.bias",
    ),
    "left over": (add("encoder.layer.2.output.dense.bias", 32), r"left over: encoder\.layer\.2\.output"),
    "of another shape": (
        add("embeddings.word_embeddings.weight", 9, 32),
        r"of another shape: embeddings\.word_embeddings\.weight",
    ),
}


@pytest.mark.parametrize("name", BERT_MISFITS)
def test_bert_that_does_not_fit(tmp_path: Path, name: str) -> None:
    changed, message = BERT_MISFITS[name]
    (tmp_path / "c").mkdir()
    write_bert(tmp_path / "c")
    change(tmp_path / "c", changed)
    with pytest.raises(ExportError, match=message):
        export_bundle(tmp_path / "b", question_encoder=tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_dpr_without_its_projection(tmp_path: Path) -> None:
    """Random numbers would take its place."""
    (tmp_path / "c").mkdir()
    write_dpr(tmp_path / "c", "passage", projection_dim=12)
    change(tmp_path / "c", remove("ctx_encoder.encode_proj.weight"))
    with pytest.raises(ExportError, match=r"missing: ctx_encoder\.encode_proj\.weight"):
        export_bundle(tmp_path / "b", passage_encoder=tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_weights_cut_short(tmp_path: Path) -> None:
    write_llama(tmp_path / "c")
    path = tmp_path / "c" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ExportError, match=r"c cannot be loaded as LlamaForCausalLM: "):
        export_bundle(tmp_path / "b", generator=tmp_path / "c")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_harmless_keys_are_recorded_and_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    model = write_bert(tmp_path / "c", pooler=False)
    plain = vectors(export_bundle(tmp_path / "plain", question_encoder=tmp_path / "c"))
    # The same body as it is saved with a training head, and with the buffer that old versions stored.
    trained = BertForMaskedLM(model.config)
    trained.bert.load_state_dict(model.state_dict())
    trained.save_pretrained(tmp_path / "c")
    positions = torch.arange(40)[None]
    change(tmp_path / "c", lambda weights: weights.update({"bert.embeddings.position_ids": positions}))
    bundle = export_bundle(tmp_path / "b", question_encoder=tmp_path / "c")
    np.testing.assert_array_equal(vectors(bundle), plain)
    ignored = bundle.manifest.parity["question_encoder"]["ignored_keys"]
    assert {"cls.predictions.bias", "cls.predictions.transform.dense.weight"} <= set(ignored)
    assert all(key.startswith("cls.") or key.endswith("position_ids") for key in ignored)
    assert all(reason for reason in ignored.values())


def test_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    dtype = torch.bfloat16
    write_llama(tmp_path / "c").to(dtype).save_pretrained(tmp_path / "c")
    assert load_file(tmp_path / "c" / "model.safetensors")["model.norm.weight"].dtype == dtype
    # Read anew: .to(dtype) has rounded the frequencies too, which no checkpoint holds.
    model = LlamaForCausalLM.from_pretrained(tmp_path / "c", dtype=torch.float32).eval()
    run = decoder(export_bundle(tmp_path / "b", generator=tmp_path / "c"))
    for found, prompt in zip(run.teacher_force(PROMPTS, ANSWER), PROMPTS, strict=True):
        wanted = logits(model, [*prompt, *ANSWER[:-1]])[len(prompt) - 1 :]
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize("settings", [{"max_shard_size": "20KB"}, {"safe_serialization": False}])
def test_other_files_of_the_same_weights(tmp_path: Path, settings: dict[str, Any]) -> None:
    model = write_llama(tmp_path / "one")
    write_llama(tmp_path / "other")
    (tmp_path / "other" / "model.safetensors").unlink()
    model.save_pretrained(tmp_path / "other", **settings)
    assert not (tmp_path / "other" / "model.safetensors").exists()
    bundles = [export_bundle(tmp_path / f"b-{n}", generator=tmp_path / n) for n in ("one", "other")]
    first, second = (bundle.manifest.files["generator/decoder.onnx.data"].sha256 for bundle in bundles)
    assert first == second
    assert [check.against for check in reverify_bundle(tmp_path / "b-other")] == ["sha256", "PyTorch"]
