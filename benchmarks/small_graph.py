"""A graph of a few nodes, as a benchmark of single operators runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer import _kernels


def session(
    nodes: Sequence[Any],
    weights: Mapping[str, NDArray[Any]],
    sizes: tuple[int, int],
    threads: int,
    *,
    without: Sequence[str] = (),
) -> Any:
    """A graph from ``x`` to ``y``, in a session with the settings of `rag_infer.session.Session`.

    Args:
        nodes: onnx.NodeProto.
        weights: initializers by name.
        sizes: the widths of ``x`` and ``y``, float32 ``[n, width]``.
        threads: of a run.
        without: rewritings of the graph that ONNX Runtime must leave.
    """
    import onnx
    import onnxruntime
    from onnx import helper, numpy_helper

    values = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", width])
        for name, width in zip(("x", "y"), sizes, strict=True)
    ]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(list(nodes), "small", values[:1], values[1:], initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # The threads of one contender must not spin while another runs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if not _kernels.has_vnni():  # else products of signed weights overflow
        options.add_session_config_entry("session.x64quantprecision", "1")
    return onnxruntime.InferenceSession(
        model.SerializeToString(),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=list(without),
    )
