"""int8 for every kind of head, bias and vector: what becomes an integer, and that the answers stay close."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from rag_infer.bundle import Bundle
from rag_infer.encode import TextEncoder
from rag_infer.export import export_bundle
from rag_infer.verify import verify_bundle
from tests.export.checkpoints import TEXTS, write_bert, write_dpr
from tests.export.test_generators import decoder, logits
from tests.tiny_llama import write_llama

GENERATORS: dict[str, dict[str, Any]] = {
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
}


def matrices(bundle: Bundle, graph: str) -> dict[str, int]:
    """Data type of each initializer that is a matrix."""
    loaded = onnx.load(bundle.folder / graph, load_external_data=False)
    return {t.name: t.data_type for t in loaded.graph.initializer if len(t.dims) == 2 and min(t.dims) > 1}


@pytest.mark.parametrize("kind", GENERATORS)
def test_generator(tmp_path: Path, kind: str) -> None:
    model = write_llama(tmp_path / "c", initializer_range=0.1, **GENERATORS[kind])
    bundle = export_bundle(tmp_path / "b", generator=tmp_path / "c", precision="int8")
    kinds = matrices(bundle, "generator/decoder.onnx")
    assert kinds["embedding"] == TensorProto.FLOAT
    # Four products a layer, and the head, tied or not.
    assert sum(kind == TensorProto.INT8 for kind in kinds.values()) == 2 * 4 + 1
    assert kinds["head_quantized"] == TensorProto.INT8
    assert "head" not in kinds
    report = bundle.manifest.parity["generator"]
    assert report["agreement_with_fp32"]["prompts"] >= 20
    assert set(report["against_pytorch"]) == set(report["limits_against_pytorch"])
    prompt = list(range(20, 60))
    found = decoder(bundle).teacher_force([prompt], [50, 60])[0, 0].astype(np.float64)
    wanted = logits(model, prompt)[-1].astype(np.float64)
    assert found @ wanted > 0.95 * np.linalg.norm(found) * np.linalg.norm(wanted)
    assert all(check.passed for check in verify_bundle(bundle.folder, threads=1))
    # The fp32 graph it was made from is not left beside it.
    names = {p.name for p in (bundle.folder / "generator").iterdir()}
    assert names - {"append.onnx", "keep.onnx", "head.onnx"} == {
        "check.npz",
        "decoder.onnx",
        "decoder.onnx.data",
        "tokenizer.json",
    }


@pytest.mark.parametrize("kind", ["pooler", "projection"])
def test_encoder(tmp_path: Path, kind: str) -> None:
    (tmp_path / "c").mkdir()
    settings: dict[str, Any] = {"question_encoder": tmp_path / "c"}
    if kind == "pooler":
        write_bert(tmp_path / "c")
        settings["pooling"] = "pooler"
    else:
        write_dpr(tmp_path / "c", "question", projection_dim=12)
        (tmp_path / "p").mkdir()
        write_dpr(tmp_path / "p", "passage", projection_dim=12)
        settings["passage_encoder"] = tmp_path / "p"
    found = {}
    for precision in ("fp32", "int8"):
        bundle = export_bundle(tmp_path / precision, precision=precision, **settings)
        part = bundle.manifest.question_encoder
        assert part is not None
        found[precision] = TextEncoder.from_bundle(bundle, part, threads=1).encode(TEXTS).astype(np.float64)
    products = [np.linalg.norm(rows, axis=1) for rows in found.values()]
    cosine = (found["fp32"] * found["int8"]).sum(axis=1) / products[0] / products[1]
    assert cosine.min() > 0.95
    assert not np.array_equal(found["fp32"], found["int8"])
    kinds = matrices(Bundle.load(tmp_path / "int8"), "question_encoder/model.onnx")
    embeddings = {name: kind for name, kind in kinds.items() if "embeddings" in name}
    assert embeddings
    assert set(embeddings.values()) == {TensorProto.FLOAT}
