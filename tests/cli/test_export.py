"""rag-infer export and verify."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rag_infer.bundle import sealed
from rag_infer.cli.main import main
from tests.export.checkpoints import write_bert
from tests.tiny_llama import write_llama


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints, and a bundle that the command line made."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "bert").mkdir()
    write_bert(folder / "bert")
    write_llama(folder / "llama")
    words = ["--question-encoder", str(folder / "bert"), "--generator", str(folder / "llama")]
    assert main(["export", str(folder / "bundle"), *words]) == 0
    return folder


def test_export_prints_the_report(made: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["export", str(tmp_path / "b"), "--generator", str(made / "llama")]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "fp32, 7 files" in out
    assert "generator: llama, against PyTorch: max_difference" in out
    assert "equal to transformers' generate" in out
    assert err == ""
    assert main([*words, "--force", "--precision", "int8", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["precision"] == "int8"
    assert report["parity"]["generator"]["agreement_with_fp32"]["prompts"] == 20


def test_options(made: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["--pooling", "cls", "--similarity", "cosine", "--score-scale", "12.5", "--n-docs", "3"]
    assert main(["export", str(tmp_path / "b"), "--question-encoder", str(made / "bert"), *words]) == 0
    manifest = json.loads((tmp_path / "b" / "bundle.json").read_text())
    assert manifest["retrieval"] == {
        "similarity": "cosine",
        "score_scale": 12.5,
        "n_docs": 3,
        "shared_space": False,
    }
    assert manifest["question_encoder"]["pooling"] == "cls"
    assert manifest["passage_encoder"]["normalise"] is True


def test_verify(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(made / "bundle")]) == 0
    out = capsys.readouterr().out
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["ok", "files"],
        ["ok", "question_encoder"],
        ["ok", "generator"],
    ]
    assert out.count("against PyTorch") == 2
    assert main(["verify", str(made / "bundle"), "--stored-only", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["passed"]
    assert [c["against"] for c in report["checks"]] == ["sha256", "stored outputs", "stored outputs"]


def test_verify_tells_what_fails(made: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    bundle = tmp_path / "b"
    main(["export", str(bundle), "--generator", str(made / "llama")])
    manifest = json.loads((bundle / "bundle.json").read_text())
    manifest["parity"]["generator"]["limits"]["max_difference"] = 1e-12
    (bundle / "bundle.json").write_text(json.dumps(sealed(manifest)))
    capsys.readouterr()
    assert main(["verify", str(bundle), "--stored-only"]) == 1
    assert "FAIL generator" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["export", "out"], 2, "nothing to export"),
        (["export", "out", "--generator", "./none"], 1, "no checkpoint at ./none"),
        (["export", "out", "--question-encoder", "./none", "--n-docs", "0"], 2, "n_docs must be at least 1"),
        (["export", "out", "--question-encoder", "."], 1, "is not a checkpoint: it has no config.json"),
        (["verify", "none"], 1, "no bundle at none"),
        (["verify", "none", "--stored-only", "--generator", "g"], 2, "--generator is given"),
    ],
)
def test_errors(
    words: list[str],
    status: int,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == status
    out, err = capsys.readouterr()
    assert message in err
    assert err.count("\n") == 1
    assert out == ""
    assert list(tmp_path.iterdir()) == []
