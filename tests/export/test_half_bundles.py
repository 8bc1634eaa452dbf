"""Bundles exported with precision fp16: what they say of themselves, and that their answers are those of fp32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_infer import GenerationConfig, Generator
from rag_infer.bundle import Bundle
from rag_infer.cli.main import main
from rag_infer.encode import TextEncoder
from rag_infer.errors import ExportError
from rag_infer.export import export_bundle, reverify_bundle
from rag_infer.export.parity import LIMITS
from rag_infer.verify import verify_bundle
from tests.export.checkpoints import TEXTS, write_dpr, write_sentence_transformers
from tests.seq2seq_checkpoints import FAMILIES, write_seq2seq
from tests.tiny_llama import write_llama

PRECISIONS = ("fp32", "fp16")
STRATEGIES = ("rag-token", "rag-sequence")
# Of log-probabilities of answers of eight tokens.
SCORE_TOLERANCE = 0.02


def write(folder: Path, kind: str) -> None:
    """A generator's checkpoint whose best tokens are apart by more than float16 rounds."""
    if kind == "llama":
        write_llama(folder, initializer_range=0.1)
    else:
        write_seq2seq(folder, kind, **({"initializer_factor": 0.5} if "t5" in kind else {"init_std": 0.1}))


def contexts(kind: str) -> dict[str, Any]:
    """Two questions with three passages each, of unequal length."""
    rows = [[6, 9, 12, 14], [7, 20, 21], [8, 30, 31, 32, 33], [10, 11], [13, 40, 41, 42], [15, 50, 51]]
    end = [] if kind == "llama" else [2 if kind not in ("t5", "flan-t5", "marian") else 1]
    rows = [row + end for row in rows]
    width = max(map(len, rows))
    return {
        "context_input_ids": np.array([row + [0] * (width - len(row)) for row in rows]),
        "context_attention_mask": np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows]),
        "doc_scores": np.array([[1.0, 0.5, 0.2], [0.3, 0.9, 0.1]], dtype=np.float32),
    }


@pytest.mark.parametrize("kind", ["llama", *FAMILIES])
def test_answers_and_scores_are_those_of_fp32(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "c", kind)
    generators, sizes = {}, {}
    for precision in PRECISIONS:
        bundle = export_bundle(tmp_path / precision, generator=tmp_path / "c", precision=precision)
        sizes[precision] = sum(r.size for n, r in bundle.manifest.files.items() if n.endswith(".data"))
        generators[precision] = Generator.from_pretrained(bundle.folder, threads=1)
    assert sizes["fp16"] <= 0.51 * sizes["fp32"]
    for strategy in STRATEGIES:
        settings: dict[str, Any] = {"strategy": strategy, "num_beams": 3, "max_new_tokens": 8}
        config = GenerationConfig(**settings)
        expected, found = (
            g.generate_from_contexts(**contexts(kind), config=config) for g in generators.values()
        )
        np.testing.assert_array_equal(found.sequences, expected.sequences)
        np.testing.assert_allclose(found.scores, expected.scores, atol=SCORE_TOLERANCE)
        labels = expected.sequences
        scored = [g.score(**contexts(kind), labels=labels, strategy=strategy) for g in generators.values()]
        np.testing.assert_allclose(scored[1], scored[0], atol=SCORE_TOLERANCE)
        assert not np.array_equal(scored[1], scored[0])


@pytest.mark.parametrize("kind", ["llama", "bart", "t5"])
def test_report(tmp_path: Path, kind: str) -> None:
    write(tmp_path / "c", kind)
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c", precision="fp16")
    assert bundle.manifest.precision == "fp16"
    report = bundle.manifest.parity["generator"]
    assert report["limits"] == report["limits_against_pytorch"] == LIMITS["fp16"]
    assert 1e-5 < report["against_pytorch"]["max_difference"] < LIMITS["fp16"]["max_difference"]
    assert report["agreement_with_fp32"]["prompts"] >= 20
    assert report["agreement_with_fp32"]["token_agreement"] > 0.95
    assert report["float16"]["float32_sums"] == (kind == "t5")
    assert 0 < report["float16"]["largest_value"] < 1e4
    assert all(check.passed for check in verify_bundle(bundle.folder, threads=1))
    assert [(c.against, c.passed) for c in reverify_bundle(bundle.folder)] == [
        ("sha256", True),
        ("PyTorch", True),
    ]
    assert not list(bundle.folder.rglob("*fp32*"))


@pytest.mark.parametrize("kind", ["sentence-transformers", "dpr"])
def test_vectors(tmp_path: Path, kind: str) -> None:
    settings: dict[str, Any] = {"question_encoder": tmp_path / "question"}
    (tmp_path / "question").mkdir()
    if kind == "dpr":
        (tmp_path / "passage").mkdir()
        write_dpr(tmp_path / "question", "question", projection_dim=12)
        write_dpr(tmp_path / "passage", "passage", projection_dim=12)
        settings["passage_encoder"] = tmp_path / "passage"
    else:
        write_sentence_transformers(tmp_path / "question")
    found = {}
    for precision in PRECISIONS:
        bundle = export_bundle(tmp_path / precision, precision=precision, **settings)
        part = bundle.manifest.question_encoder
        assert part is not None
        found[precision] = TextEncoder.from_bundle(bundle, part, threads=1).encode(TEXTS)
    assert found["fp16"].dtype == np.float32
    largest = np.abs(found["fp32"]).max()
    np.testing.assert_allclose(found["fp16"], found["fp32"], atol=5e-3 * largest)
    assert not np.array_equal(found["fp16"], found["fp32"])
    assert all(check.passed for check in verify_bundle(tmp_path / "fp16", threads=1))
    assert (
        Bundle.load(tmp_path / "fp16").manifest.parity["question_encoder"]["float16"]["largest_value"] < 1e3
    )


def large_feed_forward(folder: Path, kind: str, factor: float) -> None:
    """A checkpoint whose feed-forward layers' outputs are beyond float16."""
    if kind == "llama":
        llama = write_llama(folder)
        for layer in llama.model.layers:
            layer.mlp.down_proj.weight.data *= factor
        llama.save_pretrained(folder)
        return
    model = write_seq2seq(folder, kind)
    for stack in (model.encoder, model.decoder):
        for block in stack.block:
            block.layer[-1].DenseReluDense.wo.weight.data *= factor
    model.save_pretrained(folder)


@pytest.mark.parametrize("kind", ["llama", "t5", "flan-t5"])
def test_outputs_beyond_float16_stay_float32(tmp_path: Path, kind: str) -> None:
    large_feed_forward(tmp_path / "c", kind, 2e4)
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c", precision="fp16")
    assert bundle.manifest.parity["generator"]["float16"]["float32_sums"]
    assert bundle.manifest.parity["generator"]["float16"]["largest_value"] < 32752


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    model = write_llama(tmp_path / "c")
    model.model.layers[1].mlp.up_proj.weight.data *= 1e5
    model.save_pretrained(tmp_path / "c")
    with pytest.raises(ExportError, match=r"float16 ends at 65504.*: export in fp32"):
        export_bundle(tmp_path / "b", generator=tmp_path / "c", precision="fp16")
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "c", "llama")
    words = ["export", str(tmp_path / "b"), "--generator", str(tmp_path / "c"), "--precision", "fp16"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{tmp_path / 'b'}: fp16, ")
    assert "(limit 0.02)" in out
    assert "token agreement with fp32: " in out
    assert main(["verify", str(tmp_path / "b")]) == 0
    assert "ok   generator         against PyTorch" in capsys.readouterr().out
    assert main(["doctor", "--bundle", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bundle"]["precision"] == "fp16"
