"""What loading a session changes in the process, and puts back."""

from __future__ import annotations

import contextlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import onnxruntime
import pytest

from rag_infer.errors import DeviceError
from rag_infer.session import check_device


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
