"""int8: what is quantised, what is not, and how far the result is from fp32."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from rag_infer.bundle import Bundle
from rag_infer.encode import TextEncoder
from rag_infer.export import export_bundle
from rag_infer.verify import verify_bundle
from tests.export.checkpoints import TEXTS, write_sentence_transformers
from tests.tiny_llama import write_llama


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """The same checkpoints in both precisions."""
    folder = tmp_path_factory.mktemp("precisions")
    (folder / "encoder").mkdir()
    write_sentence_transformers(folder / "encoder")
    write_llama(folder / "llama", initializer_range=0.1)
    return {
        precision: export_bundle(
            folder / precision,
            question_encoder=folder / "encoder",
            generator=folder / "llama",
            precision=precision,
        )
        for precision in ("fp32", "int8")
    }


def weights(bundle: Bundle, graph: str) -> dict[str, int]:
    """Data type of each initializer that is a matrix."""
    loaded = onnx.load(bundle.folder / graph, load_external_data=False)
    return {t.name: t.data_type for t in loaded.graph.initializer if len(t.dims) == 2 and min(t.dims) > 1}


def test_products_are_int8_and_the_embedding_is_not(bundles: dict[str, Bundle]) -> None:
    kinds = weights(bundles["int8"], "generator/decoder.onnx")
    assert kinds.pop("embedding") == TensorProto.FLOAT
    quantised = {name for name, kind in kinds.items() if kind == TensorProto.INT8}
    # Two products a layer (gate and up are one), and the head.
    assert len(quantised) == 5
    assert "head_quantized" in quantised
    kept = [f"layers.{i}.{name}.weight" for i in range(2) for name in ("query_key_value", "down")]
    assert {name for name in kinds if name not in quantised} == {"cos", "sin", *kept}
    encoder = weights(bundles["int8"], "question_encoder/model.onnx")
    assert sum(kind == TensorProto.INT8 for kind in encoder.values()) == 2 * 4
    assert sum(r.size for r in bundles["int8"].manifest.files.values()) < sum(
        r.size for r in bundles["fp32"].manifest.files.values()
    )


def test_report(bundles: dict[str, Bundle]) -> None:
    report = bundles["int8"].manifest.parity["generator"]
    agreement = report["agreement_with_fp32"]
    assert agreement["prompts"] >= 20
    assert agreement["tokens"] >= agreement["prompts"]
    assert 0.5 < agreement["token_agreement"] <= 1
    assert "agreement_with_fp32" not in bundles["fp32"].manifest.parity["generator"]


def test_vectors_are_close(bundles: dict[str, Bundle]) -> None:
    found = {}
    for precision, bundle in bundles.items():
        part = bundle.manifest.question_encoder
        assert part is not None
        found[precision] = TextEncoder.from_bundle(bundle, part, threads=1).encode(TEXTS)
    assert (found["fp32"] * found["int8"]).sum(axis=1).min() > 0.95
    assert not np.array_equal(found["fp32"], found["int8"])


def test_verifies(bundles: dict[str, Bundle]) -> None:
    assert all(check.passed for check in verify_bundle(bundles["int8"].folder, threads=1))
