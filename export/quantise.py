"""Dynamic int8: weights as 8-bit integers with a scale per output channel, activations quantised run by run.

The embedding stays float32. A tied head is written apart as an integer product of its own: it is the largest of all
matrices and is read whole for every token.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from rag_infer.export.graph_file import split_weights, write_graph
from rag_infer.export.tracing import quiet_exporter

# The products by constant weights: plain, and inside the encoder's fused attention.
OPERATORS = ["MatMul", "Attention"]


def quantise_graph(source: Path, target: Path, *, keep: Collection[str] = ()) -> None:
    """Quantise a graph.

    Weights take 7 of the 8 bits (``reduce_range``): processors without VNNI add pairs of products in 16 bits, which
    full-range weights overflow without a word. Measured on one with AVX2 alone, SmolLM2-135M: no token of the fp32
    answers is left; with 7 bits, 95 of 100 are.

    Args:
        source: the float32 graph.
        target: where the quantised one goes, with its weights in ``target.data``.
        keep: names of weights that stay float32.
    """
    nodes = onnx.load(source, load_external_data=False).graph.node
    kept = [node.name for node in nodes if node.op_type in OPERATORS and node.input[1] in keep]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        path = Path(folder) / "quantised.onnx"
        with quiet_exporter():
            quantize_dynamic(
                source,
                path,
                op_types_to_quantize=OPERATORS,
                nodes_to_exclude=kept,
                per_channel=True,
                reduce_range=True,
                weight_type=QuantType.QInt8,
                use_external_data_format=True,
                # ONNX's shape inference does not know ONNX Runtime's own operators.
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
        graph = onnx.load(path)
    write_graph(graph, split_weights(graph), target)
