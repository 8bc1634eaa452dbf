"""Tracing modules to graphs, and running transformers and the exporters without what they print."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence

import onnx
import torch

OPSET = 17


def trace(
    module: torch.nn.Module,
    inputs: Sequence[torch.Tensor],
    input_names: Sequence[str],
    output_names: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    *,
    values: bool = False,
) -> onnx.ModelProto:
    """A module's graph, its weights names without a value (so that they are written once, straight to their file).

    Args:
        module: in evaluation mode.
        inputs: examples, of sizes that differ from one another and from 1, so that none is taken for constant.
        input_names, output_names: in order.
        axes: by input or output the dimensions that are not the same in every run, and their names. A name that ends
            in "{layer}" stands for one of each layer.
        values: keep the weights in the graph, for modules that use them otherwise than they hold them: a plain linear
            layer's matrix is transposed once, here, and has no name of its own.
    """

    def dynamic(name: str) -> dict[int, str]:
        stem, _, number = name.rpartition("_")
        return dict(axes[stem + "_{layer}" if number.isdigit() else name])

    buffer = io.BytesIO()
    with quiet_exporter(), torch.no_grad():
        torch.onnx.export(
            module,
            tuple(inputs),
            buffer,  # type: ignore[arg-type]  # documented for this exporter, but not in its types
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_axes={name: dynamic(name) for name in (*input_names, *output_names)},
            opset_version=OPSET,
            export_params=values,
            dynamo=False,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    kept = [i for i in graph.graph.input if i.name in input_names]
    del graph.graph.input[:]
    graph.graph.input.extend(kept)
    return graph


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence, inside the block, what is known and of no consequence.

    - DeprecationWarning: the TorchScript exporter is asked for on purpose (the dynamo one cannot write the
      operators of `rag_infer.export.operators`, and optimum uses this one too).
    - TracerWarning: transformers' mask code branches on shapes; the branches taken hold for every length, which
      the parity check shows on other shapes than the traced ones.
    - UserWarning of the exporter: operators of ONNX Runtime have no shape inference in PyTorch.
    - onnxruntime.transformers logs every fusion it tries, its quantiser (on the root logger) every operator whose
      types it does not know.
    """
    names = (None, "onnxruntime", "onnxruntime.transformers", "fusion_base", "torch.onnx")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' warnings and progress bars inside the block; errors are raised, not logged."""
    from transformers.utils import logging as transformers_logging

    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        transformers_logging.enable_progress_bar()
