"""Running the exporters without what they print."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence, inside the block, what is known and of no consequence.

    - DeprecationWarning: the TorchScript exporter is asked for on purpose (the dynamo one cannot write the
      operators of `rag_infer.export.operators`, and optimum uses this one too).
    - TracerWarning: transformers' mask code branches on shapes; the branches taken hold for every length, which
      the parity check shows on other shapes than the traced ones.
    - UserWarning of the exporter: operators of ONNX Runtime have no shape inference in PyTorch.
    - onnxruntime.transformers logs every fusion it tries.
    """
    loggers = [logging.getLogger(n) for n in ("onnxruntime", "onnxruntime.transformers", "fusion_base", "torch.onnx")]
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
