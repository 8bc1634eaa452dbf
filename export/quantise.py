"""Dynamic int8: weights as 8-bit integers with a scale per output channel, activations quantised run by run.

Embeddings stay float32, and what a family names (`rag_infer.export.families.llama.FLOAT32_WEIGHTS`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

from rag_infer.export.graph_file import WeightFile, split_weights, write_graph
from rag_infer.export.tracing import quiet_exporter

# The products by constant weights: plain, and inside the encoder's fused attention.
OPERATORS = ("MatMul", "Attention")


def quantise_graph(
    source: Path, target: Path, *, keep: Collection[str] = (), file: WeightFile | None = None
) -> None:
    """Quantise a graph.

    Weights are unsigned: processors without VNNI multiply signed weights in 16-bit sums that overflow without a word,
    unsigned ones in 32 bits.

    Args:
        source: the float32 graph.
        target: where the quantised one goes.
        keep: endings of the names of weights that stay float32.
        file: where its weights go, default ``target.data``.
    """
    nodes = onnx.load(source, load_external_data=False).graph.node
    kept = [node.name for node in nodes if node.op_type in OPERATORS and node.input[1].endswith(tuple(keep))]
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        path = Path(folder) / "quantised.onnx"
        with quiet_exporter():
            quantize_dynamic(
                source,
                path,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_exclude=kept,
                per_channel=True,
                weight_type=QuantType.QUInt8,
                use_external_data_format=True,
                # ONNX's shape inference does not know ONNX Runtime's own operators.
                extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
            )
        graph = onnx.load(path)
    write_graph(graph, split_weights(graph), target, file=file)
