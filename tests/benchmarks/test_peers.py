"""The contenders of the peers' environment do the work they are timed for; skipped where it has not been made."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import bench_decode, bench_encode
from benchmarks.arena import PEERS_PYTHON, contest

pytestmark = [
    pytest.mark.skipif(not PEERS_PYTHON.exists(), reason="no peers' environment: run `make bench-peers`"),
    pytest.mark.slow,
    pytest.mark.real_model,
]


def test_encoders_give_the_same_vectors(minilm_folder: Path, tmp_path: Path) -> None:
    texts = ["The river runs deep to the sea.", "The red cat sat on the mat, and stayed.", "Snow."]
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    contenders = bench_encode.peers({"texts": str(tmp_path / "texts.json"), "threads": 1}, minilm_folder)
    comparison, answers = contest("three texts", contenders, 1)
    bench_encode.check(answers)
    assert list(answers) == ["sentence-transformers", "sentence-transformers ONNX", "fastembed"]
    assert {"sentence-transformers", "torch", "fastembed"} <= set(comparison.versions)


@pytest.mark.usefixtures("demo_bundle")
def test_decoders_give_each_row_the_same_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--n-docs", "2", "--context", "12", "--tokens", "3"]
    assert bench_decode.main([*sizes, "--repeats", "1", "--threads", "1"]) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    first, whole, _ = record["results"]
    assert list(first["contenders"]) == list(whole["contenders"])
    assert set(bench_decode.EXACT) < set(whole["contenders"])
    assert {"xllamacpp", "onnxruntime-genai", "rag_infer"} <= set(record["versions"])
