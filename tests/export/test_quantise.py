"""int8: what is quantised, what is not, and how far the result is from fp32."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rag_infer import Generator, _kernels
from rag_infer.bundle import Bundle
from rag_infer.encode import TextEncoder
from rag_infer.export import export_bundle
from rag_infer.export.quantise import quantise_graph
from rag_infer.session import Session
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
    # Four products a layer (queries, keys and values are one, gate and up another), and the head.
    assert len(quantised) == 2 * 4 + 1
    assert "head_quantized" in quantised
    assert kinds.keys() - quantised == {"cos", "sin"}
    # With a scale for each token, from a graph whose channels were evened out.
    decoder = onnx.load(bundles["int8"].folder / "generator/decoder.onnx")
    nodes = [node.op_type for node in decoder.graph.node]
    assert nodes.count("MatMulIntegerToFloat") == nodes.count("QuantizeLinear") == 2 * 4 + 1
    assert "DynamicQuantizeLinear" not in nodes
    norms = {t.name: numpy_helper.to_array(t) for t in decoder.graph.initializer if t.name.endswith("norm")}
    assert len(norms) == 2 * 2 + 1
    assert all(norm.std() > 0.01 for norm in norms.values()), "the checkpoint's are ones"
    encoder = weights(bundles["int8"], "question_encoder/model.onnx")
    assert sum(kind == TensorProto.INT8 for kind in encoder.values()) == 2 * 4
    assert sum(r.size for r in bundles["int8"].manifest.files.values()) < sum(
        r.size for r in bundles["fp32"].manifest.files.values()
    )


def test_additions_are_operators_of_their_own(bundles: dict[str, Bundle]) -> None:
    """A normalisation with its addition is slower on the CPU; a GELU's bias becomes part of the quantised product."""
    for bundle in bundles.values():
        graph = onnx.load(bundle.folder / "question_encoder/model.onnx", load_external_data=False).graph
        found = {node.op_type for node in graph.node}
        assert {"LayerNormalization", "Gelu", "Add"} <= found
        assert not {"SkipLayerNormalization", "BiasGelu"} & found
        assert {"Attention", "QAttention"} & found


def test_it_loads_and_computes_the_same_without_vnni(
    bundles: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime makes unsigned weights of the signed ones, where Session says so."""
    found = []
    for has_vnni in (True, False):
        monkeypatch.setattr(_kernels, "has_vnni", lambda has_vnni=has_vnni: has_vnni)
        generator = Generator.from_pretrained(bundles["int8"].folder, threads=1)
        ids = np.array([[5, 9, 30], [7, 8, 41]])
        priors = np.zeros((1, 2), dtype=np.float32)
        found.append(generator.score(ids, np.ones_like(ids), priors, np.array([[11, 50, 2]])))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)


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


def test_no_token_is_rounded_because_of_another(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(48, 24)).astype(np.float32)
    weight[:, 5] = 0
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, None, 48])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None, 24])],
        [numpy_helper.from_array(weight, "weight")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "float32.onnx")
    x = random.normal(size=(2, 7, 48)).astype(np.float32)
    x[0, 0] *= 1000
    x[1, 3] = 0
    exact = x @ weight
    errors = {}
    for by_token in (False, True):
        path = tmp_path / f"{by_token}.onnx"
        quantise_graph(tmp_path / "float32.onnx", path, by_token=by_token)
        session = Session(path, threads=1)
        (together,) = session.run({"x": x})
        (apart,) = session.run({"x": x[1:, 2:]})
        assert np.array_equal(apart, together[1:, 2:]) == by_token
        errors[by_token] = np.abs(together - exact)[1]
    assert errors[True].max() < 0.02 * np.abs(exact[1]).max()
    assert errors[False].max() > 20 * errors[True].max(), "one scale for all is that of the largest"
    assert not together[1, 3].any()
    assert not together[..., 5].any()
