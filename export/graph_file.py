"""Writing ONNX graphs whose weights lie in an external data file."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, external_data_helper, helper, numpy_helper

# Windows maps files in units of 64 KiB, others of a page: at a multiple of both a weight is mapped, not read.
ALIGNMENT = 65536
# Smaller tensors (shapes, axes, scalars) stay in the graph.
SMALLEST_EXTERNAL = 1024


class WeightFile:
    """An external data file that several graphs may share; equal weights are written once.

    Args:
        path: the file; graphs that refer to it lie in its folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offsets: dict[tuple[int, bytes], int] = {}
        path.write_bytes(b"")

    def add(self, name: str, array: NDArray[Any]) -> TensorProto:
        """Write an array; returns the initializer that refers to it."""
        data = np.ascontiguousarray(array)
        key = (data.nbytes, hashlib.sha256(data.data if data.size else b"").digest())
        if key not in self._offsets:
            with self.path.open("ab") as stream:
                if data.nbytes >= ALIGNMENT:
                    stream.write(b"\0" * (-stream.tell() % ALIGNMENT))
                self._offsets[key] = stream.tell()
                stream.write(data.data)
        return _external(name, array, self.path.name, self._offsets[key])


def write_graph(
    graph: onnx.ModelProto, weights: Mapping[str, NDArray[Any]], path: Path, *, file: WeightFile | None = None
) -> None:
    """Write ``path``, with ``weights`` as initializers of their names.

    Args:
        graph: a model in which the weights are names without a value; changed in place.
        weights: arrays by name; those the graph does not use are left out.
        path: the graph's file.
        file: where the weights go, default ``path.data``.
    """
    nodes = graph.graph.node
    # The exporter writes equal weights (norms that are all ones) once, and the others as Identity of it.
    used = {name for n in nodes for name in n.input} - {name for n in nodes for name in n.output}
    file = file or WeightFile(path.with_name(path.name + ".data"))
    for name, array in weights.items():
        if name in used:
            graph.graph.initializer.append(file.add(name, array))
    path.write_bytes(graph.SerializeToString())


def split_weights(graph: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    """Take the large weights out of a graph, by name; they are then names without a value."""
    weights = {}
    small = []
    for tensor in graph.graph.initializer:
        if tensor.ByteSize() >= SMALLEST_EXTERNAL:
            weights[tensor.name] = numpy_helper.to_array(tensor)
        else:
            small.append(tensor)
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(small)
    return weights


def _external(name: str, array: NDArray[Any], location: str, offset: int) -> TensorProto:
    tensor = TensorProto(name=name, dims=array.shape, data_type=helper.np_dtype_to_tensor_dtype(array.dtype))
    tensor.raw_data = b""  # the helper refuses a tensor that has none
    external_data_helper.set_external_data(tensor, location, offset, array.nbytes)
    tensor.ClearField("raw_data")
    return tensor
