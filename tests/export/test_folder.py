"""A bundle appears whole or not at all, and never takes the place of something else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rag_infer.bundle import Bundle
from rag_infer.errors import ExportError
from rag_infer.export import export_bundle
from rag_infer.export.folder import new_folder
from tests.export.checkpoints import write_bert


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    write_bert(folder)
    return folder


def test_existing_bundle_is_replaced_only_by_force(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    export_bundle(out, question_encoder=checkpoint)
    before = (out / "bundle.json").read_bytes()
    with pytest.raises(ExportError, match="exists: give --force"):
        export_bundle(out, question_encoder=checkpoint, n_docs=7)
    assert (out / "bundle.json").read_bytes() == before
    assert (
        export_bundle(out, question_encoder=checkpoint, n_docs=7, force=True).manifest.retrieval.n_docs == 7
    )
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_what_is_no_bundle_is_never_replaced(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("mine")
    with pytest.raises(ExportError, match="is not a bundle: it is not replaced"):
        export_bundle(tmp_path / "b", question_encoder=checkpoint, force=True)
    assert (tmp_path / "b" / "thesis.txt").read_text() == "mine"


def test_empty_folder_is_taken(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    export_bundle(tmp_path / "b", question_encoder=checkpoint)
    assert Bundle.load(tmp_path / "b").manifest.precision == "fp32"


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with new_folder(tmp_path / "b", force=False) as folder:
            (folder / "half").write_text("made")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_killed_export_leaves_nothing_behind(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    words = ["-m", "rag_infer.cli.main", "export", str(out), "--question-encoder", str(checkpoint)]
    process = subprocess.Popen([sys.executable, *words])
    while not list(tmp_path.glob(".b.export-*")) and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists()
    (left,) = tmp_path.glob(".b.export-*")
    export_bundle(out, question_encoder=checkpoint)
    assert not left.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_bundle_moved_aside_by_a_killed_export_is_put_back(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "b"
    export_bundle(out, question_encoder=checkpoint)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    out.rename(tmp_path / f".b.replaced-{ended.pid}-0123abcd")
    with pytest.raises(ExportError, match="exists"):
        export_bundle(out, question_encoder=checkpoint)
    assert Bundle.load(out).manifest.question_encoder is not None


def test_folder_of_a_running_export_is_left_alone(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / f".b.export-{os.getppid()}-0123abcd"
    other.mkdir()
    export_bundle(tmp_path / "b", question_encoder=checkpoint)
    assert other.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"precision": "fp8"}, "unknown precision 'fp8': expected fp32, fp16, int8"),
        ({"score_scale": 0.0}, "score_scale must be a positive number, got 0.0"),
        ({"score_scale": float("nan")}, "score_scale must be a positive number"),
        ({"n_docs": 0}, "n_docs must be at least 1, got 0"),
        ({"question_encoder": None}, "nothing to export"),
    ],
)
def test_bad_arguments(checkpoint: Path, tmp_path: Path, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        export_bundle(tmp_path / "b", **{"question_encoder": checkpoint, **settings})  # type: ignore[arg-type]
