"""int8 on processors without VNNI, whose signed products overflow: Valgrind's own processor has AVX2 and no more."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from rag_infer.export import export_bundle
from rag_infer.export.quantise import quantise_graph
from tests.export.checkpoints import write_bert

VALGRIND = shutil.which("valgrind")
ROWS, WIDTH, COLUMNS = 3, 64, 32
PROGRAM = """
import sys
from pathlib import Path
import numpy as np
import rag_infer
from rag_infer.session import Session
folder = Path(sys.argv[1])
session = Session(folder / "products.onnx", threads=1)
rows = np.load(folder / "rows.npy")
bundle = rag_infer.Bundle.load(folder / "bundle")
encoder = rag_infer.TextEncoder.from_bundle(bundle, bundle.manifest.question_encoder, threads=1)
found = {
    "products": session.run({"x": rows})[0],
    "by_token": Session(folder / "by_token.onnx", threads=1).run({"x": rows})[0],
    "vectors": encoder.encode(["a b c", "d e f g h", "i"]),
}
np.savez(sys.argv[2], **found)
"""


def write_products(path: Path) -> None:
    """What quantising makes of a MatMul: weights of 127 and -127, of which two products leave 16 bits."""
    weights = np.full((WIDTH, COLUMNS), 127, dtype=np.int8)
    weights[:, 1::2] = -127
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["quantised", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["quantised", "weights", "zero", "weights_zero"], ["sums"]),
        helper.make_node("Cast", ["sums"], ["products"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "weights_scale"], ["both"]),
        helper.make_node("Mul", ["products", "both"], ["y"]),
    ]
    initializers = {
        "weights": weights,
        "weights_zero": np.zeros(COLUMNS, dtype=np.int8),
        "weights_scale": np.full(COLUMNS, 1 / 127, dtype=np.float32),
    }
    write(path, nodes, initializers)


def write(path: Path, nodes: list[onnx.NodeProto], initializers: dict[str, np.ndarray]) -> None:
    """A graph from "x" to "y"."""
    graph = helper.make_graph(
        nodes,
        "products",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, COLUMNS])],
        [numpy_helper.from_array(array, name) for name, array in initializers.items()],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)


def write_by_token(path: Path) -> None:
    """The same from weights of 1 and -1, with a scale for each token."""
    weights = np.ones((WIDTH, COLUMNS), dtype=np.float32)
    weights[:, 1::2] = -1
    source = path.with_name("float32.onnx")
    # Two products: where ONNX Runtime changes the weights, it changes each product's.
    products = [helper.make_node("MatMul", ["x", f"weights{i}"], [f"y{i}"]) for i in range(2)]
    mean = helper.make_node("Mean", ["y0", "y1"], ["y"])
    write(source, [*products, mean], {"weights0": weights, "weights1": weights})
    quantise_graph(source, path, by_token=True)


@pytest.mark.skipif(VALGRIND is None, reason="needs valgrind, which has a processor of its own without VNNI")
def test_signed_weights_do_not_overflow(tmp_path: Path) -> None:
    assert VALGRIND is not None
    (tmp_path / "bert").mkdir()
    write_bert(tmp_path / "bert")
    export_bundle(tmp_path / "bundle", question_encoder=tmp_path / "bert", precision="int8")
    write_products(tmp_path / "products.onnx")
    write_by_token(tmp_path / "by_token.onnx")
    rows = np.ones((ROWS, WIDTH), dtype=np.float32)
    np.save(tmp_path / "rows.npy", rows)
    found = {}
    for name, runner in (("here", []), ("without", [VALGRIND, "--tool=none", "-q"])):
        command = [*runner, sys.executable, "-c", PROGRAM, str(tmp_path), str(tmp_path / f"{name}.npz")]
        subprocess.run(
            command, check=True, timeout=600, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
        found[name] = np.load(tmp_path / f"{name}.npz")
    expected = np.tile(np.where(np.arange(COLUMNS) % 2, -WIDTH, WIDTH), (ROWS, 1))
    for arrays in found.values():
        np.testing.assert_allclose(arrays["products"], expected, rtol=1e-5)
        np.testing.assert_allclose(arrays["by_token"], expected, rtol=1e-5)
    np.testing.assert_allclose(found["without"]["vectors"], found["here"]["vectors"], atol=1e-4)
