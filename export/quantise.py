"""Dynamic int8: weights as 8-bit integers with a scale per output channel, activations quantised as they come, with a
scale for all of a run or for each token.

Embeddings stay float32 (but not a head that is tied to one).
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from rag_infer.export.graph_file import WeightFile, split_weights, write_graph
from rag_infer.export.tracing import quiet_exporter

# The products by constant weights: plain, and inside the encoder's fused attention.
OPERATORS = ("MatMul", "Attention")
DOMAIN = "com.microsoft"
# The name of a head that is the embedding in float32.
HEAD = "head"
# What is computed token by token, as ends of names.
PER_TOKEN = ("magnitude", "largest", "scale", "scaled", "rounded", "unscaled")
# What becomes of a weight, as ends of names.
BY_CHANNEL = ("quantized", "scale", "zero_point")
LARGEST = 127
# A token that was divided by its largest magnitude lies between -1 and 1: unsigned integers around the middle. One of
# zeros alone is divided by the smallest.
CONSTANTS: Mapping[str, NDArray[Any]] = {
    "step": np.array(1 / LARGEST, dtype=np.float32),
    "middle": np.array(128, dtype=np.uint8),
    "smallest": np.array(1e-30, dtype=np.float32),
}


def quantise_graph(
    source: Path, target: Path, *, by_token: bool = False, file: WeightFile | None = None
) -> None:
    """Quantise a graph.

    Weights are signed, which processors with VNNI multiply up to twice as fast as unsigned ones. Those without add
    up signed products in 16 bits, which overflow without a word: there `rag_infer.session.Session` has ONNX Runtime
    turn the weights into unsigned ones, of the same value, when it loads them.

    Args:
        source: the float32 graph.
        target: where the quantised one goes.
        by_token: whether each token's activations get a scale of their own (`quantise_by_token`), or all of a run one.
        file: where its weights go, default ``target.data``.
    """
    model = onnx.load(source)
    untie_heads(model)
    if by_token:
        quantise_by_token(model)
    else:
        model = _quantise_by_run(model, target.parent)
    write_graph(model, split_weights(model), target, file=file)


def _quantise_by_run(model: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """Make products by weights those of 8-bit integers, with a scale for all activations of a run."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path, source = Path(place) / "quantised.onnx", Path(place) / "float32.onnx"
        onnx.save(model, source, save_as_external_data=True, location=f"{source.name}.data")
        with quiet_exporter():
            quantize_dynamic(
                source,
                path,
                op_types_to_quantize=list(OPERATORS),
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=True,
                # ONNX's shape inference does not know ONNX Runtime's own operators.
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
        return onnx.load(path)


def untie_heads(model: onnx.ModelProto) -> None:
    """Give a head that reads the embedding across a weight of its own: the embedding itself stays float32, and is read
    a row at a time.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    heads = [n for n in model.graph.node if n.op_type == "FusedMatMul" and n.input[1] in weights]
    for embedding in {node.input[1] for node in heads}:
        turned = np.ascontiguousarray(numpy_helper.to_array(weights[embedding]).T)
        model.graph.initializer.append(numpy_helper.from_array(turned, HEAD))
    for node in heads:
        node.op_type, node.domain, node.input[1] = "MatMul", "", HEAD
        del node.attribute[:]


def quantise_by_token(model: onnx.ModelProto) -> None:
    """Make every product by a weight one of 8-bit integers, with a scale for each token and each output channel.

    A token is divided by its largest magnitude, so that all of them fill the same range: none is rounded more coarsely
    because of another, nor differently in another batch (per-token scales, Yao et al. 2022, "ZeroQuant").

    Args:
        model: the float32 graph; changed in place.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    quantised: dict[str, onnx.TensorProto] = {}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1] in weights:
            quantised[node.input[1]] = weights[node.input[1]]
            nodes += _by_token(node)
        else:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for tensor in quantised.values():
        model.graph.initializer.extend(_by_channel(tensor))
        model.graph.initializer.remove(tensor)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in CONSTANTS.items())
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _by_token(product: onnx.NodeProto) -> list[onnx.NodeProto]:
    (x, weight), y = product.input, product.output[0]
    magnitude, largest, scale, scaled, rounded, unscaled = (f"{y}_{name}" for name in PER_TOKEN)
    # A zero point for each weight: where ONNX Runtime makes unsigned weights of them, it changes each one's.
    integers = [f"{weight}_{name}" for name in BY_CHANNEL]
    quantised = [rounded, integers[0], "step", integers[1], "middle", integers[2]]
    return [
        helper.make_node("Abs", [x], [magnitude]),
        helper.make_node("ReduceMax", [magnitude], [largest], axes=[-1], keepdims=1),
        helper.make_node("Max", [largest, "smallest"], [scale]),
        helper.make_node("Div", [x, scale], [scaled]),
        helper.make_node("QuantizeLinear", [scaled, "step", "middle"], [rounded]),
        helper.make_node("MatMulIntegerToFloat", quantised, [unscaled], domain=DOMAIN),
        helper.make_node("Mul", [unscaled, scale], [y]),
    ]


def _by_channel(tensor: onnx.TensorProto) -> list[onnx.TensorProto]:
    weight = numpy_helper.to_array(tensor)
    scale = np.maximum(np.abs(weight).max(axis=0), CONSTANTS["smallest"]) / np.float32(LARGEST)
    quantised = np.rint(weight / scale).astype(np.int8)
    zero = np.array(0, dtype=np.int8)
    values = zip(BY_CHANNEL, (quantised, scale, zero), strict=True)
    return [numpy_helper.from_array(value, f"{tensor.name}_{name}") for name, value in values]
