"""What loading a session changes in the process, and puts back."""

from __future__ import annotations

import contextlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from rag_infer import session
from rag_infer.errors import DeviceError
from rag_infer.session import Session, check_device


def test_sessions_that_load_at_once_leave_the_output_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine loads its two models side by side; on CUDA each takes the output away for a moment."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has no CUDA provider")

    def slow(*_: Any, **__: Any) -> None:
        time.sleep(0.05)

    monkeypatch.setattr(onnxruntime, "preload_dlls", slow)
    before = sys.stdout

    def load(delay: float) -> None:
        time.sleep(delay)
        with contextlib.suppress(DeviceError):
            check_device("cuda")

    with ThreadPoolExecutor(max_workers=2) as pool:
        list(pool.map(load, (0.0, 0.02)))
    assert sys.stdout is before


def test_a_sum_is_not_fused_with_the_norm_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU; `benchmarks/bench_norms.py` says why."""
    graph = helper.make_graph(
        [
            helper.make_node("Add", ["x", "other"], ["sum"]),
            helper.make_node("LayerNormalization", ["sum", "weight", "bias"], ["y"], axis=-1),
        ],
        "norm",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 4]) for name in ("x", "other")],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 3, 4])],
        [numpy_helper.from_array(np.ones(4, dtype=np.float32), name) for name in ("weight", "bias")],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "norm.onnx")

    class Written(onnxruntime.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            self.optimized_model_filepath = str(tmp_path / "optimised.onnx")

    monkeypatch.setattr(onnxruntime, "SessionOptions", Written)
    Session(tmp_path / "norm.onnx", threads=1)
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    assert [node.op_type for node in nodes] == ["Add", "LayerNormalization"]
    # What it would be without:
    onnxruntime.InferenceSession(tmp_path / "norm.onnx", Written(), providers=["CPUExecutionProvider"])
    nodes = onnx.load(tmp_path / "optimised.onnx").graph.node
    assert [node.op_type for node in nodes] == ["SkipLayerNormalization"]
    assert session.unwanted("cuda:0") == []
