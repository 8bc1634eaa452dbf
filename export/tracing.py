"""Running transformers and the exporters without what they print."""

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
