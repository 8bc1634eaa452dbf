"""The scripts that say where time goes, on small models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import bench_copying, bench_norms, bench_products
from benchmarks.profile_operators import profile
from benchmarks.report import DifferentAnswersError
from rag_infer import GenerationConfig
from rag_infer.export import export_bundle
from tests.seq2seq_checkpoints import VOCAB, write_seq2seq


def test_a_profile_counts_each_product_once(tmp_path: Path) -> None:
    """The head of a step: 2 rows x 1 beam x 16 wide x 96 tokens, a multiply-add counted as two."""
    model = write_seq2seq(tmp_path / "checkpoint", "bart", seed=0)
    bundle = export_bundle(tmp_path / "bundle", generator=tmp_path / "checkpoint").folder
    ids = np.arange(12, dtype=np.int64).reshape(2, 6) + 20
    scores = np.zeros((1, 2), dtype=np.float32)
    np.savez(tmp_path / "inputs.npz", ids=ids, mask=np.ones_like(ids), doc_scores=scores)
    config = GenerationConfig(max_length=6, min_length=6)
    found = profile(bundle, tmp_path / "inputs.npz", config, threads=1)
    encoder, step = found["graphs"]["encoder"], found["graphs"]["step"]
    assert 0 < sum(o.milliseconds for o in (*encoder.values(), *step.values())) < found["milliseconds"]
    assert encoder["Shape"].runs == 1
    steps = 5
    head = step["FusedMatMul"]
    assert head.runs % steps == 0
    wide = 2 * 2 * 1 * model.config.d_model * VOCAB * steps / 1e9
    assert head.gigaflops >= wide
    assert step["MatMul"].gigaflops > 0


def test_drafts_follow_the_longest_match() -> None:
    passages = [[1, 2, 3, 4], [9, 2, 7, 8]]
    assert bench_copying.draft([5, 2], passages, 2) == [3, 4]
    assert bench_copying.draft([9, 2], passages, 2) == [7, 8]
    assert bench_copying.draft([6], passages, 2) == []


def test_steps_of_an_answer() -> None:
    """Without drafts a step a token; a draft that is right saves steps, one that is wrong costs none."""
    assert bench_copying.steps([5, 6, 5], [[1, 2]], 3) == 3
    assert bench_copying.steps([1, 2, 3, 4], [[1, 2, 3, 4]], 3) == 2
    assert bench_copying.steps([1, 2, 3, 4], [[1, 2, 3, 4]], 1) == 3
    assert bench_copying.steps([1, 9, 8], [[1, 2, 3, 4]], 3) == 3


def test_products_of_eight_bits_are_those_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are timed; a wrong one stops it."""
    case = bench_products.run_case((64, 32), 3, threads=1, repeats=1, seed=0)
    assert list(case.milliseconds) == ["float32", "dynamic int8", "dynamic uint8", "MatMulNBits 8"]
    monkeypatch.setattr(bench_products, "TOLERANCE", 1e-6)
    with pytest.raises(DifferentAnswersError, match="dynamic int8"):
        bench_products.run_case((64, 32), 3, threads=1, repeats=1, seed=0)


def test_norms_are_those_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are timed; a wrong one stops it."""
    case = bench_norms.run_case(3, 16, threads=1, repeats=1, seed=0)
    assert list(case.milliseconds) == ["SkipLayerNormalization", "Add, LayerNormalization"]
    monkeypatch.setattr(bench_norms, "expected", lambda x, other: x)
    with pytest.raises(DifferentAnswersError, match="SkipLayerNormalization"):
        bench_norms.run_case(3, 16, threads=1, repeats=1, seed=0)
