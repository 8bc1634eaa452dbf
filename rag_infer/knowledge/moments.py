"""What is known of all vectors of texts, and of all of images: their mean and how far they spread, at a revision."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rag_infer.errors import CorruptIndexError
from rag_infer.knowledge.checksums import digest_of

TEXT, IMAGE = "text", "image"

ROWS_AT_ONCE = 16_384


@dataclass(frozen=True)
class Moments:
    """Of the vectors of one modality.

    Attributes:
        revision: of the knowledge base, when they were counted.
        count: how many.
        mean: float64 ``[dim]``; zeros where there are none.
        spread: the standard deviation of a component: sqrt((E|x|^2 - |mean|^2) / dim); 1.0 where it would be 0.
    """

    revision: int
    count: int
    mean: NDArray[np.float64]
    spread: float

    @classmethod
    def of(cls, vectors: Iterator[NDArray[np.float32]], dim: int, *, revision: int) -> Moments:
        """Of vectors, float32 ``[rows, dim]``, some at a time."""
        count, total, squares = 0, np.zeros(dim), 0.0
        for part in vectors:
            wide = part.astype(np.float64)
            count += len(wide)
            total += wide.sum(axis=0)
            squares += float(np.einsum("ij,ij->", wide, wide))
        if not count or not dim:
            return cls(revision, count, total, 1.0)
        mean = total / count
        variance = max(squares / count - float(mean @ mean), 0.0) / dim
        return cls(revision, count, mean, variance**0.5 if variance > 1e-12 else 1.0)


def write_moments(connection: sqlite3.Connection, moments: Mapping[str, Moments]) -> None:
    """Replace what the record has."""
    connection.execute("DELETE FROM moments")
    for name, known in moments.items():
        mean, spread = known.mean.astype("<f8").tobytes(), np.float64(known.spread).tobytes()
        values = (name, known.revision, known.count, mean, spread)
        connection.execute("INSERT INTO moments VALUES (?, ?, ?, ?, ?, ?)", (*values, digest_of(values)))


def read_moments(connection: sqlite3.Connection) -> dict[str, Moments]:
    """What the record has, by modality; empty where nothing was counted yet.

    Raises:
        CorruptIndexError: it is not as it was written.
    """
    found = {}
    query = "SELECT modality, revision, count, mean, spread, checksum FROM moments"
    for *values, checksum in connection.execute(query):
        name, revision, count, mean, spread = values
        if digest_of(values) != checksum:
            raise CorruptIndexError(
                f"what the record says of all vectors of modality {name!r} is not as it was written: "
                "'rag-infer index build' counts again"
            )
        spread = float(np.frombuffer(spread, dtype="<f8")[0])
        found[name] = Moments(revision, count, np.frombuffer(mean, dtype="<f8").copy(), spread)
    return found
