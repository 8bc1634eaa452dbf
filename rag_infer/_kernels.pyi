"""Signatures of the compiled module, which has the documentation; a test compares the two."""

import numpy
import numpy.typing

def topk(
    vectors: numpy.typing.NDArray[numpy.float32],
    queries: numpy.typing.NDArray[numpy.float32],
    k: int,
    *,
    mask: numpy.typing.NDArray[numpy.bool] | None = None,
    threads: int = 1,
) -> tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.int64]]: ...
def quantise_rows(
    vectors: numpy.typing.NDArray[numpy.float32], *, threads: int = 1
) -> tuple[
    numpy.typing.NDArray[numpy.int8],
    numpy.typing.NDArray[numpy.float32],
    numpy.typing.NDArray[numpy.float32],
    numpy.typing.NDArray[numpy.float32],
]: ...
def topk_int8(
    codes: numpy.typing.NDArray[numpy.int8],
    scales: numpy.typing.NDArray[numpy.float32],
    errors: numpy.typing.NDArray[numpy.float32],
    norms: numpy.typing.NDArray[numpy.float32],
    vectors: numpy.typing.NDArray[numpy.float32],
    queries: numpy.typing.NDArray[numpy.float32],
    k: int,
    *,
    mask: numpy.typing.NDArray[numpy.bool] | None = None,
    threads: int = 1,
) -> tuple[
    numpy.typing.NDArray[numpy.float32],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
]: ...
def halve_rows(
    vectors: numpy.typing.NDArray[numpy.float32], *, threads: int = 1
) -> tuple[
    numpy.typing.NDArray[numpy.uint16],
    numpy.typing.NDArray[numpy.float32],
    numpy.typing.NDArray[numpy.float32],
    numpy.typing.NDArray[numpy.float32],
]: ...
def topk_float16(
    codes: numpy.typing.NDArray[numpy.uint16],
    scales: numpy.typing.NDArray[numpy.float32],
    errors: numpy.typing.NDArray[numpy.float32],
    norms: numpy.typing.NDArray[numpy.float32],
    vectors: numpy.typing.NDArray[numpy.float32],
    queries: numpy.typing.NDArray[numpy.float32],
    k: int,
    *,
    mask: numpy.typing.NDArray[numpy.bool] | None = None,
    threads: int = 1,
) -> tuple[
    numpy.typing.NDArray[numpy.float32],
    numpy.typing.NDArray[numpy.int64],
    numpy.typing.NDArray[numpy.int64],
]: ...
def rescore(
    vectors: numpy.typing.NDArray[numpy.float32],
    rows: numpy.typing.NDArray[numpy.int64],
    queries: numpy.typing.NDArray[numpy.float32],
    *,
    threads: int = 1,
) -> numpy.typing.NDArray[numpy.float32]: ...
def marginalise_topk(
    logits: numpy.typing.NDArray[numpy.float32],
    log_priors: numpy.typing.NDArray[numpy.float32],
    k: int,
    *,
    threads: int = 1,
) -> tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.int64]]: ...
def marginalise_log_probs(
    logits: numpy.typing.NDArray[numpy.float32],
    log_priors: numpy.typing.NDArray[numpy.float32],
    *,
    threads: int = 1,
) -> numpy.typing.NDArray[numpy.float32]: ...
def marginalise_gather(
    logits: numpy.typing.NDArray[numpy.float32],
    log_priors: numpy.typing.NDArray[numpy.float32],
    tokens: numpy.typing.NDArray[numpy.int64],
    *,
    threads: int = 1,
) -> tuple[numpy.typing.NDArray[numpy.float32], numpy.typing.NDArray[numpy.float32]]: ...
def instruction_level() -> str: ...
def available_levels() -> tuple[str, ...]: ...
def has_vnni() -> bool: ...
def set_instruction_level(name: str) -> None: ...
