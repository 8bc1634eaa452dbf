"""Half precision: weights, activations and caches in float16, for devices that compute in it.

What stays float32: biases, logits and vectors at the graph's border (the product that gives the logits does round); the
pooling of vectors; and, where float16 might not hold them, the sums that pass by a stack's layers (`residual_nodes`).
Products, softmax and norms of float16 sum up in float32 inside ONNX Runtime. Its CPU provider computes in float32 and
rounds only weights and caches: it does not show all of the error, and no overflow, for which there is
`rag_infer.export.half_range`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, external_data_helper, helper, numpy_helper

from rag_infer.errors import ExportError
from rag_infer.export.graph_file import WeightFile, write_graph
from rag_infer.export.tracing import quiet_exporter

# The largest number of the format.
LARGEST = float(np.finfo(np.float16).max)
# Inputs and outputs that stay float32; those of the caches do not, so that none is converted on the way.
FLOAT32_BORDER = ("attention_bias", "cross_bias", "logits", "embedding")

NORMS = ("LayerNormalization", "SimplifiedLayerNormalization")
POOLING = ("ReduceSum", "ReduceL2", "Max", "Div")
# The last product of the feed-forward layers: in T5 it is above float16's range, and in float32 in transformers too.
FEED_FORWARD_OUTPUT = (".feed_forward.output.weight", ".down.weight")
# Operators of which only the first input is a number to compute with.
FIRST_INPUT_ALONE = ("Gather", "GatherND", "ReduceSum")

# Of a graph, the names of the nodes that stay float32.
Keep = Callable[[GraphProto], set[str]]


def halve_graph(
    source: Path, target: Path, *, keep: Keep | None = None, file: WeightFile | None = None
) -> None:
    """Convert a graph to float16.

    Args:
        source: the float32 graph.
        target: where the converted one goes.
        keep: what stays float32; default nothing. Weights are stored in float16 all the same.
        file: where its weights go, default ``target.data``.

    Raises:
        ExportError: a weight is above float16's range.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    model = onnx.load(source, load_external_data=False)
    graph = model.graph
    border = {v.name for v in (*graph.input, *graph.output)}
    kept = keep(graph) if keep is not None else set()
    weights = _take_weights(graph)
    for tensor in graph.initializer:  # small ones: the converter would cut them to its range without a word
        _halved(tensor, source.parent)
    # As inputs the weights get their type; a model of any size can be converted without reading them.
    graph.input.extend(helper.make_tensor_value_info(n, t.data_type, t.dims) for n, t in weights.items())
    _declare(graph, kept)
    with quiet_exporter():
        model = convert_float_to_float16(
            model,
            keep_io_types=[name for name in FLOAT32_BORDER if name in border],
            disable_shape_infer=True,
            op_block_list=[],
            node_block_list=sorted(kept),
        )
        _drop_repeated(model.graph)
        # Between two nodes that stay float32 nothing is rounded.
        cleaned = OnnxModel(model)
        cleaned.disable_shape_inference()
        cleaned.remove_cascaded_cast_nodes()
        cleaned.remove_useless_cast_nodes()
    graph = cleaned.model.graph
    inputs = [v for v in graph.input if v.name not in weights]
    del graph.input[:]
    graph.input.extend(inputs)
    del graph.value_info[:]
    arrays = {name: _halved(tensor, source.parent) for name, tensor in weights.items()}
    write_graph(cleaned.model, arrays, target, file=file)


def pooling_nodes(graph: GraphProto) -> set[str]:
    """What turns a text encoder's tokens into a vector: sums of hundreds of numbers, and their lengths."""
    return {n.name for n in graph.node if n.op_type in POOLING or "embedding" in n.output}


def residual_nodes(graph: GraphProto) -> set[str]:
    """The norms, the sums that they read, and the feed-forward layers' last products (see `FEED_FORWARD_OUTPUT`)."""
    makers = {name: node for node in graph.node for name in node.output}
    weights = {tensor.name for tensor in graph.initializer}
    found: dict[str, NodeProto] = {}
    waiting = [node for node in graph.node if node.op_type in NORMS]
    while waiting:
        node = waiting.pop()
        if node.name in found:
            continue
        found[node.name] = node
        before = [makers[name] for name in _summands(node) if name in makers]
        waiting += [n for n in before if n.op_type == "Add" or (_selects(n) and n.input[0] not in weights)]
        waiting += [n for n in before if n.op_type == "MatMul" and n.input[1].endswith(FEED_FORWARD_OUTPUT)]
    return set(found)


def _summands(node: NodeProto) -> Collection[str]:
    """The inputs through which a sum goes on."""
    if node.op_type == "Add":
        return list(node.input)
    return node.input[:1] if node.op_type in NORMS or _selects(node) else []


def _selects(node: NodeProto) -> bool:
    return node.op_type in ("Gather", "GatherND")


def _declare(graph: GraphProto, kept: Collection[str]) -> None:
    """Name the types of what goes into and out of nodes that stay float32: the converter casts where it knows them."""
    names: dict[str, None] = {}
    for node in graph.node:
        if node.name in kept:
            inputs = node.input[:1] if node.op_type in FIRST_INPUT_ALONE else node.input
            names |= dict.fromkeys([*inputs, *node.output])
    known = {v.name for v in (*graph.input, *graph.output, *graph.value_info, *graph.initializer)}
    graph.value_info.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names if name not in known
    )


def _drop_repeated(graph: GraphProto) -> None:
    """Where two nodes that stay float32 read the same value, the converter writes its cast twice, under one name."""
    nodes = {node.output[0]: node for node in reversed(graph.node)}
    once = [node for node in graph.node if nodes[node.output[0]] is node]
    del graph.node[:]
    graph.node.extend(once)


def _take_weights(graph: GraphProto) -> dict[str, TensorProto]:
    """Take the tensors out that lie in the external data file, by name."""
    weights = {t.name: t for t in graph.initializer if external_data_helper.uses_external_data(t)}
    small = [t for t in graph.initializer if t.name not in weights]
    del graph.initializer[:]
    graph.initializer.extend(small)
    return weights


def _halved(tensor: TensorProto, folder: Path) -> NDArray[np.generic]:
    array: NDArray[np.generic] = numpy_helper.to_array(tensor, str(folder))
    if array.dtype != np.float32:
        return array
    largest = float(np.abs(array).max(initial=0.0))
    if not largest <= LARGEST:
        raise ExportError(
            f"the weight {tensor.name} reaches {largest:.4g}, above float16's {LARGEST:.0f}: export in fp32"
        )
    return array.astype(np.float16)
