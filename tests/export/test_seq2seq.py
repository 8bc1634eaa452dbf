"""Exported encoder-decoders: sizes, reports, int8, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_infer.bundle import Bundle
from rag_infer.errors import ExportError
from rag_infer.export import export_bundle, reverify_bundle
from rag_infer.verify import verify_bundle
from tests.seq2seq_checkpoints import FAMILIES, save_tokenizer, write_seq2seq


def weights(folder: Path) -> int:
    """Bytes of a checkpoint's weights."""
    return sum(p.stat().st_size for p in folder.glob("*.safetensors"))


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_stored_once(tmp_path: Path, family: str) -> None:
    # So wide that the weights outweigh what surrounds them.
    t5 = "t5" in family
    own = {"d_ff": 256, "d_kv": 32} if t5 else {"encoder_ffn_dim": 256, "init_std": 0.05}
    wide = {"d_model": 128, "vocab_size": 4000, **own}
    model = write_seq2seq(tmp_path / "c", family, **wide)
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c")
    sizes = {name: record.size for name, record in bundle.manifest.files.items()}
    graphs = sum(size for name, size in sizes.items() if name.endswith((".onnx", ".data")))
    assert graphs < 1.1 * weights(tmp_path / "c") + 300_000, sizes  # and the graphs themselves
    assert model.config.vocab_size == 4000


@pytest.mark.parametrize("family", FAMILIES)
def test_report(tmp_path: Path, family: str) -> None:
    write_seq2seq(tmp_path / "c", family)
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c")
    report = bundle.manifest.parity["generator"]
    assert report["against_pytorch"]["max_difference"] <= report["limits_against_pytorch"]["max_difference"]
    assert report["same_best_token"] == 1.0
    assert report["inputs"] == {"rows": 6, "logits": 6 + 2 * 6 * 3}
    assert [c.passed for c in verify_bundle(bundle.folder)] == [True, True]
    assert [(c.against, c.passed) for c in reverify_bundle(bundle.folder)] == [
        ("sha256", True),
        ("PyTorch", True),
    ]


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_int8(tmp_path: Path, family: str) -> None:
    small = {"initializer_factor": 0.5} if family == "t5" else {"init_std": 0.1}
    write_seq2seq(tmp_path / "c", family, **small)
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c", precision="int8")
    agreement = bundle.manifest.parity["generator"]["agreement_with_fp32"]
    assert agreement["prompts"] >= 100
    assert agreement["token_agreement"] > 0.7
    assert all(check.passed for check in verify_bundle(bundle.folder))
    names = {p.name for p in (bundle.folder / "generator").iterdir()}
    assert names - {"append.onnx", "keep.onnx", "head.onnx"} == {
        "check.npz",
        "encoder.onnx",
        "step.onnx",
        "generator.data",
        "tokenizer.json",
    }


def test_an_altered_graph_is_found(tmp_path: Path) -> None:
    write_seq2seq(tmp_path / "c", "bart")
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c")
    path = bundle.folder / "generator" / "generator.data"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)
    with pytest.raises(Exception, match=r"generator.data has sha256"):
        Bundle.load(bundle.folder)


def test_refused(tmp_path: Path) -> None:
    model = write_seq2seq(tmp_path / "c", "bart")
    save_tokenizer(tmp_path / "c", model, size=150)
    with pytest.raises(ExportError, match="150 tokens, the model a vocabulary of 96"):
        export_bundle(tmp_path / "b", generator=tmp_path / "c")
    with pytest.raises(ExportError, match=r"model_type 'bart'.*expected one of RagTokenForGeneration"):
        export_bundle(tmp_path / "b", rag=tmp_path / "c")


def test_settings_that_cannot_be_kept_are_refused(tmp_path: Path) -> None:
    model = write_seq2seq(tmp_path / "c", "bart")
    model.generation_config.update(do_sample=True, num_beams=3)
    model.save_pretrained(tmp_path / "c")
    with pytest.raises(ExportError, match="do_sample=True with num_beams=3"):
        export_bundle(tmp_path / "b", generator=tmp_path / "c")


def test_a_model_that_does_not_say_how_to_begin_is_refused(tmp_path: Path) -> None:
    write_seq2seq(tmp_path / "c", "mbart", decoder_start_token_id=None, bos_token_id=None)
    with pytest.raises(ExportError, match="names no decoder_start_token_id"):
        export_bundle(tmp_path / "b", generator=tmp_path / "c")


def test_settings_are_kept(tmp_path: Path) -> None:
    model = write_seq2seq(tmp_path / "c", "bart")
    model.generation_config.update(num_beams=3, max_length=9, no_repeat_ngram_size=3, early_stopping=True)
    model.save_pretrained(tmp_path / "c")
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c")
    wanted = {"num_beams": 3, "max_length": 9, "no_repeat_ngram_size": 3, "early_stopping": True}
    assert bundle.manifest.generation == wanted
