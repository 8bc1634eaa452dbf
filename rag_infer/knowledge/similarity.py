"""Vectors as they are stored: for cosine of length 1, so that the inner product serves both similarities."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# The product of two vectors up to this length is far from what float32 cannot hold.
LONGEST_VECTOR = 1e18


def as_stored(vectors: NDArray[np.float32], similarity: str) -> NDArray[np.float32]:
    """Vectors as a knowledge base of this similarity stores and searches them.

    Args:
        vectors: float32 ``[rows, dim]``, finite.
        similarity: "dot" or "cosine".

    Raises:
        ValueError: a zero vector under cosine, which has no direction; under dot one whose scores may overflow.
    """
    if similarity != "cosine":
        largest = float(np.abs(vectors).max(initial=0))
        if largest * vectors.shape[1] ** 0.5 > LONGEST_VECTOR:
            raise ValueError(
                f"a value of {largest:.3g} in vectors of {vectors.shape[1]}: "
                f"those longer than {LONGEST_VECTOR:g} have no score"
            )
        return np.ascontiguousarray(vectors)
    zero = np.flatnonzero(~vectors.any(axis=1))
    if zero.size:
        raise ValueError(f"row {zero[0]} is a zero vector, which has no cosine ({zero.size} such rows)")
    return normalised(vectors)


def parts_as_stored(vectors: NDArray[np.float32], text_dim: int) -> NDArray[np.float32]:
    """Vectors of texts and images side by side, each of length 1, or zeros.

    Args:
        vectors: float32 ``[rows, dim]``, finite.
        text_dim: how many values are the text's.
    """
    made = np.zeros_like(vectors)
    for part in (slice(0, text_dim), slice(text_dim, None)):
        there = vectors[:, part].any(axis=1)
        if there.any():
            made[there, part] = normalised(vectors[there, part])
    return made


def normalised(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Vectors of length 1.

    >>> normalised(np.array([[3, 4]], dtype=np.float32)).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    # In float64: the squares of large float32 values overflow.
    wide = vectors.astype(np.float64)
    unit: NDArray[np.float32] = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return unit
