"""What a build and the process that drives Ray for it say to each other, over the pipes between them."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from rag_infer.bundle import Bundle
from rag_infer.errors import RagInferError

# The end of every error after which the same command may be given again.
KEPT = "what was committed is kept, and the same again goes on from there"


@dataclass(frozen=True)
class Connect:
    """To the driver, first of all: the cluster, and the bundle whose passage encoder is shipped there."""

    address: str
    bundle: Bundle
    threads: int


@dataclass(frozen=True)
class Begin:
    """To the driver: so many workers, for up to so many batches."""

    workers: int
    batches: int


@dataclass(frozen=True)
class Supply:
    """To the driver: the next batch, the texts of each call of the encoder."""

    number: int
    calls: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Listen:
    """To the driver: answer with `Asked` when workers have asked for a batch above this number."""

    beyond: int


@dataclass(frozen=True)
class Forget:
    """To the driver: this batch is committed."""

    number: int


@dataclass(frozen=True)
class End:
    """To the driver: there are no more than so many batches."""

    batches: int


@dataclass(frozen=True)
class Connected:
    """From the driver: the cluster has room for so many workers."""

    room: int


@dataclass(frozen=True)
class Asked:
    """From the driver: the highest number that a worker has asked for."""

    highest: int


@dataclass(frozen=True)
class Encoded:
    """From the driver: the vectors of a batch, float32 ``[texts, dim]``, and the worker that made them (host:pid)."""

    number: int
    vectors: NDArray[np.float32]
    worker: str


@dataclass(frozen=True)
class Failed:
    """From the driver: what it ends with."""

    error: RagInferError


def send(stream: BinaryIO, message: object) -> None:
    """Write a message.

    Raises:
        OSError: nobody reads it.
    """
    pickle.dump(message, stream, protocol=pickle.HIGHEST_PROTOCOL)
    stream.flush()


def receive(stream: BinaryIO) -> object:
    """Wait for the next message. It comes from a process that this one has started, or was started by.

    Raises:
        EOFError: there will be none, for its writer has ended or closed the stream.
    """
    try:
        return pickle.load(stream)
    except pickle.UnpicklingError as error:
        raise EOFError(str(error)) from None
