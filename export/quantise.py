"""Dynamic int8: weights as 8-bit integers with a scale per output channel, activations quantised run by run.

Embeddings stay float32 (but not a head that is tied to one), and what a family names
(`rag_infer.export.families.llama.FLOAT32_WEIGHTS`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from rag_infer.export.graph_file import WeightFile, split_weights, write_graph
from rag_infer.export.tracing import quiet_exporter

# The products by constant weights: plain, and inside the encoder's fused attention.
OPERATORS = ("MatMul", "Attention")
# The name of a head that is the embedding in float32.
HEAD = "head"


def quantise_graph(
    source: Path, target: Path, *, keep: Collection[str] = (), file: WeightFile | None = None
) -> None:
    """Quantise a graph.

    Weights are signed, which processors with VNNI multiply several times faster than unsigned ones. Those without add
    up signed products in 16 bits, which overflow without a word: there `rag_infer.session.Session` has ONNX Runtime
    turn the weights into unsigned ones, of the same value, when it loads them.

    Args:
        source: the float32 graph.
        target: where the quantised one goes.
        keep: endings of the names of weights that stay float32.
        file: where its weights go, default ``target.data``.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        path, untied = Path(folder) / "quantised.onnx", Path(folder) / "untied.onnx"
        write_untied(source, untied)
        nodes = onnx.load(untied, load_external_data=False).graph.node
        kept = [n.name for n in nodes if n.op_type in OPERATORS and n.input[1].endswith(tuple(keep))]
        with quiet_exporter():
            quantize_dynamic(
                untied,
                path,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_exclude=kept,
                per_channel=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=True,
                # ONNX's shape inference does not know ONNX Runtime's own operators.
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
        graph = onnx.load(path)
    write_graph(graph, split_weights(graph), target, file=file)


def write_untied(source: Path, target: Path) -> None:
    """Write a graph in which a head that reads the embedding across is a weight of its own: the embedding itself
    stays float32, and is read a row at a time.
    """
    model = onnx.load(source)
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    heads = [n for n in model.graph.node if n.op_type == "FusedMatMul" and n.input[1] in weights]
    for embedding in {node.input[1] for node in heads}:
        turned = np.ascontiguousarray(numpy_helper.to_array(weights[embedding]).T)
        model.graph.initializer.append(numpy_helper.from_array(turned, HEAD))
    for node in heads:
        node.op_type, node.domain, node.input[1] = "MatMul", "", HEAD
        del node.attribute[:]
    onnx.save(model, target, save_as_external_data=True, location=f"{target.name}.data")
