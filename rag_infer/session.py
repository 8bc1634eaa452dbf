"""One ONNX Runtime session: device, threads, and how a run is stopped."""

from __future__ import annotations

import contextlib
import io
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rag_infer import _kernels
from rag_infer.errors import BundleError, DeviceError, GenerationError


def available_threads() -> int:
    """Processors this process may run on (its affinity, which cgroup tools set; not the machine's count)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_threads(threads: int | None) -> int:
    """The number of threads to use: the argument, else `available_threads`.

    Raises:
        ValueError: fewer than one.
    """
    if threads is None:
        return available_threads()
    if isinstance(threads, bool) or not isinstance(threads, int):
        raise TypeError(f"threads must be an integer, got {threads!r}")
    if threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    return threads


class Cancellation:
    """Stops the runs of one request from another thread: the next node is not begun.

    One object per request: ONNX Runtime remembers a terminated RunOptions.
    """

    def __init__(self) -> None:
        import onnxruntime

        self._options = onnxruntime.RunOptions()

    def cancel(self) -> None:
        """Stop now; runs in progress and later ones raise `GenerationError`."""
        self._options.terminate = True

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return bool(self._options.terminate)

    @property
    def run_options(self) -> Any:
        """The onnxruntime.RunOptions to give to a run."""
        return self._options


class Session:
    """An ONNX graph, loaded. `run` may be called from several threads at once.

    Args:
        path: the graph.
        device: "cpu", "cuda" or "cuda:N".
        threads: threads of one run on the CPU; default `available_threads`.

    Raises:
        BundleError: the file is missing or is no graph.
        DeviceError: the device is unknown or not to be had.
    """

    def __init__(self, path: Path, *, device: str = "cpu", threads: int | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = check_threads(threads)
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what goes wrong is raised
        # To plan which output may lie where another was takes longer, for a thousand nodes, than to load their weights;
        # the arena hands freed memory out again in any case.
        options.enable_mem_reuse = False
        # A plan of one block per shape of inputs: requests differ in shape, and the blocks of each leave gaps.
        options.enable_mem_pattern = False
        # Encoder and generator have a pool each; threads that spin after a run would steal the other's time.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if not _kernels.has_vnni():
            # Products of signed 8-bit weights would overflow on x86: they become unsigned ones, which are slower.
            options.add_session_config_entry("session.x64quantprecision", "1")
        providers = _providers(device)
        if not path.is_file():
            raise BundleError(f"{path} is missing")
        try:
            with _unlogged(device):
                self._session = onnxruntime.InferenceSession(
                    str(path), options, providers=providers, disabled_optimizers=unwanted(device)
                )
        except Exception as error:  # onnxruntime's errors share no base but RuntimeError and Exception
            raise BundleError(f"{path} cannot be loaded by ONNX Runtime: {_first_line(error)}") from error
        _demand(self._session, device)
        self.path = path
        self.device = device
        self.input_names: tuple[str, ...] = tuple(i.name for i in self._session.get_inputs())
        self.output_names: tuple[str, ...] = tuple(o.name for o in self._session.get_outputs())
        self._dtypes = {i.name: _DTYPES.get(i.type) for i in self._session.get_inputs()}

    def run(
        self,
        inputs: Mapping[str, NDArray[Any]],
        outputs: Sequence[str] | None = None,
        *,
        cancellation: Cancellation | None = None,
    ) -> list[NDArray[Any]]:
        """Run the graph; arrays in, arrays out (in the order of ``outputs``, default all).

        Raises:
            GenerationError: the run failed or was cancelled.
        """
        run_options = cancellation.run_options if cancellation is not None else None
        with self._failures(cancellation):
            result: list[NDArray[Any]] = self._session.run(outputs, dict(inputs), run_options)
        return result

    def run_on_device(
        self,
        inputs: Mapping[str, Any],
        *,
        kept: Sequence[str] = (),
        fetched: Sequence[str] = (),
        into: Mapping[str, Any] | None = None,
        cancellation: Cancellation | None = None,
    ) -> dict[str, Any]:
        """Run the graph on arrays that lie on the device, and leave there what is not asked for here.

        Args:
            inputs: arrays, or onnxruntime.OrtValue of an earlier run or of `to_device`.
            kept: outputs that stay on the device.
            fetched: outputs that come back.
            into: outputs that are written into arrays on the device, which may be inputs too where the graph's
                operator works in place.
            cancellation: stops the run.

        Returns:
            By name an OrtValue for what is kept, an array for what is fetched.

        Raises:
            GenerationError: the run failed or was cancelled.
        """
        run_options = cancellation.run_options if cancellation is not None else None
        kind, number = _place(self.device)
        with self._failures(cancellation):  # to bind may already ask for memory
            binding = self._session.io_binding()
            for name, value in inputs.items():
                if isinstance(value, np.ndarray):
                    binding.bind_cpu_input(name, np.ascontiguousarray(value))
                else:
                    binding.bind_ortvalue_input(name, value)
            for name in kept:
                binding.bind_output(name, kind, number)
            for name in fetched:
                binding.bind_output(name, "cpu")
            for name, value in (into or {}).items():
                binding.bind_ortvalue_output(name, value)
            self._session.run_with_iobinding(binding, run_options)
            values = dict(zip([*kept, *fetched], binding.get_outputs(), strict=False))
            return {name: v.numpy() if name in fetched else v for name, v in values.items()}

    def to_device(self, array: NDArray[Any]) -> Any:
        """A copy of an array on the device, an onnxruntime.OrtValue.

        Raises:
            GenerationError: the device has no room for it.
        """
        import onnxruntime

        with self._failures(None):
            return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), *_place(self.device))

    def dtype(self, name: str) -> np.dtype[Any]:
        """The dtype of an input."""
        found = self._dtypes[name]
        assert found is not None, f"{self.path.name} takes {name} in a type that is not known here"
        return found

    @contextlib.contextmanager
    def _failures(self, cancellation: Cancellation | None) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if cancellation is not None and cancellation.cancelled:
                raise GenerationError("cancelled") from error
            raise GenerationError(f"{self.path.name} failed: {_first_line(error)}") from error


# ONNX Runtime's names of the types that caches and inputs have.
_DTYPES: Mapping[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(int64)": np.dtype(np.int64),
}


def _place(device: str) -> tuple[str, int]:
    """ONNX Runtime's kind and number of a device."""
    kind, _, number = device.partition(":")
    return kind, int(number or 0)


def check_device(device: str) -> None:
    """Prove that a device can be used, by loading a graph of one node on it.

    Raises:
        DeviceError: it is unknown or not to be had.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with _unlogged(device):
        session = onnxruntime.InferenceSession(_IDENTITY_GRAPH, options, providers=_providers(device))
    _demand(session, device)


# An ONNX model y = Identity(x), opset 17.
_IDENTITY_GRAPH = (
    b'\x08\x08:7\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01gZ\x0f\n\x01x\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01'
    b"b\x0f\n\x01y\x12\n\n\x08\x08\x01\x12\x04\n\x02\x08\x01B\x04\n\x00\x10\x11"
)


# Held while standard output or ONNX Runtime's logger is another: two sessions that load at once would each put back
# what the other had set.
_PROCESS_WIDE = threading.RLock()


@contextlib.contextmanager
def _unlogged(device: str) -> Iterator[None]:
    """Keep ONNX Runtime from logging, while a provider is loaded, what `_demand` then tells in an error."""
    import onnxruntime

    if device == "cpu":
        yield
        return
    with _PROCESS_WIDE:
        onnxruntime.set_default_logger_severity(4)
        try:
            yield
        finally:
            onnxruntime.set_default_logger_severity(2)  # its default: there is no way to read what it was


def _demand(session: Any, device: str) -> None:
    # onnxruntime-gpu lists CUDA as available without its libraries: only the session knows.
    if device != "cpu" and "CUDAExecutionProvider" not in session.get_providers():
        raise DeviceError(
            f"device {device!r} asked for, but ONNX Runtime could only use {', '.join(session.get_providers())}: "
            "it needs an NVIDIA driver, and the CUDA and cuDNN libraries onnxruntime-gpu was built for"
        )


def unwanted(device: str) -> list[str]:
    """Rewritings of a graph that make it slower: an addition fused with the normalisation after it, which on the CPU
    takes up to 5.6 times as long as a node for each (`benchmarks/bench_norms.py`).
    """
    return ["SkipLayerNormFusion"] if device == "cpu" else []


def _providers(device: str) -> list[Any]:
    if device == "cpu":
        return ["CPUExecutionProvider"]
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    if match is None:
        raise DeviceError(f"unknown device {device!r}: expected 'cpu', 'cuda' or 'cuda:N'")
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        raise DeviceError(
            f"device {device!r} asked for, but this onnxruntime has only "
            f"{onnxruntime.get_available_providers()}: install onnxruntime-gpu"
        )
    # It prints what it does not find; `_demand` tells.
    with _PROCESS_WIDE, contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
    settings = {
        "device_id": int(match[1] or 0),
        "arena_extend_strategy": "kSameAsRequested",
        # By default float32 products lose 13 of 23 bits on Ampere and later: that is not what was proven equal.
        "use_tf32": "0",
    }
    return [("CUDAExecutionProvider", settings), "CPUExecutionProvider"]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
