"""The graph of a text encoder: optimum's BERT body, fused, with pooling, projection and normalisation appended."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from rag_infer.export.graph_file import split_weights, write_graph
from rag_infer.export.text_encoder import LoadedEncoder
from rag_infer.export.text_tower import write_tower_graph
from rag_infer.export.tracing import quiet_exporter

OPSET = 17
INPUTS = {"input_ids": {0: "texts", 1: "tokens"}, "attention_mask": {0: "texts", 1: "tokens"}}
SMALLEST_NORM = 1e-12  # as torch.nn.functional.normalize
SMALLEST_COUNT = 1e-9  # as sentence-transformers' mean pooling


def write_encoder_graph(encoder: LoadedEncoder, path: Path) -> None:
    """Write ``path`` and ``path.data``: int64 ``input_ids`` and ``attention_mask`` to float32 ``embedding``."""
    if encoder.tower is not None:
        write_tower_graph(encoder.tower, path)
        return
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        body = Path(folder) / "body.onnx"
        _export_body(encoder, body)
        graph = _fuse(body, encoder.body.config)
    _append(graph, encoder)
    weights = split_weights(graph)
    write_graph(graph, weights, path)


def _export_body(encoder: LoadedEncoder, path: Path) -> None:
    from optimum.exporters.onnx.convert import export_pytorch
    from optimum.exporters.onnx.model_configs import BertOnnxConfig

    class BodyConfig(BertOnnxConfig):  # type: ignore[misc]
        """The body's inputs and outputs; token types are zeros inside the graph."""

        inputs = INPUTS
        outputs = {"last_hidden_state": INPUTS["input_ids"]} | (
            {"pooler_output": {0: "texts"}} if encoder.pooling == "pooler" else {}
        )

    with quiet_exporter():
        export_pytorch(
            encoder.body, BodyConfig(encoder.body.config, task="feature-extraction"), opset=OPSET, output=path
        )


def _fuse(path: Path, config: Any) -> onnx.ModelProto:
    """Attention, layer normalisation and GELU as one node each.

    Not with the additions before them: with a normalisation that is slower on the CPU (`rag_infer.session`), and a bias
    becomes part of an int8 product.
    """
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.enable_skip_layer_norm = False
    options.enable_bias_skip_layer_norm = False
    options.enable_bias_gelu = False
    with quiet_exporter():
        optimised = optimize_model(
            str(path),
            model_type="bert",
            num_heads=config.num_attention_heads,
            hidden_size=config.hidden_size,
            optimization_options=options,
            opt_level=0,
        )
    graph: onnx.ModelProto = optimised.model
    # The optimizer uses ONNX Runtime's own operators, but declares them only in a file it writes itself.
    if all(entry.domain != "com.microsoft" for entry in graph.opset_import):
        graph.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return graph


class _Appender:
    """Adds nodes and weights to the end of a graph."""

    def __init__(self, graph: onnx.ModelProto) -> None:
        self._graph = graph.graph

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self._graph.initializer.append(numpy_helper.from_array(value, name))
        return name

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self._graph.node.append(
            helper.make_node(kind, inputs, [output], name=f"{kind}_{output}", **attributes)
        )
        return output


def _append(graph: onnx.ModelProto, encoder: LoadedEncoder) -> None:
    add = _Appender(graph)
    # The pooler is the model's own, and in the body's graph.
    vector = "pooler_output" if encoder.pooling == "pooler" else POOLINGS[encoder.pooling](add)
    if encoder.projection is not None:
        weight = add.constant(
            "projection_weight", np.ascontiguousarray(encoder.projection.weight.detach().numpy().T)
        )
        bias = add.constant("projection_bias", encoder.projection.bias.detach().numpy())
        product = add.node("MatMul", [vector, weight], "projected_without_bias")
        vector = add.node("Add", [product, bias], "projected")
    if encoder.normalise:
        norm = add.node("ReduceL2", [vector], "norm", axes=[-1], keepdims=1)
        floor = add.constant("smallest_norm", np.array(SMALLEST_NORM, dtype=np.float32))
        vector = add.node("Div", [vector, add.node("Max", [norm, floor], "safe_norm")], "normalised")
    add.node("Identity", [vector], "embedding")
    del graph.graph.output[:]
    shape = ["texts", encoder.dim]
    graph.graph.output.append(helper.make_tensor_value_info("embedding", onnx.TensorProto.FLOAT, shape))


def _mean(add: _Appender) -> str:
    """Average of the tokens under the mask."""
    last = add.constant("last_axis", np.array([-1], dtype=np.int64))
    mask = add.node("Cast", ["attention_mask"], "mask", to=onnx.TensorProto.FLOAT)
    column = add.node("Unsqueeze", [mask, last], "mask_column")
    tokens = add.constant("token_axis", np.array([1], dtype=np.int64))
    masked = add.node("Mul", ["last_hidden_state", column], "masked")
    total = add.node("ReduceSum", [masked, tokens], "total", keepdims=0)
    count = add.node("ReduceSum", [mask, tokens], "count", keepdims=1)
    floor = add.constant("smallest_count", np.array(SMALLEST_COUNT, dtype=np.float32))
    return add.node("Div", [total, add.node("Max", [count, floor], "safe_count")], "mean")


def _cls(add: _Appender) -> str:
    """The first token."""
    first = add.constant("first_token", np.array(0, dtype=np.int64))
    return add.node("Gather", ["last_hidden_state", first], "first", axis=1)


POOLINGS = {"mean": _mean, "cls": _cls}
