"""Verification against checkpoints that moved, changed, or were named."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rag_infer.bundle import Bundle
from rag_infer.cli.main import main
from rag_infer.errors import ExportError
from rag_infer.export import export_bundle, reverify_bundle
from rag_infer.export.parity import LIMITS
from tests.export.checkpoints import write_bert, write_dpr, write_sentence_transformers
from tests.tiny_llama import write_llama


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, and a bundle of one encoder for both sides."""
    folder = tmp_path_factory.mktemp("reverify")
    for name in ("st", "bert", "question", "passage"):
        (folder / name).mkdir()
    write_sentence_transformers(folder / "st")
    write_bert(folder / "bert")
    for side in ("question", "passage"):
        write_dpr(folder / side, side, projection_dim=12)
    write_llama(folder / "llama")
    export_bundle(folder / "shared", question_encoder=folder / "st")
    return folder


def against(bundle: Bundle, **named: Path) -> dict[str, str]:
    checks = reverify_bundle(bundle.folder, **named)
    assert all(check.passed for check in checks)
    return {check.name: check.against for check in checks}


def test_every_kind_of_encoder(made: Path, tmp_path: Path) -> None:
    assert against(Bundle.load(made / "shared")) == {"files": "sha256", "question_encoder": "PyTorch"}
    dpr = export_bundle(
        tmp_path / "dpr",
        question_encoder=made / "question",
        passage_encoder=made / "passage",
        similarity="cosine",
    )
    assert against(dpr) == {"files": "sha256", "question_encoder": "PyTorch", "passage_encoder": "PyTorch"}
    bert = export_bundle(tmp_path / "bert", question_encoder=made / "bert", pooling="pooler")
    assert against(bert)["question_encoder"] == "PyTorch"


def test_int8(made: Path, tmp_path: Path) -> None:
    bundle = export_bundle(
        tmp_path / "b", question_encoder=made / "st", generator=made / "llama", precision="int8"
    )
    found = against(bundle)
    assert found == {"files": "sha256", "question_encoder": "PyTorch", "generator": "PyTorch"}
    limits = {c.name: c.limits for c in reverify_bundle(bundle.folder)}
    assert limits["generator"] == LIMITS["int8"]


def test_a_checkpoint_that_was_trained_on(made: Path, tmp_path: Path) -> None:
    """Other weights at the same place are not what the bundle was made from: unnamed, the stored outputs hold."""
    shutil.copytree(made / "llama", tmp_path / "c")
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c")
    write_llama(tmp_path / "c", seed=11)
    assert against(bundle)["generator"] == "stored outputs"
    with pytest.raises(ExportError, match="is not what generator was made from"):
        reverify_bundle(bundle.folder, generator=tmp_path / "c")


@pytest.mark.parametrize("left", [(), ("config.json",), ("model.safetensors",)])
def test_a_checkpoint_that_was_cleared_away(made: Path, tmp_path: Path, left: tuple[str, ...]) -> None:
    """The folder stands, but it holds no checkpoint any more."""
    shutil.copytree(made / "llama", tmp_path / "c")
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c")
    for path in (tmp_path / "c").iterdir():
        if path.name not in left:
            path.unlink()
    assert against(bundle)["generator"] == "stored outputs"


def test_a_checkpoint_is_named_for_a_part_that_shares_its_files(made: Path) -> None:
    assert against(Bundle.load(made / "shared"), passage_encoder=made / "st")
    with pytest.raises(ExportError, match="is not what"):
        reverify_bundle(made / "shared", passage_encoder=made / "bert")
    with pytest.raises(ExportError, match="no checkpoint at"):
        reverify_bundle(made / "shared", passage_encoder=made / "none")


def test_a_checkpoint_is_named_for_a_part_the_bundle_lacks(
    made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match="has no generator"):
        reverify_bundle(made / "shared", generator=made / "llama")
    assert main(["verify", str(made / "shared"), "--generator", str(made / "none")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
