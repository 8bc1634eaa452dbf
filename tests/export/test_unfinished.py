"""An export that fails half way, and what may stand where a bundle is to go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag_infer.bundle import Bundle
from rag_infer.errors import ExportError
from rag_infer.export import export_bundle
from tests.export.checkpoints import write_bert
from tests.tiny_llama import write_llama


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that can be exported, and a generator that fails after it."""
    folder = tmp_path_factory.mktemp("unfinished")
    (folder / "bert").mkdir()
    write_bert(folder / "bert")
    write_llama(folder / "llama")
    (folder / "llama" / "model.safetensors").write_bytes(b"not weights")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_failure_after_a_part_was_written_leaves_nothing(made: Path, tmp_path: Path) -> None:
    steps: list[str] = []
    with pytest.raises(ExportError, match="cannot be loaded as LlamaForCausalLM"):
        export_bundle(
            tmp_path / "b",
            question_encoder=made / "bert",
            generator=made / "llama",
            report=steps.append,
        )
    assert "comparing the question encoder with PyTorch" in steps
    assert list(tmp_path.iterdir()) == []


def test_failure_under_force_leaves_the_old_bundle(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    export_bundle(out, question_encoder=made / "bert", n_docs=3)
    before = contents(out)
    with pytest.raises(ExportError, match="cannot be loaded"):
        export_bundle(out, question_encoder=made / "bert", generator=made / "llama", force=True)
    assert contents(out) == before
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_interrupt_leaves_nothing(made: Path, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("comparing"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_bundle(tmp_path / "b", question_encoder=made / "bert", report=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", '{"name": "a web page", "scripts": []}'])
def test_a_bundle_json_of_another_program(made: Path, tmp_path: Path, text: str) -> None:
    out = tmp_path / "b"
    out.mkdir()
    (out / "bundle.json").write_text(text)
    (out / "thesis.txt").write_text("mine")
    before = contents(out)
    with pytest.raises(ExportError, match="is not a bundle"):
        export_bundle(out, question_encoder=made / "bert", force=True)
    assert contents(out) == before


def test_a_bundle_in_which_someone_keeps_other_files(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    export_bundle(out, question_encoder=made / "bert")
    (out / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="is not replaced"):
        export_bundle(out, question_encoder=made / "bert", force=True)
    assert (out / "thesis.txt").read_text() == "mine"


def test_a_file(made: Path, tmp_path: Path) -> None:
    (tmp_path / "b").write_text("mine")
    with pytest.raises(ExportError, match="is not a bundle: it is not replaced"):
        export_bundle(tmp_path / "b", question_encoder=made / "bert", force=True)
    assert (tmp_path / "b").read_text() == "mine"


def test_a_damaged_bundle_can_be_replaced(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    export_bundle(out, question_encoder=made / "bert")
    (out / "question_encoder" / "model.onnx.data").unlink()
    assert export_bundle(out, question_encoder=made / "bert", force=True).folder == out
    Bundle.load(out)


def test_a_link_is_replaced_and_its_target_kept(made: Path, tmp_path: Path) -> None:
    export_bundle(tmp_path / "version-1", question_encoder=made / "bert", n_docs=1)
    out = tmp_path / "current"
    out.symlink_to("version-1")
    export_bundle(out, question_encoder=made / "bert", n_docs=2, force=True)
    assert Bundle.load(out).manifest.retrieval.n_docs == 2
    assert Bundle.load(tmp_path / "version-1").manifest.retrieval.n_docs == 1
    assert {p.name for p in tmp_path.iterdir()} == {"current", "version-1"}


def test_a_link_to_nowhere_is_told_before_the_work(made: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    out.symlink_to("nowhere")
    steps: list[str] = []
    with pytest.raises(ExportError, match="is not a bundle"):
        export_bundle(out, question_encoder=made / "bert", force=True, report=steps.append)
    assert steps == []
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_parents_are_made_and_paths_are_those_of_the_machine(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bert").symlink_to(made / "bert")
    bundle = export_bundle("deep/er/b", question_encoder="bert", passage_encoder=made / "bert")
    assert {p.name for p in Path("deep/er").iterdir()} == {"b"}
    # One checkpoint under two names is one encoder.
    assert {p.name for p in bundle.folder.iterdir()} == {"bundle.json", "question_encoder"}
    report = json.loads((bundle.folder / "bundle.json").read_text())["parity"]["question_encoder"]
    assert report["source"] == str((made / "bert").resolve())
