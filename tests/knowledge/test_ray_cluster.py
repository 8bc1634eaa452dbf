"""What is refused before any cluster is looked for, and errors in one line."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from types import ModuleType

import pytest

from rag_infer.cli.main import main
from rag_infer.errors import KnowledgeBaseError
from rag_infer.knowledge.distributed.cluster import connected, first_cause


def test_without_ray_its_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with (
        pytest.raises(KnowledgeBaseError, match=r"pip install 'rag_infer\[ray\]'"),
        connected("local", threads=1),
    ):
        pass


def test_the_innermost_error_is_told_in_one_line() -> None:
    outer = RuntimeError("a task failed")
    outer.__cause__ = OSError("no such disk\nand more")
    assert first_cause(outer) == "OSError: no such disk"
    assert first_cause(ValueError()) == "ValueError"


def test_ray_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself is not asked, so that any object will do for it."""
    monkeypatch.setattr(os, "environ", dict(os.environ))
    for name in ("ray", "ray.data"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["ray"].shutdown = lambda: None  # type: ignore[attr-defined]
    with (
        pytest.raises(KnowledgeBaseError, match="over which Ray Data does not stream"),
        connected("ray://a:1", threads=1),
    ):
        pass


def test_a_gpu_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    (tmp_path / "corpus.jsonl").write_text("")
    words = ["index", "build", str(tmp_path / "kb"), str(tmp_path / "corpus.jsonl")]
    assert main([*words, "--ray", "local", "--device", "cuda", "--bundle", "none"]) == 2
    assert capsys.readouterr().err == (
        "rag-infer: error: --ray encodes on processors: --device cuda does not go with it\n"
    )
    assert not (tmp_path / "kb").exists()
