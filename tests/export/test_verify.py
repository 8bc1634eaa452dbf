"""Verification: files, stored outputs, PyTorch; and a graph that is not the checkpoint's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rag_infer.bundle import Bundle, record_files, sealed
from rag_infer.errors import BundleError, ExportError
from rag_infer.export import export_bundle, reverify_bundle
from rag_infer.export.causal import load_generator
from rag_infer.export.parity import check_encoder, check_generator
from rag_infer.export.text_encoder import EncoderOptions, load_encoder
from rag_infer.verify import Check, differences, verify_bundle, within
from tests.export.checkpoints import write_bert
from tests.tiny_llama import write_llama

PARTS = ["files", "question_encoder", "generator"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with checkpoints and their bundle."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "bert").mkdir()
    write_bert(folder / "bert")
    write_llama(folder / "llama")
    export_bundle(folder / "bundle", question_encoder=folder / "bert", generator=folder / "llama")
    return folder


@pytest.fixture
def bundle(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(made / "bundle", tmp_path / "bundle"))


def alter(bundle: Path, name: str) -> None:
    """Spoil a weight, and record the file as if it were right."""
    path = bundle / name
    weights = np.fromfile(path, dtype=np.float32)
    weights[::16] += 1
    weights.tofile(path)
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["files"] = {k: vars(v) for k, v in record_files(bundle).items()}
    (bundle / "bundle.json").write_text(json.dumps(sealed(manifest)))


def verdicts(checks: list[Check]) -> list[bool]:
    return [check.passed for check in checks]


def test_report_is_in_the_manifest(made: Path) -> None:
    parity = Bundle.load(made / "bundle").manifest.parity
    assert set(parity) == {"question_encoder", "passage_encoder", "generator"}
    for report in parity.values():
        assert within(report["against_pytorch"], report["limits_against_pytorch"])
        assert report["against_pytorch"]["max_difference"] < 1e-5
        assert len(report["weights_sha256"]) == 64
    greedy = parity["generator"]["greedy_tokens_of_transformers"]
    assert greedy["equal"] == greedy["tokens"] > 0


def test_stored_outputs(bundle: Path) -> None:
    checks = verify_bundle(bundle, threads=1)
    assert [c.name for c in checks] == PARTS
    assert verdicts(checks) == [True] * 3
    assert checks[1].against == checks[2].against == "stored outputs"


@pytest.mark.parametrize("part", ["question_encoder", "generator"])
def test_a_weight_that_was_changed_with_its_sum(bundle: Path, part: str) -> None:
    graph = "model.onnx.data" if part == "question_encoder" else "decoder.onnx.data"
    alter(bundle, f"{part}/{graph}")
    for checks in (verify_bundle(bundle, threads=1), reverify_bundle(bundle)):
        assert {c.name: c.passed for c in checks} == {name: name != part for name in PARTS}


def test_altered_file(bundle: Path) -> None:
    with (bundle / "generator" / "check.npz").open("r+b") as stream:
        stream.seek(100)
        byte = stream.read(1)
        stream.seek(100)
        stream.write(bytes([byte[0] ^ 1]))
    for verification in (verify_bundle, reverify_bundle):
        with pytest.raises(BundleError, match=r"check.npz has sha256 \w+, expected"):
            verification(bundle)


def test_pytorch_where_the_checkpoints_are(made: Path) -> None:
    checks = reverify_bundle(made / "bundle")
    assert [c.against for c in checks] == ["sha256", "PyTorch", "PyTorch"]
    assert verdicts(checks) == [True] * 3


def test_stored_outputs_where_a_checkpoint_has_gone(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "llama", tmp_path / "llama")
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "llama")
    (tmp_path / "llama").rename(tmp_path / "elsewhere")
    assert [c.against for c in reverify_bundle(bundle.folder)] == ["sha256", "stored outputs"]
    named = reverify_bundle(bundle.folder, generator=tmp_path / "elsewhere")
    assert [c.against for c in named] == ["sha256", "PyTorch"]
    assert verdicts(named) == [True, True]


def test_another_checkpoint(made: Path, tmp_path: Path) -> None:
    write_llama(tmp_path / "other", seed=9)
    with pytest.raises(ExportError, match="is not what generator was made from"):
        reverify_bundle(made / "bundle", generator=tmp_path / "other")
    with pytest.raises(ExportError, match="no checkpoint at"):
        reverify_bundle(made / "bundle", generator=tmp_path / "none")


def test_graph_of_another_checkpoint_fails_the_export(made: Path, bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.load(bundle).manifest
    (tmp_path / "bert").mkdir()
    write_bert(tmp_path / "bert", seed=9)
    write_llama(tmp_path / "llama", seed=9)
    encoder = load_encoder(tmp_path / "bert", "question", EncoderOptions())
    with pytest.raises(ExportError, match=r"differs from PyTorch in fp32: max_difference .* \(limit 1e-05\)"):
        check_encoder(encoder, bundle / "question_encoder" / "model.onnx", "fp32")
    assert manifest.generator is not None
    with pytest.raises(ExportError, match=r"decoder\.onnx differs from PyTorch"):
        check_generator(
            load_generator(tmp_path / "llama"),
            manifest.generator,
            bundle / "generator" / "decoder.onnx",
            "fp32",
        )


def test_not_a_number_is_a_difference() -> None:
    good = np.ones((2, 3), dtype=np.float32)
    bad = good.copy()
    bad[1, 2] = np.nan
    limits = {"max_difference": 1.0, "cosine_difference": 1.0}
    assert within(differences(good, good), limits)
    assert not within(differences(good, bad), limits)
    assert not within({}, limits)
