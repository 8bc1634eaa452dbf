"""Exported generators that see: sizes, precisions, reports, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from rag_infer import GenerationConfig
from rag_infer.bundle import Bundle, sealed
from rag_infer.cli.main import main
from rag_infer.errors import BundleError, ExportError
from rag_infer.export import export_bundle, reverify_bundle
from rag_infer.parts import Seq2SeqGeneratorPart
from rag_infer.verify import verify_bundle
from tests.seeing_checkpoints import PLACES, write_captioner, write_vision_text
from tests.seq2seq_checkpoints import write_seq2seq


def part_of(bundle: Bundle) -> Seq2SeqGeneratorPart:
    part = bundle.manifest.generator
    assert isinstance(part, Seq2SeqGeneratorPart)
    return part


def test_what_the_manifest_says(tmp_path: Path) -> None:
    write_vision_text(tmp_path / "c", vision="resnet", images=["passage"])
    part = part_of(export_bundle(tmp_path / "b", generator=tmp_path / "c"))
    assert part.vision is not None
    assert (part.vision.places, part.vision.sources) == (PLACES["resnet"], ("passage",))
    assert part.vision.reads_text
    assert part.composing.max_combined_length == 64 - PLACES["resnet"]
    model = write_captioner(tmp_path / "captioner")
    model.generation_config.update(num_beams=2, max_length=9)
    model.save_pretrained(tmp_path / "captioner")
    bundle = export_bundle(tmp_path / "d", generator=tmp_path / "captioner")
    part = part_of(bundle)
    assert part.vision is not None
    assert (part.vision.sources, part.vision.reads_text) == (("question",), False)
    assert (part.decoder_start_token_id, part.pad_token_id, part.eos_token_ids) == (0, 1, (2,))
    assert GenerationConfig().updated(bundle.manifest.generation).num_beams == 2


def test_weights_are_stored_once(tmp_path: Path) -> None:
    """Also the embedding that GPT-2's head shares."""
    model = write_captioner(tmp_path / "c", n_embd=64, vocab_size=3000, initializer_range=0.05)
    used = sum(p.numel() for n, p in model.named_parameters() if "pooler" not in n) * 4
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c")
    stored = (bundle.folder / "generator" / "generator.data").stat().st_size
    assert stored < used * 1.25, (stored, used)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("write", [write_captioner, write_vision_text])
def test_precisions(tmp_path: Path, precision: str, write: Callable[..., Any]) -> None:
    write(tmp_path / "c")
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c", precision=precision)
    report = bundle.manifest.parity["generator"]
    assert report["agreement_with_fp32"]["token_agreement"] > 0.8
    assert not (bundle.folder / "generator" / "fp32").exists()
    assert [check.passed for check in verify_bundle(bundle.folder)] == [True, True]


def test_verified_against_pytorch_and_by_what_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_captioner(tmp_path / "c", width=32, pooler=False)  # which a caption does not need
    assert main(["export", str(tmp_path / "b"), "--generator", str(tmp_path / "c")]) == 0
    assert main(["verify", str(tmp_path / "b")]) == 0
    assert "generator" in capsys.readouterr().out
    against = {c.name: (c.against, c.passed) for c in reverify_bundle(tmp_path / "b")}
    assert against == {"files": ("sha256", True), "generator": ("PyTorch", True)}
    other = write_captioner(tmp_path / "other", width=32, seed=1)
    assert other is not None
    with pytest.raises(ExportError, match="is not what generator was made from"):
        reverify_bundle(tmp_path / "b", generator=tmp_path / "other")
    (tmp_path / "c").rename(tmp_path / "moved")
    assert [c.against for c in reverify_bundle(tmp_path / "b")] == ["sha256", "stored outputs"]


def test_bundles_without_vision_are_read(tmp_path: Path) -> None:
    """As those that were exported before there was any."""
    write_seq2seq(tmp_path / "c", "bart")
    folder = export_bundle(tmp_path / "b", generator=tmp_path / "c").folder
    change(folder, lambda part: part.pop("vision"))
    assert part_of(Bundle.load(folder)).vision is None
    assert all(check.passed for check in verify_bundle(folder))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"sources": ["passage", "question"]}, "sources .* cannot be"),
        ({"sources": []}, "sources .* cannot be"),
        ({"places": 0}, "0 places cannot be"),
        ({"places": "5"}, "places cannot be '5'"),
        ({"colour": True}, "generator.vision has the unknown key 'colour'"),
        ({"processing": {"resize": "none"}}, "vision.processing"),
    ],
)
def test_a_manifest_that_cannot_be(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    write_vision_text(tmp_path / "c")
    folder = export_bundle(tmp_path / "b", generator=tmp_path / "c").folder
    change(folder, lambda part: part["vision"].update(entry))
    with pytest.raises(BundleError, match=message):
        Bundle.load(folder)


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
    edit(data["generator"])
    (folder / "bundle.json").write_text(json.dumps(sealed(data)), encoding="utf-8")


def edit_config(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    edit(config)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def test_refused(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(ExportError, match=message):
            export_bundle(tmp_path / "b", generator=tmp_path / "c")

    write_captioner(tmp_path / "c", images=["question", "passage"])
    refused(r"reads one image, of the question or of the passage: its config names \('question', 'passage'\)")
    write_captioner(tmp_path / "c")
    edit_config(tmp_path / "c", lambda config: config["decoder"].update(model_type="bert"))
    refused("decoder of type 'bert': supported are gpt2")
    model = write_captioner(tmp_path / "c")
    save(tmp_path / "c", {n: p for n, p in model.state_dict().items() if "1.ln_cross_attn.bias" not in n})
    refused("does not fit VisionEncoderDecoderModel .missing: decoder.transformer.h.1.ln_cross_attn.bias")
    write_captioner(tmp_path / "c")
    (tmp_path / "c" / "preprocessor_config.json").unlink()
    refused("has no image processor")


def test_vision_text_refused(tmp_path: Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(ExportError, match=message):
            export_bundle(tmp_path / "b", generator=tmp_path / "c")

    write_vision_text(tmp_path / "c", max_position_embeddings=25)
    refused("has 25 positions, of which its images take 10: at least 16 are for text")
    model = write_vision_text(tmp_path / "c")
    weights = {n: p for n, p in model.state_dict().items() if n != "projection.bias"}
    save(tmp_path / "c", weights)
    refused("Missing key.*projection.bias")
    edit_config(tmp_path / "c", lambda config: config.update(images=["passage", "question"]))
    refused("no readable config: images must be of .*in that order")


def save(folder: Path, weights: dict[str, torch.Tensor]) -> None:
    from safetensors.torch import save_file

    cloned = {name: value.clone() for name, value in weights.items()}
    save_file(cloned, folder / "model.safetensors", metadata={"format": "pt"})
